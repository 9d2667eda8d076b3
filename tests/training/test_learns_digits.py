"""Every objective learns the digits data set through the real trainer, to 95% test accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ibrobust
from ibrobust.training.recipe import Recipe


@pytest.mark.slow  # about half a minute each
@pytest.mark.parametrize(
    ("objective", "fields"),
    [
        ("adversarial", {}),
        ("ceb", {"beta": 0.01}),
        ("cross_entropy", {}),
        ("cross_entropy", {"dropout": 0.3}),
        ("cross_entropy", {"dropconnect": 0.5}),
        ("dib", {"beta": 0.001}),
        ("dib", {"beta": 0.001, "conditional": True}),
        ("dvib", {"beta": 0.001}),
        ("knn_ib", {"average_neighbors": True}),
        ("knn_ib", {"average_neighbors": True, "noise": False}),
    ],
)
def test_objective_learns_digits(
    objective: str, fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path))
    recipe = Recipe(
        dataset="digits",
        objective=objective,
        width=8,
        latent_dim=64,
        batch_size=100,
        augment="crop",
        schedule="one_cycle",
        learning_rate=3e-3,
        epochs=15,
        **fields,
    )
    card = ibrobust.train(recipe, name="learner")
    default = next(iter(card.clean_accuracy.values()))
    assert default.accuracy >= 0.95
