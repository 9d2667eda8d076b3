"""All evaluations of one trained cell, as rows of its records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ibrobust.atomic import write_text
from ibrobust.data import Dataset, Split, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.attacks.worst_case import worst_case
from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.model_state import model_device
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.models import ImageClassifier
from ibrobust.registry import ModelCard, add_evaluation, load_model, model_card
from ibrobust.registry.scoring import clean_accuracy
from ibrobust.study.cells import Cell
from ibrobust.study.information_plane import information_plane, snapshot_path
from ibrobust.study.spec import Attacks, Audit, Evaluations, InformationPlane, Sweep

Row = dict[str, Any]
Stage = Callable[[str], None]
BATCH = 250


def kept_folder(folder: Path) -> Path:
    """Return the folder of a cell's rows until they are complete."""
    return folder / "measured"


def measure(
    evaluations: Evaluations,
    cell: Cell,
    card: ModelCard,
    folder: Path,
    *,
    device: str,
    data_dir: Path | None,
    stage: Stage,
) -> list[Row]:
    """Return the rows of one cell, without the columns that are equal in all its rows.

    Completed evaluations of an earlier call are reused, and interrupted attacks resume at their last batch.

    Args:
        evaluations: the measurements.
        cell: the cell.
        card: of its model.
        folder: of the cell, for finished rows and snapshots.
        device: where the model runs.
        data_dir: see `load_dataset`.
        stage: called with a few words when a step begins, and with its progress after a comma.

    Raises:
        IbrobustError: the images differ from the model's training data, the model has none of an evaluation's decoders,
            or an evaluation raises it.
    """
    stage(f"reading {cell.recipe.dataset}")
    dataset = load_dataset(cell.recipe.dataset, data_dir=data_dir, progress=False)
    if dataset.fingerprint != card.dataset.fingerprint:
        raise IbrobustError(
            f"The images of {cell.recipe.dataset!r} are not those that {card.name!r} was trained on: restore them, or "
            "remove the model."
        )
    loaded = {name: load_model(cell.model, decoder=name, device=device) for name in card.decoders}
    models = {name: model for name, model in loaded.items() if isinstance(model, ImageClassifier)}  # as cells are

    def once(what: str, rows: Iterator[Row]) -> list[Row]:
        # The rows come from a generator, which is not run if they exist already.
        path = kept_folder(folder) / f"{what.replace(' ', '-')}.json"
        if not path.is_file():
            stage(what)
            write_text(path, json.dumps(list(rows)))
        kept: list[Row] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    rows = list(_of_the_card(card))
    if evaluations.train_accuracy:
        rows += once("training images", _train_accuracy(models, dataset))
    if (sweep := evaluations.sweep) is not None:
        for name in _chosen(models, sweep.decoders, cell, "sweep"):
            what = f"FGSM sweep {name}"
            rows += once(what, _sweep(models[name], dataset.test, sweep, name, _share_of(what, stage)))
    if (attacks := evaluations.attacks) is not None:
        for name in _chosen(models, attacks.decoders, cell, "attacks"):
            what = f"attacks {name}"
            state = kept_folder(folder) / f"attacks-{name}.jsonl"
            share = _share_of(what, stage)
            rows += once(what, _attacks(models[name], dataset.test, attacks, name, cell.recipe.seed, state, share))
    if (wanted := evaluations.audit) is not None:
        for name in _chosen(models, wanted.decoders, cell, "audit"):
            rows += once(f"audit {name}", _audit(models[name], dataset, wanted, name, cell, card, stage))
    if (plane := evaluations.information_plane) is not None:
        for epoch in plane.epochs:
            snapshot = snapshot_path(folder, epoch)
            rows += once(f"information plane epoch {epoch}", _plane(cell, dataset, plane, snapshot, epoch, device))
    return rows


def _share_of(what: str, stage: Stage) -> Callable[[int, int], None]:
    return lambda done, total: stage(f"{what}, {done / total:.0%}")


def _chosen(models: dict[str, ImageClassifier], decoders: Sequence[str], cell: Cell, evaluation: str) -> list[str]:
    chosen = [name for name in models if not decoders or name in decoders]
    if not chosen:
        raise IbrobustError(
            f"The model of {cell.name!r} has none of the decoders of the evaluation {evaluation!r} "
            f"({', '.join(decoders)}): name one of {', '.join(models)}."
        )
    return chosen


def _of_the_card(card: ModelCard) -> Iterator[Row]:
    for decoder, record in card.clean_accuracy.items():
        yield {
            "decoder": decoder,
            "quantity": "test_accuracy",
            "value": record.accuracy,
            "num_images": record.total,
        }
    if card.training is not None:
        yield {"quantity": "final_loss", "value": card.training.final_terms["loss"]}
        yield {"quantity": "seconds_per_epoch", "value": card.training.seconds / card.training.epochs_run}


