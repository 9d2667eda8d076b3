"""The form of references to outside models."""

from __future__ import annotations

import re
from pathlib import Path

from ibrobust.errors import IbrobustError
from ibrobust.function_names import require_module

SCHEMES = ("robustbench", "timm")
FORMS = "robustbench:NAME, timm:NAME or module:function"


def is_reference(text: str) -> bool:
    """Return whether `text` refers to an outside model; a registered model's name has no colon."""
    return ":" in text


def check_reference(reference: str) -> None:
    """Raise IbrobustError if a reference has not its form or names a missing module; nothing is imported."""
    scheme, _, name = reference.partition(":")
    if not scheme or not name:
        raise IbrobustError(f"The model reference {reference!r} is not of the form {FORMS}.")
    if scheme not in SCHEMES:
        require_module(reference, f"The model {reference!r}", forms=FORMS)


def check_exported(source: str | Path) -> None:
    """Raise IbrobustError unless `source` is a card file, a folder, or has the form of a Hub repository."""
    path, text = Path(source), str(source)
    if path.suffix == ".yaml" and not path.is_file():
        raise IbrobustError(f"The card {text!r} does not exist: give the .yaml file that ibrobust export has written.")
    if path.suffix == ".yaml" or path.is_dir() or (not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", text)):
        return
    raise IbrobustError(
        f"{text!r} is neither a folder with config.json and model.safetensors, nor the card of an exported model, a "
        ".yaml file, nor a repository of the Hugging Face Hub (OWNER/NAME), nor a function of yours "
        "(package.module:function)."
    )
