"""Everything that a study measures of one trained cell, as rows of its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ibrobust.data import Dataset, Split, load_dataset
from ibrobust.evaluation.attacks import run_attacks
from ibrobust.evaluation.audit import audit
from ibrobust.evaluation.predictions import correct_in_batches
from ibrobust.evaluation.sweep import fgsm_sweep
from ibrobust.evaluation.worst_case import worst_case
from ibrobust.models import ImageClassifier
from ibrobust.registry import ModelCard, load_model, model_card, update_metrics
from ibrobust.study.cells import Cell
from ibrobust.study.information_plane import information_plane
from ibrobust.study.spec import Evaluations

Row = dict[str, Any]
BATCH = 250


def measure(
    evaluations: Evaluations,
    cell: Cell,
    card: ModelCard,
    folder: Path,
    *,
    device: str,
    data_dir: Path | None,
    stage: Callable[[str], None],
) -> list[Row]:
    """Return the rows of one cell, but for what all its rows have in common.

    Args:
        evaluations: what to measure.
        cell: which.
        card: of its model.
        folder: of the cell, for attacks that are resumed and for snapshots.
        device: where the model runs.
        data_dir: see `load_dataset`.
        stage: called with a few words when something new begins.
    """
    dataset = load_dataset(cell.recipe.dataset, data_dir=data_dir)
    rows = list(_of_the_card(card))
    for decoder in card.decoders:
        model = load_model(cell.model, decoder=decoder, device=device)
        if evaluations.train_accuracy:
            stage(f"{decoder}: training images")
            rows.append(_train_accuracy(model, dataset, decoder))
        if (sweep := evaluations.sweep) and _wanted(decoder, sweep.decoders):
            stage(f"{decoder}: FGSM sweep")
            rows += _sweep(model, dataset.test.subset(sweep.n_examples), sweep.eps, decoder)
        if (attacks := evaluations.attacks) and _wanted(decoder, attacks.decoders):
            test = dataset.test.subset(attacks.n_examples)
            state = folder / f"attacks-{decoder}.jsonl"
            stage(f"{decoder}: attacks")
            rows += _attacks(model, test, attacks.attacks, attacks.eps, decoder, cell.recipe.seed, state)
        if (wanted := evaluations.audit) and _wanted(decoder, wanted.decoders):
            stage(f"{decoder}: audit")
            report = audit(
                model,
                *_images(dataset.test.subset(wanted.n_examples)),
                epsilon=wanted.eps,
                quick=wanted.quick,
                batch_size=BATCH,
                seed=cell.recipe.seed,
            )
            _store_audit(cell, decoder, report.to_dict(), dataset)
            rows.append(
                {
                    "decoder": decoder,
                    "epsilon": wanted.eps,
                    "quantity": "audit_worst_case_accuracy",
                    "value": report.worst_case_accuracy,
                    "num_images": report.n,
                    "verdict": report.verdict,
                }
            )
    if evaluations.information_plane:
        plane = evaluations.information_plane
        rows += information_plane(
            cell.recipe, dataset, plane, folder / "snapshots", device=torch.device(device), stage=stage
        )
    return rows


def _wanted(decoder: str, chosen: Sequence[str]) -> bool:
    return not chosen or decoder in chosen


def _images(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    return split.images, split.labels


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


def _train_accuracy(model: ImageClassifier, dataset: Dataset, decoder: str) -> Row:
    device = next(model.parameters()).device
    correct = 0
    for images, labels in zip(*(part.split(BATCH) for part in _images(dataset.train)), strict=True):
        batch = images.to(device).float() / 255
        correct += int(correct_in_batches(model, batch, labels.to(device), batch_size=BATCH).sum())
    total = len(dataset.train)
    return {"decoder": decoder, "quantity": "train_accuracy", "value": correct / total, "num_images": total}


def _sweep(model: ImageClassifier, test: Split, epsilons: Sequence[float], decoder: str) -> Iterator[Row]:
    result = fgsm_sweep(model, test.images, test.labels, epsilons, batch_size=BATCH)
    common = {"decoder": decoder, "num_images": result.total}
    yield {**common, "quantity": "clean_accuracy", "value": result.clean_accuracy}
    common["attack"] = "FGSM"
    yield {**common, "quantity": "zero_gradient_share", "value": result.zero_gradient_share}
    for epsilon, accuracy in zip(result.epsilons, result.accuracy, strict=True):
        yield {**common, "epsilon": epsilon, "quantity": "accuracy", "value": accuracy}


def _attacks(
    model: ImageClassifier,
    test: Split,
    attacks: Sequence[str],
    epsilons: Sequence[float],
    decoder: str,
    seed: int,
    state: Path,
) -> Iterator[Row]:
    results = run_attacks(
        model, *_images(test), attacks=attacks, epsilons=epsilons, batch_size=BATCH, seed=seed, state_path=state
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
    for result in worst_case([result for result in results if result.norm == "Linf"]):
        yield {
            "decoder": decoder,
            "attack": "worst case",
            "epsilon": result.epsilon,
            "quantity": "worst_case_accuracy",
            "value": result.robust_accuracy,
            "num_images": result.total,
        }


def _store_audit(cell: Cell, decoder: str, report: Row, dataset: Dataset) -> None:
    stored = model_card(cell.model).evaluations.get("audit") or {}
    record = {**report, "dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint}
    update_metrics(cell.model, "audit", {**stored, decoder: record})
