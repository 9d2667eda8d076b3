"""`ibrobust demo`: train and attack two small models, offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ibrobust.epsilon import format_epsilon

# From where the first images fall to where FGSM leaves few.
EPSILONS = tuple(n / 255 for n in (1, 2, 4, 8))
# The last: what FGSM leaves there is audited, on some of the images.
CLAIM = EPSILONS[-1]
IMAGES = 100
SHARED = {
    "dataset": "digits",
    "width": 8,
    "latent_dim": 64,
    "batch_size": 100,
    "augment": "crop",
    "schedule": "one_cycle",
    "learning_rate": 3e-3,
    "epochs": 15,
}
# Those of the models that ship as knn_ib-digits and cross_entropy-digits.
RECIPES: dict[str, dict[str, Any]] = {
    "knn_ib": {**SHARED, "objective": "knn_ib", "memory_size": 1000},
    "cross_entropy": {**SHARED, "objective": "cross_entropy"},
}


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the figure.")] = Path("ibrobust-demo"),
) -> None:
    """Train two small models on handwritten digits, attack and audit both, explain the result, save a figure.

    Needs no internet connection and takes about 2 minutes on two cores. The models are stored in the registry as
    demo-knn_ib and demo-cross_entropy, and replace those of an earlier demo.
    """
    from ibrobust.atomic import require_writable

    figure = output / "fgsm.png"
    require_writable(figure)  # before training, so that a folder that cannot be written is reported now

    from rich.console import Console

    from ibrobust import registry
    from ibrobust.cli.attacking import attack_models, choose_models, run_audit, store_audit
    from ibrobust.cli.printing import print_table
    from ibrobust.data import load_dataset
    from ibrobust.home import models_dir
    from ibrobust.reporting.attack_lines import attack_lines
    from ibrobust.reporting.attack_table import attack_table
    from ibrobust.reporting.figures.under_attack import save_attack_figure
    from ibrobust.reporting.tables import accuracy_table, audit_title
    from ibrobust.training.recipe import Recipe
    from ibrobust.verdicts import Audited, Verdict

    console = Console()
    errors = Console(stderr=True)
    recipes = {f"demo-{name}": Recipe.parse(fields) for name, fields in RECIPES.items()}
    for name, recipe in recipes.items():
        print_table(accuracy_table(registry.train(recipe, name=name, overwrite=True, progress=True)))
    data = load_dataset("digits")
    targets = choose_models(list(recipes), [], data, "digits")
    swept = attack_models(targets, data.test, epsilons=EPSILONS, batch_size=250, device=None, console=errors)
    reports = [
        run_audit(
            target,
            data.test.subset(IMAGES),
            epsilon=CLAIM,
            quick=True,
            claim=None,
            # The model that was trained as usual is the surrogate of the other.
            surrogate=targets[-1] if target is not targets[-1] else None,
            batch_size=IMAGES,
            seed=0,
            device=None,
            console=errors,
        )
        for target in targets
    ]
    # The table shows the answers, and marks no model as the best whose robustness is not real.
    lines = []
    for model, report in zip(swept, reports, strict=True):
        audited = Audited(model.decoder, CLAIM, Verdict(report.robustness, report.gradient))
        known = replace(model.known, audited=audited, audits=(audited,))
        lines += attack_lines(replace(model, known=known))
    try:
        save_attack_figure(lines, figure, dataset="digits")
    finally:
        print_table(attack_table(lines, dataset="digits"))
    left = []
    for target, report in zip(targets, reports, strict=True):
        store_audit(target, report, data)  # for the table of the next command
        title = audit_title(report, model=target.name, decoder=target.decoder)
        console.print(title.append(f", on {report.n} of the {len(data.test)} images"), soft_wrap=True)
        console.print()
        left.append([report.fgsm_accuracy, report.worst_case_accuracy])
    console.print(meaning(*left), markup=False, highlight=False, soft_wrap=True)
    next_steps = (
        f"Figure: {figure.absolute()}",
        f"Models: {models_dir()}",
        "Next:  ibrobust attack demo-knn_ib --eps 0.01,0.03     with epsilons of your own",
        "       ibrobust audit demo-knn_ib --eps 8/255 --quick   is the robustness real?",
        "       ibrobust train --preset knn_w16                  on CIFAR-10",
    )
    for step in next_steps:
        console.print(step, markup=False, highlight=False, soft_wrap=True)


def meaning(bottleneck: Sequence[float], baseline: Sequence[float]) -> str:
    """Return in two sentences what two models' accuracies in [0, 1], under FGSM and in the worst case, mean."""
    seen = (
        f"At epsilon {format_epsilon(CLAIM)} FGSM leaves {bottleneck[0]:.0%} of these images to the bottleneck model "
        f"and {baseline[0]:.0%} to cross-entropy, and the worst case over the audit's attacks leaves "
        f"{bottleneck[1]:.0%} and {baseline[1]:.0%}."
    )
    if 2 * bottleneck[1] <= bottleneck[0]:
        return (
            seen + " So most of the accuracy under FGSM is not robustness: attacks with more steps break these images."
        )
    return seen + " So much of the accuracy under FGSM remains under all attacks of a quick audit."
