"""Functions by the name ``package.module:function``, imported as Python imports, from the current folder too."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ibrobust.errors import IbrobustError
from ibrobust.suggestions import a_type, remedy

FORM = "package.module:function"
LONGEST = 240  # letters of an error of other code within a sentence of ours


def function_by_name(reference: str, what: str, *, folder: str | None = None, forms: str = FORM) -> Callable[..., Any]:
    """Return the function that ``package.module:function`` names.

    Args:
        reference: its name.
        what: it is wanted for, to begin an error with.
        folder: see `importable`, which what the function imports when it is called needs again.
        forms: that such a reference may have, to end an error with.

    Raises:
        IbrobustError: the module is given as a file, cannot be imported, or has no such function.
    """
    module_name, _, function_name = reference.partition(":")
    _refuse_file(reference, what)
    try:
        with importable(folder):
            found: Any = importlib.import_module(module_name)
            for part in function_name.split("."):
                found = getattr(found, part)
    except ModuleNotFoundError as error:
        if folder:
            raise IbrobustError(
                f"{what} needs the Python module {error.name!r}, which cannot be imported: install it, or restore it "
                f"in {folder!r}, where this was found before."
            ) from error
        raise IbrobustError(_not_importable(what, error.name, forms)) from error
    except AttributeError as error:
        raise IbrobustError(_no_function(module_name, function_name)) from error
    except Exception as error:  # whatever the module does
        raise IbrobustError(f"The Python module {module_name!r} fails on import: {short_reason(error)}") from error
    if not callable(found):
        raise IbrobustError(f"{reference} is {a_type(found)}, but a function is needed.")
    function: Callable[..., Any] = found
    return function


def require_module(reference: str, what: str, *, forms: str = FORM) -> None:
    """Raise the error of `function_by_name` if the module cannot be found; nothing is imported."""
    _refuse_file(reference, what)
    top = reference.partition(":")[0].partition(".")[0]
    with importable(None):
        if not top.isidentifier() or (top not in sys.modules and importlib.util.find_spec(top) is None):
            raise IbrobustError(_not_importable(what, top, forms))


@contextlib.contextmanager
def importable(folder: str | None) -> Iterator[None]:
    """Let imports find a folder first, as `python -m` does for the current one and an installed command does not.

    Args:
        folder: by default the current one, which gives what Python has imported already if there is such a module. A
            given folder gives its own modules: meanwhile, those of other folders with the same names are put aside. If
            it is empty, only Python's own path is searched.
    """
    if folder == "":
        yield
        return
    place = folder if folder is not None else str(Path.cwd())
    aside = _namesakes(folder) if folder is not None else {}
    for name in aside:
        del sys.modules[name]
    sys.path.insert(0, place)
    try:
        yield
    finally:
        if place in sys.path:
            sys.path.remove(place)
        for name in _modules_below({name for name in aside if "." not in name}):
            del sys.modules[name]
        sys.modules.update(aside)


def name_of_function(function: Callable[..., Any]) -> str:
    """Return the name ``package.module:function`` under which a function or a class can be imported.

    Raises:
        IbrobustError: it has none: it was made inside a function, or in the script that is run.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None or "<" in name or module == "__main__":
        raise IbrobustError(
            f"{name or type(function).__name__} cannot be imported again: put it at the top level of a module, "
            f"and name it as {FORM}."
        )
    return f"{module}:{name}"


def folder_of_module(module: ModuleType) -> str | None:
    """Return the folder that a module's top-level package was imported from, or None where Python finds it anyway."""
    top = sys.modules.get(getattr(module, "__name__", "").partition(".")[0], module)
    places = [top.__file__] if getattr(top, "__file__", None) else list(getattr(top, "__path__", []))
    if not places or places[0] is None:
        return None
    place = Path(places[0]).resolve()
    if place.name == "__init__.py":
        place = place.parent
    standard = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    return None if any(folder in place.parents for folder in standard) else str(place.parent)


