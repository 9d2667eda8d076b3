"""Shared parts of the commands that attack models: from names on the command line to images, models and rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from ibrobust.atomic import write_json
from ibrobust.card_results import results_in
from ibrobust.cli.flags import in_flags
from ibrobust.cli.matching import CIFAR10_SIZE, models_for, trained_on, training_note
from ibrobust.cli.request import NO_SURROGATE, check_models, chosen_decoders
from ibrobust.data import Dataset, Split, load_dataset
from ibrobust.data.names import attacked_split, with_option
from ibrobust.devices import check_device, default_device
from ibrobust.epsilon import check_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.adversarial_images import save_adversarial_images
from ibrobust.evaluation.attacks.attack import Attack
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.over_attacks import agree_without_attack, worst_case
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.surrogate import SurrogateAttack
from ibrobust.evaluation.audit import AuditReport, audit
from ibrobust.evaluation.sweep import SweepResult, fgsm_sweep
from ibrobust.integrations.external_models import load_reference
from ibrobust.integrations.references import is_reference
from ibrobust.models import HEAD, ImageClassifier, resized
from ibrobust.registry import add_evaluation, load_model, model_card, shipped_models
from ibrobust.registry.catalog import in_its_channels, require_fit, require_shape
from ibrobust.reporting.attack_lines import AttackedModel, Known
from ibrobust.reporting.model_rows import card_verdict, readable_evaluations
from ibrobust.verdicts import Audited

# Without a model: that of the shipped models. For models of other packages: the published images.
WITHOUT_MODELS, FOR_REFERENCES = "cifar10-jpeg", "cifar10"
NO_WORST_CASE = (
    "no worst case over the attacks, since they do not agree on which images are correct without an attack: the model "
    "draws random numbers, or its logits depend on the batch"
)


@dataclass(frozen=True)
class Target:
    """A model to attack.

    Attributes:
        name: in the registry, or as the user gave it.
        decoder: of a registered model; a dash for a model from elsewhere.
        load: makes the model on a device.
        known: of the model besides.
        trained_on: the training images of a registered model, if they differ from the attacked ones.
        resize: the pixels of each side that the images are scaled to inside the model, if they are.
        is_default: whether nobody named the model: it is skipped if it cannot be loaded.
    """

    name: str
    decoder: str
    load: Callable[[str], nn.Module]
    known: Known
    trained_on: str | None = None
    resize: int | None = None
    is_default: bool = False


def check_run(*, attacks: Sequence[str] = (), epsilons: Sequence[float] = (), device: str | None = None) -> set[str]:
    """Return the norms of the attacks.

    Raises:
        IbrobustError: an attack, an epsilon or a device cannot be used. No data is read before.
    """
    chosen = [read_attack(attack) for attack in attacks]
    check_models(
        [
            attack.surrogate
            for attack in chosen
            if isinstance(attack, SurrogateAttack) and isinstance(attack.surrogate, str)
        ]
    )
    norms = {attack.norm for attack in chosen}
    for norm in norms:
        for epsilon in epsilons:
            check_epsilon(epsilon, norm=norm)
    if device is not None:
        check_device(device)
    return norms


def choose_data(
    dataset: str | None, names: Sequence[str], *, split: str | None = None, data_dir: Path | None
) -> tuple[Dataset, str]:
    """Return the requested data set, by default the first stored model's training data, and its name or path.

    Grey images that are stored in three equal channels have one, if the first model takes one.

    Args:
        dataset: a ``--dataset`` value.
        names: of the models.
        split: to attack instead of the test images.
        data_dir: see `load_dataset`.
    """
    own = [name for name in names if not is_reference(name)]
    card = model_card(own[0]) if own else None
    if dataset is None:
        dataset = card.images if card else FOR_REFERENCES if names else WITHOUT_MODELS
    if split is not None:
        dataset = with_option(dataset, "test", split)
    data = read_data(dataset, data_dir=data_dir)
    return data if card is None else in_its_channels(card, data), dataset


def read_data(dataset: str, *, data_dir: Path | None) -> Dataset:
    """Return a data set, with a progress bar on stderr while it is downloaded or decoded."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        return load_dataset(
            dataset,
            data_dir=data_dir,
            progress=partial(_show, bar, bar.add_task(escape(f"reading {dataset}"), total=None)),
        )


