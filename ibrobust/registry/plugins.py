"""Models of other packages, through the entry-point group ``ibrobust.models``.

An entry point names a function without arguments that returns a folder of cards (each with its weights beside it),
or the card files themselves. Cards are data: importing the function is all the code of a plugin that ever runs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ibrobust.function_names import use_plugins

ENTRY_POINT_GROUP = "ibrobust.models"


@cache
def plugin_card_paths() -> dict[str, Path]:
    """Return the card files of all models from other packages, by name.

    A plugin that fails is named in a warning and skipped, and so is a second model of the same name.
    """
    found: dict[str, Path] = {}

    def add(name: str, cards: Callable[[], object]) -> None:
        for path in _card_files(cards()):
            if path.stem in found:
                reason = f"its model {path.stem!r} is also in {found[path.stem].parent}"
                warnings.warn(f"The model plugin {name!r} was skipped: {reason}", stacklevel=4)
            else:
                found[path.stem] = path

    use_plugins(ENTRY_POINT_GROUP, "model", add)
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