def _train_accuracy(models: dict[str, ImageClassifier], dataset: Dataset) -> Iterator[Row]:
    some = next(iter(models.values()))
    decoders = {name: model.decoder for name, model in models.items()}
    on_training = replace(dataset, test=dataset.train)
    for name, record in clean_accuracy(some.encoder, decoders, some.latent_dim, on_training).items():
        yield {
            "decoder": name,
            "quantity": "train_accuracy",
            "value": record.accuracy,
            "num_images": record.total,
        }


def _sweep(
    model: ImageClassifier, test: Split, sweep: Sweep, decoder: str, progress: Callable[[int, int], None]
) -> Iterator[Row]:
    chosen = test.subset(sweep.n_examples)
    result = fgsm_sweep(model, chosen.images, chosen.labels, sweep.eps, batch_size=BATCH, progress=progress)
    common = {"decoder": decoder, "num_images": result.total}
    yield {**common, "quantity": "clean_accuracy", "value": result.clean_accuracy}
    common["attack"] = "FGSM"
    yield {**common, "quantity": "zero_gradient_share", "value": result.zero_gradient_share}
    yield {**common, "quantity": "nonfinite_gradient_share", "value": result.nonfinite_gradient_share}
    for epsilon, accuracy in zip(result.epsilons, result.accuracy, strict=True):
        yield {**common, "epsilon": epsilon, "quantity": "accuracy", "value": accuracy}


def _attacks(
    model: ImageClassifier,
    test: Split,
    attacks: Attacks,
    decoder: str,
    seed: int,
    state: Path,
    progress: Callable[[int, int], None],
) -> Iterator[Row]:
    chosen = test.subset(attacks.n_examples)
    results = run_attacks(
        model,
        chosen.images,
        chosen.labels,
        attacks=attacks.attacks,
        epsilons=attacks.eps,
        batch_size=BATCH,
        seed=seed,
        state_path=state,
        progress=progress,
    )
    for result in results:
        common = {
            "decoder": decoder,
            "attack": result.attack,
            "epsilon": result.epsilon,
            "num_images": result.total,
        }
        yield {**common, "quantity": "accuracy", "value": result.accuracy_under_attack}
        yield {**common, "quantity": "robust_accuracy", "value": result.robust_accuracy}
    # A row does not say its norm, so only one norm can have a worst case.
    bounded = [result for result in results if result.norm == "Linf"]
    for result in worst_case(bounded) if bounded else ():
        yield {
            "decoder": decoder,
            "attack": "worst case",
            "epsilon": result.epsilon,
            "quantity": "worst_case_accuracy",
            "value": result.robust_accuracy,
            "num_images": result.total,
        }


def _audit(
    model: ImageClassifier, dataset: Dataset, wanted: Audit, decoder: str, cell: Cell, card: ModelCard, stage: Stage
) -> Iterator[Row]:
    chosen = dataset.test.subset(wanted.n_examples)
    surrogate = None
    if wanted.surrogate is not None and wanted.surrogate != cell.model:
        if model_card(wanted.surrogate).dataset.class_names != dataset.class_names:
            raise IbrobustError(
                f"The surrogate {wanted.surrogate!r} was trained on other classes than those of {dataset.name!r}: name "
                "another one in the study's audit."
            )
        surrogate = load_model(wanted.surrogate, device=model_device(model))
    report = audit(
        model,
        chosen.images,
        chosen.labels,
        epsilon=wanted.eps,
        quick=wanted.quick,
        surrogate=surrogate,
        surrogate_name=wanted.surrogate,
        batch_size=BATCH,
        seed=cell.recipe.seed,
        progress=lambda what, done, total: stage(f"audit {decoder}, {done} of {total}: {what}"),
    )
    # As after `ibrobust audit`, so that the list of models shows the verdict.
    add_evaluation(cell.model, "audit", decoder, report.to_dict(), dataset, weights=card.weights.sha256)
    yield {
        "decoder": decoder,
        "epsilon": wanted.eps,
        "quantity": "audit_worst_case_accuracy",
        "value": report.worst_case_accuracy,
        "num_images": report.n,
        "verdict": report.verdict,
    }


def _plane(
    cell: Cell, dataset: Dataset, plane: InformationPlane, snapshot: Path, epoch: int, device: str
) -> Iterator[Row]:
    for row in information_plane(cell.recipe, dataset, plane, snapshot, device=torch.device(device)):
        yield {**row, "epoch": epoch}