def choose_models(
    names: Sequence[str],
    decoders: Sequence[str],
    data: Dataset,
    spec: str,
    *,
    resize: int | None = None,
    as_surrogates: bool = False,
) -> list[Target]:
    """Return every model and decoder to attack: the named ones, by default all for the data set, see `models_for`.

    With `resize`, each scales the images to so many pixels a side before its first layer. `as_surrogates` says that the
    models are not the attacked ones, so that an error has another remedy.

    Raises:
        IbrobustError: no model fits, a model has other classes than the data set, or a decoder is unknown.
    """
    chosen = list(dict.fromkeys(names)) or models_for(data)
    if not chosen:
        raise IbrobustError(
            f"No stored model was trained on {spec}: train one with ibrobust train --dataset {spec}, or name a model."
        )
    targets: list[Target] = []
    for name in chosen:
        shape = tuple(data.test.images.shape[1:]) if resize is None else (data.test.images.shape[1], resize, resize)
        if is_reference(name):
            targets.append(_reference(name, shape, data.num_classes))
        else:
            targets += _registered(name, decoders, data, spec, resize, as_surrogates)
    targets = [replace(target, is_default=not names) for target in targets]
    return targets if resize is None else [_resized(target, resize) for target in targets]


def _resized(target: Target, size: int) -> Target:
    # A verdict of the same model without the scaling is not one of this model.
    known = Known(is_baseline=target.known.is_baseline)
    return replace(target, load=lambda device: resized(target.load(device), size), known=known, resize=size)


def _reference(name: str, shape: tuple[int, ...], num_classes: int) -> Target:
    channels, height, width = shape

    def load(device: str) -> nn.Module:
        return load_reference(
            name, device=device, channels=channels, image_size=(height, width), num_classes=num_classes
        )

    return Target(name, "-", load, Known())


def _registered(
    name: str, decoders: Sequence[str], data: Dataset, spec: str, resize: int | None, as_surrogate: bool
) -> list[Target]:
    card = model_card(name)
    require_fit(card, data, size=resize, is_surrogate=as_surrogate)
    targets = []
    with readable_evaluations(card):
        # A verdict is about one epsilon and one data set: the table must not lend it to others.
        audits = tuple(
            Audited(decoder, float(audit["epsilon"]), card_verdict(audit))
            for decoder in card.decoders
            for audit in results_in(card.evaluations, "audit", decoder)
            if audit.get("dataset_fingerprint") == data.fingerprint
        )
    for decoder in chosen_decoders(card, decoders):
        own = [audit for audit in audits if audit.decoder == decoder]
        widest = max(own, key=lambda audit: audit.epsilon or 0.0, default=None)
        load = partial(
            _load_registered, name, decoder, tuple(data.test.images.shape[1:]), data.source or spec, as_surrogate
        )
        is_baseline = decoder == HEAD and card.recipe is not None and card.recipe.objective == "cross_entropy"
        targets.append(Target(name, decoder, load, Known(widest, audits, is_baseline), trained_on(card, data)))
    return targets


def _load_registered(
    name: str, decoder: str, shape: tuple[int, ...], spec: str, is_surrogate: bool, device: str
) -> nn.Module:
    model = load_model(name, decoder=decoder, device=device)
    # A card of ibrobust's own model does not say the channels, and a single one would be repeated silently.
    if isinstance(model, ImageClassifier):
        require_shape(name, (model.encoder.mean.shape[1], *shape[1:]), shape, spec, is_surrogate=is_surrogate)
    return model


