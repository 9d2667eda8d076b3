"""Attacks: from their options to a record for every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibrobust.lazy_names import lazy_names

if TYPE_CHECKING:
    from ibrobust.evaluation.attacks.attack import NamedAttack

__all__ = ["NamedAttack"]

__getattr__, __dir__ = lazy_names(__name__, {"NamedAttack": "ibrobust.evaluation.attacks.attack"})
