"""A study's records, made up, with a masked model, a failed cell's absence and several seeds in them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibrobust.records import COLUMNS

EPSILONS = tuple(n / 255 for n in (0, 1, 2, 4, 8, 16, 32))
BETAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)


def cell_rows(*, objective: str, beta: float | None, noise: bool | None, seed: int, dropconnect: float = 0.0):
    name = "-".join(map(str, (objective, beta, noise, dropconnect, seed)))
    base = {
        "study": "made-up",
        "cell": name,
        "model": f"made-up-{name}",
        "objective": objective,
        "beta": beta,
        "noise": noise,
        "dropout": 0.0,
        "dropconnect": dropconnect,
        "width": 8,
        "seed": seed,
        "epochs": 10,
    }

    def row(quantity: str, value: float, **rest: Any) -> dict[str, Any]:
        return {**base, "quantity": quantity, "value": value, **rest}

    strength = 8 + 6 * dropconnect if beta is None else 10 + 60 * beta + (6 if noise else 0)
    decoders = ("head", "gaussian_mixture") if beta is None else ("gaussian_mixture", "logistic", "resfc")
    for place, decoder in enumerate(decoders):
        masked = beta == 0.3 and noise and decoder == "gaussian_mixture"
        accuracy = (
            0.92
            + 0.02 * dropconnect
            - 0.01 * place
            - 0.005 * seed
            - (0.3 * beta if beta else 0)
            - (0.02 if noise is False else 0)
        )
        yield row("clean_accuracy", accuracy, decoder=decoder, num_images=1000)
        yield row("test_accuracy", accuracy, decoder=decoder, num_images=2000)
        yield row("train_accuracy", min(1.0, accuracy + 0.06), decoder=decoder, num_images=5000)
        if decoder == "resfc":
            continue
        share = 0.37 if masked else 0.0
        yield row("zero_gradient_share", share, attack="FGSM", decoder=decoder, num_images=1000)
        for epsilon in EPSILONS:
            under = accuracy * (share + (1 - share) * math.exp(-255 * epsilon / strength))
            for attack, factor in (("FGSM", 1.0), ("PGD:steps=50", 0.8)):
                if attack == "FGSM" or epsilon in (4 / 255, 8 / 255):
                    yield row(
                        "accuracy", under * factor, attack=attack, epsilon=epsilon, decoder=decoder, num_images=1000
                    )
        for epsilon in (4 / 255, 8 / 255):
            worst = 0.01 if masked else 0.7 * accuracy * math.exp(-255 * epsilon / strength)
            yield row(
                "worst_case_accuracy", worst, attack="worst case", epsilon=epsilon, decoder=decoder, num_images=500
            )
        yield row(
            "audit_worst_case_accuracy",
            0.0 if masked else 0.6 * accuracy * math.exp(-8 / strength),
            epsilon=8 / 255,
            decoder=decoder,
            num_images=200,
            verdict="not real, vanishing" if masked else "real, misleading" if noise is False else "real, honest",
        )
    for epoch in (1, 2, 5, 10):
        pull = beta or 0.0
        entropy = (
            40
            + 8 * (beta is None)
            + 20 * dropconnect
            - (15 + 60 * math.sqrt(pull)) * math.log10(1 + epoch)
            + 2 * seed
            + (0 if noise else 25)
        )
        wobble = 0 if noise else 0.4 * math.sin(7 * epoch + 50 * pull)
        yield row("entropy", entropy, epoch=epoch, num_images=2000)
        yield row("conditional_entropy", entropy - 2, epoch=epoch, num_images=2000)
        yield row(
            "label_information",
            1.9 * math.exp(-0.4 * epoch) * math.exp(wobble) + 0.05 + pull,
            epoch=epoch,
            num_images=2000,
        )
        yield row("noise_floor", -12.0, epoch=epoch, num_images=2000)
    yield row("final_loss", -3.0)
    yield row("seconds_per_epoch", 1.5)


def all_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for seed in (0, 1):
        for beta in BETAS:
            for noise in (True, False):
                rows += cell_rows(objective="knn_ib", beta=beta, noise=noise, seed=seed)
        for dropconnect in (0.0, 0.5):
            rows += cell_rows(objective="cross_entropy", beta=None, noise=None, seed=seed, dropconnect=dropconnect)
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def study_rows() -> list[dict[str, Any]]:
    """The rows of records.csv as mappings from column to value; what is missing does not apply."""
    return all_rows()


@pytest.fixture
def write_records(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Write rows as a study does; return the file."""
    return lambda rows: write_csv(tmp_path / "records.csv", rows)


@pytest.fixture(scope="session")
def stored_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, str]], tuple[Path, list[str]]]:
    """Write all rows, with some cells renamed; return the file and the names of its cells."""

    def store(renamed: dict[str, str]) -> tuple[Path, list[str]]:
        rows = [{**row, "cell": renamed.get(row["cell"], row["cell"])} for row in all_rows()]
        path = write_csv(tmp_path_factory.mktemp("study") / "records.csv", rows)
        return path, list(dict.fromkeys(row["cell"] for row in rows))

    return store
