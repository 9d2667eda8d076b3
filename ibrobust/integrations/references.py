"""The form of references to outside models."""

from __future__ import annotations

FORMS = "robustbench:NAME, timm:NAME or module:function"


def is_reference(text: str) -> bool:
    """Return whether `text` refers to an outside model; a registered model's name has no colon."""
    return ":" in text
