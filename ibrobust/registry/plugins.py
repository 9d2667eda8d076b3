"""Models of other packages, through the entry-point group ``ibrobust.models``.

An entry point names a function without arguments that returns a folder of cards (each with its weights beside it),
or the card files themselves. Cards are data: importing the function is all the code of a plugin that ever runs.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

ENTRY_POINT_GROUP = "ibrobust.models"


@cache
def plugin_card_paths() -> dict[str, Path]:
    """Return the card files of all models from other packages, by name.

    A plugin that fails is named in a warning and skipped, and so is a second model of the same name.
    """
    found: dict[str, Path] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            paths = _card_files(point.load()())
        except Exception as error:  # a plugin's error must not stop the others
            _skip(point.name, point.value, f"{type(error).__name__}: {error}")
            continue
        for path in paths:
            if path.stem in found:
                _skip(point.name, point.value, f"its model {path.stem!r} is also in {found[path.stem].parent}")
            else:
                found[path.stem] = path
    return found


def _card_files(offered: object) -> list[Path]:
    if isinstance(offered, (str, os.PathLike)):
        folder = Path(offered)
        if not folder.is_dir():
            raise FileNotFoundError(f"the folder {str(folder)!r} does not exist")
        return sorted(folder.glob("*.yaml"))
    if isinstance(offered, (list, tuple)):
        paths = [Path(item) for item in offered]
        missing = [path for path in paths if path.suffix != ".yaml" or not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{str(missing[0])!r} is not a card file")
        return paths
    raise TypeError(f"it returned a {type(offered).__name__} instead of a folder or a list of card files")


def _skip(name: str, value: str, reason: str) -> None:
    warnings.warn(f"The model plugin {name!r} ({value}) was skipped: {reason}", stacklevel=3)
