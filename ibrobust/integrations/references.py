"""References to outside models: their form, and which models of other packages exist; without torch."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.function_names import require_module
from ibrobust.suggestions import no_such_model, suggestion

CONFIG = "config.json"  # the card of a model in the form of the Hub
SCHEMES = ("robustbench", "timm")
FORMS = "robustbench:NAME, timm:NAME or module:function"


def is_reference(text: str) -> bool:
    """Return whether `text` refers to an outside model; a registered model's name has no colon."""
    return ":" in text


def check_reference(reference: str) -> None:
    """Raise IbrobustError if a reference has not its form, or names a missing model or module; nothing is imported."""
    scheme, _, name = reference.partition(":")
    if not scheme or not name:
        raise IbrobustError(f"The model reference {reference!r} is not of the form {FORMS}.")
    if scheme not in SCHEMES:
        require_module(reference, f"The model {reference!r}", forms=FORMS)
    elif scheme in sys.modules:  # it knows itself, with the models that others have added to it
        return
    elif scheme == "timm" and (models := timm_models()) and name.partition(".")[0] not in models:
        raise no_such_model("timm", name, models)
    elif scheme == "robustbench" and (models := robustbench_models()) and name.rpartition("/")[2] not in models:
        raise no_such_zoo_model(name, models)


def timm_models() -> set[str]:
    """Return the names of timm's models, without tags, read from its files; empty if it is missing.

    Importing it takes seconds. The names of earlier versions are among them.
    """
    texts = [file.read_text(encoding="utf-8") for file in _files("timm", "models")]
    found = {name for text in texts for name in re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE)}
    for text in texts:
        for renamed in re.findall(r"register_model_deprecations\(__name__, \{(.*?)\}\)", text, re.DOTALL):
            found |= set(re.findall(r"['\"](\w+)['\"]\s*:", renamed))
    return found


def robustbench_models() -> set[str]:
    """Return the names in RobustBench's model zoo, read from its files; empty if it is missing."""
    return {
        entry.elts[0].value
        for file in _files("robustbench", "model_zoo")
        for entry in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(entry, ast.Tuple)  # of a name and its settings
        and len(entry.elts) == 2
        and isinstance(entry.elts[0], ast.Constant)
        and isinstance(entry.elts[0].value, str)
        and isinstance(entry.elts[1], ast.Dict)
    }


def _files(package: str, folder: str) -> list[Path]:
    spec = find_spec(package)
    return [] if spec is None or spec.origin is None else sorted(Path(spec.origin).with_name(folder).glob("*.py"))


def no_such_zoo_model(name: str, known: Collection[str]) -> IbrobustError:
    """Return the error for an unknown model of RobustBench's zoo, with similar names if there are any."""
    hint = suggestion(name.rpartition("/")[2], known, f"it has {len(known)}, Standard among them.")
    return IbrobustError(f"RobustBench has no model {name!r}: {hint}")


def check_exported(source: str | Path) -> str:
    """Return `source`, or the only card of a folder that is not in the form of the Hub.

    Raises:
        IbrobustError: it is neither a card file, nor a folder of a model, nor has the form of a Hub repository.
    """
    path, text = Path(source), str(source)
    if path.suffix == ".yaml" and not path.is_file():
        raise IbrobustError(f"The card {text!r} does not exist: give the .yaml file that ibrobust export has written.")
    if path.is_dir() and not (path / CONFIG).is_file():
        return str(_only_card(path))
    if path.suffix == ".yaml" or path.is_dir() or (not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", text)):
        return text
    raise IbrobustError(
        f"{text!r} is no model: give a folder with config.json and model.safetensors, the card of an exported model (a "
        ".yaml file), a repository of the Hugging Face Hub (OWNER/NAME), or the function that builds your network "
        "(package.module:function), with its file of weights as `weights`."
    )


def _only_card(folder: Path) -> Path:
    cards = sorted(folder.glob("*.yaml"))
    if len(cards) == 1:
        return cards[0]
    if cards:
        names = ", ".join(card.name for card in cards)
        raise IbrobustError(f"The folder {str(folder)!r} holds several cards ({names}): give one of these files.")
    raise IbrobustError(
        f"The folder {str(folder)!r} holds neither {CONFIG} nor a card: give the .yaml file that ibrobust export has "
        "written."
    )
