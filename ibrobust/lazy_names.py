"""Names of a package, loaded on first use, so that code without torch starts fast."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    Args:
        package: its name.
        homes: for each module its names, with spaces between them.
    """
    modules = {name: module for module, names in homes.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        state = random.getstate()  # the imports of some packages draw from it
        try:
            return getattr(importlib.import_module(modules[name]), name)
        finally:
            random.setstate(state)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return load, names
