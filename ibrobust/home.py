"""The folders for models, runs, data and caches."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ibrobust.errors import IbrobustError

HOME_VARIABLE = "IBROBUST_HOME"


def home() -> Path:
    """Return the folder of models, runs and data: ``$IBROBUST_HOME``, else the platform's data folder.

    The folder need not exist yet.

    Raises:
        IbrobustError: the variable is not set and the user has no home directory, as in many containers.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        folder = expanded(chosen).absolute()
        if str(folder) != chosen:  # a relative path stays the same folder if the current one changes
            os.environ[HOME_VARIABLE] = str(folder)
        return folder
    import platformdirs

    remedy = f"export {HOME_VARIABLE}=FOLDER, with a folder that you can write to"
    try:
        found = platformdirs.user_data_path("ibrobust")
    except (RuntimeError, KeyError) as error:
        raise IbrobustError(f"This user has no home directory ({error}): {remedy}.") from error
    if not found.is_absolute():  # a ~ that nothing stands for
        raise IbrobustError(f"This user has no home directory: {remedy}.")
    return found


def require_writable_folder(folder: Path) -> None:
    """Raise IbrobustError, which names the variable, unless a folder of `home` can be made and written.

    Nothing stays on the disk. Only trying tells: folders such as /proc have rights that they do not give.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        raise IbrobustError(
            f"The folder {str(folder)!r} cannot be written ({error.strerror}): set {HOME_VARIABLE} to a folder that "
            "you can write to."
        ) from error


def expanded(path: str | Path) -> Path:
    """Return a path with the home directory instead of a leading ``~``.

    Raises:
        IbrobustError: the home directory does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise IbrobustError(
            f"The path {str(path)!r} starts with an unknown home directory: write the path in full."
        ) from error


def models_dir() -> Path:
    """Return the folder of the user's own models: one YAML card and one weights file each."""
    return home() / "models"


def factories_dir() -> Path:
    """Return the folder of what this user has allowed models to be built with: one file for each such model."""
    return home() / "factories"


def runs_dir() -> Path:
    """Return the folder of training runs: recipe, metrics and checkpoints of each."""
    return home() / "runs"


def data_dir() -> Path:
    """Return the folder of downloaded data sets and the cache of decoded images."""
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
