"""The result of an attack for every image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ibrobust.epsilon import format_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.readable import Readable, percent


@dataclass(frozen=True, repr=False)
class AttackResult(Readable):
    """One attack at one epsilon.

    Attributes:
        attack: as written on the command line; a worst case names its attacks.
        norm: Linf, L2, L1, or L0 as the share of pixels changed.
        epsilon: radius in that norm.
        clean_correct: for each image, whether it is classified correctly without an attack.
        attacked_correct: the same under attack. If an attack skips images that are already wrong, they stay wrong.
        nonfinite_gradient: images for which a gradient was NaN or infinite, at the image or at a step of the attack.
        seed: of the evaluation.
        flags: warnings, one sentence each. AutoAttack and WorstCase warn if other attacks may break more
            images; every attack warns if the model's logits depend on the other images of a batch, on random draws or
            on whether a gradient is taken, and every attack that follows a gradient if it is NaN or infinite,
            or zero at many images.
        minimal_norm: for attacks that search for the smallest perturbation, its size for each image; 0 if the image is
            already wrong, None if nothing was found. None for other attacks.
        attack_version: 1, or the number of today's way to attack, if that changed.
    """

    attack: str
    norm: str
    epsilon: float
    clean_correct: tuple[bool, ...]
    attacked_correct: tuple[bool, ...]
    nonfinite_gradient: int
    seed: int
    flags: tuple[str, ...] = ()
    minimal_norm: tuple[float | None, ...] | None = None
    attack_version: int = 1

    @property
    def upper_bound(self) -> bool:
        """Whether a warning says that the robust accuracy is only an upper bound."""
        return bool(self.flags)

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.clean_correct)

    @property
    def robust_correct(self) -> tuple[bool, ...]:
        """For each image, whether it is classified correctly both without an attack and under it."""
        return tuple(a and b for a, b in zip(self.clean_correct, self.attacked_correct, strict=True))

    @property
    def clean_accuracy(self) -> float:
        """Share in [0, 1] of all images that are correct without an attack."""
        return sum(self.clean_correct) / self.total

    @property
    def accuracy_under_attack(self) -> float:
        """Share in [0, 1] of all images that are correct under attack."""
        return sum(self.attacked_correct) / self.total

    @property
    def robust_accuracy(self) -> float:
        """Share in [0, 1] of all images that are correct both without an attack and under it."""
        return sum(self.robust_correct) / self.total

    def _sentence(self) -> str:
        bound = "at most " if self.upper_bound and self.robust_accuracy else ""
        left = f"{bound}{percent(self.robust_accuracy, is_bound=self.upper_bound)}"
        return (
            f"{percent(self.clean_accuracy)} of {self.total:,} images clean, {self.attack} at {self.norm} "
            f"{format_epsilon(self.epsilon, norm=self.norm)} leaves {left}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON, with the images as a string of 0 and 1."""
        return {
            **self.summary(),
            "clean_correct": to_bits(self.clean_correct),
            "attacked_correct": to_bits(self.attacked_correct),
            **({} if self.minimal_norm is None else {"minimal_norm": list(self.minimal_norm)}),
        }

    def summary(self) -> dict[str, Any]:
        """Return the record without the results per image, which would make a model's card too long."""
        return {
            "attack": self.attack,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "total": self.total,
            "clean_accuracy": self.clean_accuracy,
            "accuracy_under_attack": self.accuracy_under_attack,
            "robust_accuracy": self.robust_accuracy,
            "nonfinite_gradient": self.nonfinite_gradient,
            "seed": self.seed,
            **({"upper_bound": True, "flags": list(self.flags)} if self.flags else {}),
            **({"attack_version": self.attack_version} if self.attack_version > 1 else {}),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> AttackResult:
        """Return the record that `to_dict` wrote."""
        return cls(
            attack=fields["attack"],
            norm=fields["norm"],
            epsilon=fields["epsilon"],
            clean_correct=from_bits(fields["clean_correct"]),
            attacked_correct=from_bits(fields["attacked_correct"]),
            nonfinite_gradient=fields["nonfinite_gradient"],
            seed=fields["seed"],
            flags=tuple(fields.get("flags", ())),
            minimal_norm=tuple(fields["minimal_norm"]) if "minimal_norm" in fields else None,
            attack_version=fields.get("attack_version", 1),
        )


def to_bits(values: tuple[bool, ...]) -> str:
    """Return a string of 0 and 1."""
    return "".join("1" if value else "0" for value in values)


def are_bits(text: Any, count: int) -> bool:
    """Return whether a value is a `to_bits` string of so many images."""
    return isinstance(text, str) and len(text) == count and set(text) <= {"0", "1"}


def from_bits(text: str) -> tuple[bool, ...]:
    """Return the booleans of a `to_bits` string; raise IbrobustError for any other text."""
    if set(text) - {"0", "1"}:
        raise IbrobustError(f"{text[:40]!r} is not a string of 0 and 1: the record is damaged.")
    return tuple(character == "1" for character in text)
