from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ibrobust.study import Study

# Trains in about a second.
TINY = {
    "dataset": "digits",
    "width": 2,
    "latent_dim": 8,
    "batch_size": 200,
    "epochs": 1,
    "augment": "none",
    "schedule": "one_cycle",
    "learning_rate": 3e-3,
    "decoders": ["logistic"],
    "resfc_units": 16,
}


@pytest.fixture
def make_study() -> Callable[..., Study]:
    """Return a study of tiny cells; base fields come on top of those of TINY."""

    def make(*grids: dict[str, list[Any]], base: dict[str, Any] | None = None, **fields: Any) -> Study:
        given = {"name": "tiny", "base": {**TINY, **(base or {})}, "grids": list(grids), **fields}
        return Study.model_validate(given)

    return make
