"""Where ibrobust keeps what it downloads, trains and caches: decided here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "IBROBUST_HOME"


def home() -> Path:
    """Return the folder of models, runs and data: ``$IBROBUST_HOME``, else the platform's data folder.

    The folder need not exist yet.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("ibrobust")


def models_dir() -> Path:
    """Return the folder of the user's own models: one YAML card and one weights file each."""
    return home() / "models"


def runs_dir() -> Path:
    """Return the folder of training runs: recipe, metrics and checkpoints of each."""
    return home() / "runs"


def data_dir() -> Path:
    """Return the folder that downloaded data sets and the cache of decoded images go to."""
    return home() / "data"


def zoo_dir() -> Path:
    """Return the folder of the models that ship with ibrobust.

    In a wheel it lies inside the package, in a checkout beside it; never relative to the current folder.
    """
    package = Path(__file__).resolve().parent
    packaged = package / "model_zoo"
    return packaged if packaged.is_dir() else package.parent / "model_zoo"


def recipes_dir() -> Path:
    """Return the folder of the recipes that ship with ibrobust, the presets."""
    return zoo_dir() / "recipes"
