"""`ibrobust demo`: train and attack two small models, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPSILONS = tuple(n / 255 for n in (2, 4, 8, 16))
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


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the figure.")] = Path("ibrobust-demo"),
) -> None:
    """Train two small models on handwritten digits, attack both, print the tables and save a figure.

    Needs no network and takes about 2 minutes on two cores. The models are stored in the registry as demo-knn_ib and
    demo-cross_entropy and replace those of an earlier demo.
    """
    from ibrobust.atomic import require_writable

    figure = output / "fgsm.png"
    require_writable(figure)  # before training, so that a folder that cannot be written is reported now

    from rich.console import Console

    from ibrobust import registry
    from ibrobust.cli.attacking import choose_models, sweep_rows
    from ibrobust.cli.printing import print_table
    from ibrobust.data import load_dataset
    from ibrobust.home import models_dir
    from ibrobust.reporting.figures.sweep import save_sweep_figure
    from ibrobust.reporting.tables import accuracy_table, sweep_table
    from ibrobust.training.progress import TrainingProgress
    from ibrobust.training.recipe import Recipe

    console = Console()
    errors = Console(stderr=True)
    recipes = {
        "demo-knn_ib": Recipe.parse(
            {**SHARED, "objective": "knn_ib", "beta": 0.03, "average_neighbors": True, "num_neighbors": 9}
        ),
        "demo-cross_entropy": Recipe.parse({**SHARED, "objective": "cross_entropy"}),
    }
    for name, recipe in recipes.items():
        with TrainingProgress(errors, name) as progress:
            card = registry.train(
                recipe, name=name, overwrite=True, on_progress=progress.update, on_stage=progress.stage
            )
        print_table(accuracy_table(card))
    data = load_dataset("digits")
    targets = choose_models(list(recipes), ["all"], data, "digits")
    rows = sweep_rows(targets, data.test, EPSILONS, batch_size=250, device=None, console=errors)
    try:
        save_sweep_figure(rows, figure, dataset="digits")
    finally:
        print_table(sweep_table(rows, dataset="digits"))
    lines = (
        f"Figure: {figure.absolute()}",
        f"Models: {models_dir()}",
        "Next, attack them yourself:  ibrobust attack demo-knn_ib --eps 0.01,0.03",
        "or train on CIFAR-10:        ibrobust train --beta 0.03",
        "or in Python:                ibrobust.load_model('demo-knn_ib')",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
