from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from small_digits import small_digits, write

from ibrobust.study import Study

# Trains in a moment.
TINY = {
    "width": 2,
    "latent_dim": 8,
    "batch_size": 100,
    "epochs": 1,
    "augment": "none",
    "schedule": "one_cycle",
    "learning_rate": 3e-3,
    "decoders": ["logistic"],
    "resfc_units": 16,
    "num_neighbors": 3,
    "memory_size": 150,
}


@pytest.fixture(scope="session")
def small_digits_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a data set that is read without scikit-learn."""
    file = tmp_path_factory.mktemp("data") / "digits.npz"
    write(small_digits(), file)
    return str(file)


@pytest.fixture(scope="session")
def make_study(small_digits_file: str) -> Callable[..., Study]:
    """Return a study of tiny cells; base fields come on top of those of TINY."""

    def make(*grids: dict[str, list[Any]], base: dict[str, Any] | None = None, **fields: Any) -> Study:
        common = {"dataset": small_digits_file, **TINY, **(base or {})}
        return Study.model_validate({"name": "tiny", "base": common, "grids": list(grids), **fields})

    return make