def attack_models(
    targets: Sequence[Target],
    test: Split,
    *,
    epsilons: Sequence[float],
    batch_size: int,
    device: str | None,
    console: Console,
    attacks: Sequence[Attack | str] = (),
    seed: int = 0,
    state: Path | None = None,
    images_file: Path | None = None,
    class_names: Sequence[str] = (),
) -> list[AttackedModel]:
    """Return each target with the results of every attack, or without attacks with its FGSM sweep; show a progress bar.

    With `images_file`, the adversarial images of the single target, attack and epsilon are written to that file, with
    the class names.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    attacked = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for target in targets:
            title = f"{target.name} ({target.decoder})"
            try:
                model = target.load(device or default_device())
            except IbrobustError as error:
                if not target.is_default:
                    raise
                console.print(f"{title} was skipped: {error}", style="yellow", markup=False)
                continue
            show = partial(_show, bar, bar.add_task(escape(title), total=None))
            if not attacks:
                sweep = fgsm_sweep(model, test.images, test.labels, epsilons, batch_size=batch_size, progress=show)
                attacked.append(_attacked(target, [sweep]))
                continue
            file = f"{target.name}-{target.decoder}{f'-resized{target.resize}' if target.resize else ''}.jsonl".replace(
                ":", "_"
            ).replace("/", "_")
            results = run_attacks(
                model,
                test.images,
                test.labels,
                attacks=attacks,
                epsilons=epsilons,
                batch_size=batch_size,
                seed=seed,
                state_path=state / file if state else None,
                progress=show,
                on_images=(lambda *batch: kept.append(tuple(part.cpu() for part in batch))) if images_file else None,
            )
            if images_file:
                clean, adversarial = (torch.cat(parts) for parts in zip(*kept, strict=True))
                save_adversarial_images(
                    images_file,
                    clean,
                    adversarial,
                    test.labels,
                    record=results[0],
                    model=target.name,
                    decoder=target.decoder,
                    resize=target.resize,
                    class_names=class_names,
                )
            worst: list[AttackResult] = []
            for norm in dict.fromkeys(result.norm for result in results):
                of_norm = [result for result in results if result.norm == norm]
                if len({result.attack for result in of_norm}) < 2:
                    continue
                if agree_without_attack(of_norm):
                    worst += worst_case(of_norm)
                else:
                    console.print(f"{title}: {NO_WORST_CASE}", style="yellow", markup=False)
            attacked.append(_attacked(target, results, worst))
    if not attacked:
        raise IbrobustError("No model could be loaded: name one.")
    return attacked


def _attacked(
    target: Target, results: Sequence[SweepResult | AttackResult], worst: Sequence[AttackResult] = ()
) -> AttackedModel:
    return AttackedModel(target.name, target.decoder, tuple(results), tuple(worst), target.known)


def with_surrogates(attacks: Sequence[str], data: Dataset, *, device: str | None) -> list[Attack]:
    """Return the attacks, with the models that their surrogates name."""
    chosen = [read_attack(attack) for attack in attacks]
    for place, attack in enumerate(chosen):
        if isinstance(attack, SurrogateAttack) and isinstance(attack.surrogate, str):
            target = choose_models([attack.surrogate], [], data, data.name, as_surrogates=True)[0]
            chosen[place] = attack.with_surrogate(target.load(device or default_device()))
    return chosen


def choose_surrogate(name: str | None, model: str, data: Dataset) -> Target | None:
    """Return the surrogate model: the named one, by default the first other cross-entropy model that ships.

    It has the data set's classes and image size. The user's own models are never chosen, since a verdict may depend on
    the surrogate. None if `name` is "none", or if no such model ships.
    """
    if name == NO_SURROGATE:
        return None
    if name is not None:
        return choose_models([name], [], data, data.name, as_surrogates=True)[0]
    if tuple(data.test.images.shape[1:]) != (3, *CIFAR10_SIZE):  # the images of all shipped models
        return None
    for candidate in shipped_models():
        card = model_card(candidate)
        if (
            candidate != model
            and card.recipe is not None
            and card.recipe.objective == "cross_entropy"
            and card.dataset.class_names == data.class_names
        ):
            return choose_models([candidate], [HEAD], data, data.name)[0]
    return None


def run_audit(
    target: Target,
    test: Split,
    *,
    epsilon: float,
    quick: bool,
    claim: float | None,
    surrogate: Target | None,
    batch_size: int,
    seed: int,
    device: str | None,
    console: Console,
    attacks: Sequence[Attack] = (),
) -> AuditReport:
    """Return the audit of a target; show a progress bar."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        title = escape(f"{target.name} ({target.decoder})")
        task = bar.add_task(title, total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{title}: {escape(stage)}", completed=done, total=total)

        return audit(
            target.load(device or default_device()),
            test.images,
            test.labels,
            epsilon=epsilon,
            quick=quick,
            claim=claim,
            surrogate=surrogate.load(device or default_device()) if surrogate else None,
            surrogate_name=surrogate.name if surrogate else None,
            attacks=attacks,
            batch_size=batch_size,
            seed=seed,
            progress=show,
        )


def write_results(path: Path, data: Dataset, resize: int | None, **results: Any) -> None:
    """Write one JSON object to `path`: the data set, whose images were perhaps scaled inside the model, and results."""
    split = attacked_split(data.source)
    chosen = {} if split is None else {"split": split}  # instead of the test images
    scaled = {} if resize is None else {"resized_to": resize}  # inside the model, pixels a side
    images = {"name": data.name, "fingerprint": data.fingerprint, **chosen, **scaled}
    write_json(path, {"dataset": images, **results})


def write_attacked(path: Path, models: Sequence[AttackedModel], data: Dataset, resize: int | None) -> None:
    """Write a list of sweeps or of attacks with their results per image."""
    found: dict[str, list[dict[str, Any]]] = {}
    for model in models:
        for result in (*model.results, *model.worst):
            kind = "attacks" if isinstance(result, AttackResult) else "sweeps"
            found.setdefault(kind, []).append({"model": model.model, "decoder": model.decoder, **result.to_dict()})
    write_results(path, data, resize, **found)


NOT_STORED = "Note: The images were scaled inside the model, so this result is not put into its card."


def caption_note(targets: Sequence[Target]) -> str:
    """Return a caption's note: the size that images are scaled to inside the models, and their training images."""
    scaled = [f"scaled to {target.resize}x{target.resize} inside the model" for target in targets if target.resize]
    trained = training_note([(target.name, target.trained_on) for target in targets])
    return "; ".join(filter(None, [*scaled[:1], trained]))


def store_audit(target: Target, report: AuditReport, data: Dataset) -> str | None:
    """Store a report in the model's card; return a note if the model has no card that can be changed."""
    return _store(target.name, target.decoder, "audit", report.to_dict(), data)


def store_attacked(attacked: AttackedModel, data: Dataset) -> str | None:
    """Store accuracies under attack in the model's card; return a note if it has no card that can be changed."""
    note = None
    # Results per image would make a card too long; --json writes them.
    summaries = [
        result.summary() for result in (*attacked.results, *attacked.worst) if isinstance(result, AttackResult)
    ]
    if summaries:
        note = _store(attacked.model, attacked.decoder, "attacks", {"results": summaries}, data)
    for result in attacked.results:
        if isinstance(result, SweepResult):
            note = _store(attacked.model, attacked.decoder, "fgsm", result.to_dict(), data)
    return note


def _store(model: str, decoder: str, key: str, record: dict[str, Any], data: Dataset) -> str | None:
    if is_reference(model):
        return None
    try:
        add_evaluation(model, key, decoder, record, data)
    except IbrobustError as error:  # the card of a shipped model is not changed; the result is still shown
        return f"Note: {in_flags(str(error))}"
    return None


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)