def use_plugins(group: str, what: str, use: Callable[[str, Any], None]) -> None:
    """Load every entry point of a group and pass its name and value to `use`.

    If loading or `use` fails, the plugin is named in a warning and skipped: it must not stop the others.

    Args:
        group: of entry points.
        what: the plugins offer, for the warning.
        use: called with the name and the loaded object.
    """
    for point in entry_points(group=group):
        try:
            use(point.name, point.load())
        except Exception as error:  # whatever a plugin does
            reason = error if isinstance(error, IbrobustError) else f"{type(error).__name__}: {error}"
            warnings.warn(f"The {what} plugin {point.name!r} ({point.value}) was skipped: {reason}", stacklevel=3)


def usable_plugins(
    points: Iterable[EntryPoint], what: str, *, taken: Mapping[str, str], plain: Callable[[str], str] = str
) -> list[EntryPoint]:
    """Return the entry points whose names are free; each other one is named in a warning and skipped.

    Args:
        points: in the order in which they take the names that are free.
        what: they offer, for the warning.
        taken: names in use, and who has them.
        plain: gives the form in which names are compared.
    """
    usable: list[EntryPoint] = []
    owners = {plain(name): owner for name, owner in taken.items()}
    for point in points:
        package = point.dist.name if point.dist is not None else point.module.partition(".")[0]
        name = plain(point.name)
        if name not in owners:
            owners[name] = package
            usable.append(point)
        elif all((known.name, known.value) != (point.name, point.value) for known in usable):  # else found twice
            warnings.warn(
                f"The {what} plugin {point.name!r} ({point.value}) of {package} was skipped, since {owners[name]} has "
                "the name: rename its entry point.",
                stacklevel=2,
            )
    return usable


def load_plugin(point: EntryPoint, what: str) -> Any:
    """Return the object of an entry point; raise IbrobustError, with what the plugin offers, if loading fails."""
    try:
        return point.load()
    except Exception as error:  # whatever a plugin does
        raise IbrobustError(
            f"The {what} {point.name!r} ({point.value}) cannot be imported ({short_reason(error)}): update or remove "
            "its package."
        ) from error


def short_reason(error: BaseException) -> str:
    """Return an error's type and first line, as far as they fit into one sentence."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return textwrap.shorten(text, LONGEST, placeholder=" ...")


def _refuse_file(reference: str, what: str) -> None:
    file, _, function_name = reference.partition(":")
    if not file.endswith(".py"):
        return
    inside = Path(file).resolve()
    try:  # only what is below the current folder is imported from there
        place = inside.relative_to(Path.cwd())
    except ValueError:
        raise IbrobustError(
            f"{what} names a file of another folder, but a module is needed: change to {str(inside.parent)!r} and "
            f"write {inside.stem}:{function_name}."
        ) from None
    module = ".".join(place.with_suffix("").parts)
    raise IbrobustError(f"{what} names a file, but a module is needed: write {module}:{function_name}.")


def _no_function(module_name: str, name: str) -> str:
    known = vars(sys.modules[module_name]) if module_name in sys.modules else {}
    own = [key for key, value in known.items() if callable(value) and getattr(value, "__module__", "") == module_name]
    rule = f"it has {', '.join(own)}." if own else "it has no function, write one there."
    return f"The Python module {module_name!r} has no {name!r}: {remedy(name, own, rule)}"


def _not_importable(what: str, module: str | None, forms: str) -> str:
    return f"{what} needs the Python module {module!r}, which cannot be imported: the form is {forms}."


def _namesakes(folder: str) -> dict[str, ModuleType]:
    """Return the modules that were imported from other folders of the user, and whose names `folder` has too."""
    own = Path(folder)
    names = {path.stem for path in own.iterdir()} if own.is_dir() else set()
    known = {name: sys.modules[name] for name in names & set(sys.modules) - {"__main__", "ibrobust"}}
    return _modules_below(
        {
            name
            for name, module in known.items()
            if _has_module(own, name, module) and folder_of_module(module) not in (None, str(own.resolve()))
        }
    )


def _has_module(folder: Path, name: str, instead_of: ModuleType) -> bool:
    if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file():
        return True
    # A package without that file does not come before one that has it, wherever that is.
    return (folder / name).is_dir() and getattr(instead_of, "__file__", None) is None


def _modules_below(names: set[str]) -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
