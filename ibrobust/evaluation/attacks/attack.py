"""What every attack is: an immutable object that runs itself on a batch; most have their options as fields.

torch is imported when an attack runs, so that a wrong option is told at once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from ibrobust.epsilon import read_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.text_form import no_option
from ibrobust.faults import in_words
from ibrobust.seeds import check_seed
from ibrobust.suggestions import remedy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ibrobust.evaluation.inputs import ArrayLike


Self = TypeVar("Self", bound="NamedAttack")


class Found(NamedTuple):
    """What an attack made of a batch.

    Attributes:
        adversarial: images (B, C, H, W).
        nonfinite: (B,) bool, for images with a NaN gradient or result.
        flags: signs that another attack would break more, one sentence each.
    """

    adversarial: Tensor
    nonfinite: Tensor
    flags: tuple[str, ...] = ()


class _InLinf:
    """The norm of an attack that does not say it. A class has no such attribute, so that `norm` can be its field."""

    def __get__(self, attack: object, kind: type) -> str:
        if attack is None:
            raise AttributeError("norm")
        return "Linf"


class Attack(ABC):
    """An attack, called as ``attack(model, images, labels, epsilon=..., seed=...)`` -> adversarial images.

    Attributes:
        label: the attack as it is written on the command line and in results.
        norm: of epsilon: Linf (the default), L2, L1, or L0 as the share of pixels changed.
        skips_misclassified: whether images that are already wrong are skipped.
        minimal: whether it searches for the smallest perturbation, whatever epsilon is. One run then gives the robust
            accuracy at every epsilon.
        attack_version: of the attack, in its results; a study repeats those of an older one.
        source: a fingerprint of everything that the label leaves out, so that a run is not resumed with another attack.
    """

    skips_misclassified: ClassVar[bool] = True
    attack_version: ClassVar[int] = 1

    if TYPE_CHECKING:  # each kind of attack has them as a field, a constant or a property

        @property
        def label(self) -> str: ...
        @property
        def norm(self) -> str: ...
        @property
        def minimal(self) -> bool: ...
    else:
        norm = _InLinf()

    @property
    def source(self) -> str:
        """SHA-256 of the attack's code and values; empty for ibrobust's own attacks, whose label says everything."""
        if type(self).__module__.partition(".")[0] == __name__.partition(".")[0]:
            return ""
        from ibrobust.evaluation.attacks.fingerprint import fingerprint

        return fingerprint(self)

    @property
    def searches_on_copy(self) -> bool:
        """Whether it searches on a bfloat16 copy of the model; only the model's own answer counts."""
        return getattr(self, "precision", "fp32") == "bf16"

    def check_fit(self, *, channels: int, num_classes: int) -> None:  # noqa: B027
        """Raise IbrobustError if the attack cannot work on images of so many channels or with so few classes."""

    @abstractmethod
    def find(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int
    ) -> Found | tuple[Tensor, Tensor]:
        """Return what the attack found; a pair without flags will do.

        Args:
            model: in evaluation mode, behind a guard.
            images: (B, C, H, W) in [0, 1], on the model's device.
            labels: (B,).
            epsilon: radius in the attack's norm. The result of a minimal attack may be larger.
            seed: of everything random; the global generators have it already.
        """

    def __call__(
        self, model: nn.Module, images: ArrayLike, labels: ArrayLike, *, epsilon: float | str, seed: int = 0
    ) -> Tensor:
        """Return adversarial images (B, C, H, W) in [0, 1], on the model's device, one for each image.

        An image that the attack does not break comes back somewhere in the ball. Model mode, parameter gradients and
        random state are restored afterwards.

        Args:
            model: images (B, C, H, W) in [0, 1] -> logits (B, K), K >= 2.
            images: (B, C, H, W) floats in [0, 1], or uint8 in [0, 255]; one batch.
            labels: (B,) integers in [0, K).
            epsilon: radius in the attack's norm, in [0, 1] pixel scale; a number or text such as 8/255.
            seed: of all random numbers.

        Raises:
            IbrobustError: an argument is not of that form, or the attack cannot work on such images or left its ball.
        """
        from ibrobust.evaluation.attacks.batch import attack_batch
        from ibrobust.evaluation.guarded_model import guard
        from ibrobust.evaluation.inputs import images_and_labels, unit_range
        from ibrobust.evaluation.model_state import evaluation_mode, model_reference
        from ibrobust.evaluation.predictions import count_classes

        images, labels = images_and_labels(images, labels)
        radius, seed = read_epsilon(epsilon, norm=self.norm), check_seed(seed)
        guarded = guard(model)
        with evaluation_mode(model):
            points = unit_range(images, model_reference(guarded))
            num_classes = count_classes(guarded, points[:1], labels)
            self.check_fit(channels=points.shape[1], num_classes=num_classes)
            targets = labels.to(points.device).long()
            return attack_batch(guarded, points, targets, self, epsilon=radius, seed=seed)[0]


def require_linf(attack: Attack) -> None:
    """Raise IbrobustError if an attack that an audit is given is in another norm."""
    if attack.norm != "Linf":
        raise IbrobustError(f"{attack.label} is in {attack.norm}, but the audit is in Linf: leave this attack out.")


def require_different(attacks: Sequence[Attack]) -> None:
    """Raise IbrobustError if two attacks have the same label, by which results and random numbers are told apart."""
    labels = [attack.label for attack in attacks]
    if len(set(labels)) < len(labels):
        raise IbrobustError(
            f"An attack occurs twice in {', '.join(labels)}: give each once, and different functions different names."
        )


class NamedAttack(Attack, BaseModel):
    """An attack with its options as fields; its name is that of the class, or of the entry point that offers it.

    Raises:
        IbrobustError: an option is unknown, or the attack cannot work with a value.
    """

    minimal: ClassVar[bool] = False
    _name: str | None = PrivateAttr(None)

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # type checkers read the arguments from the fields

        def __init__(self, **options: Any) -> None:
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise IbrobustError(_sentence(type(self), error)) from None

    @property
    def name(self) -> str:
        """The name of the attack."""
        return self._name or type(self).__name__

    def named(self: Self, name: str) -> Self:
        """Return the attack under another name."""
        attack = self.model_copy()
        attack._name = name
        return attack

    @property
    def options(self) -> dict[str, Any]:
        """The given options, in alphabetical order; the others have their defaults."""
        return {key: getattr(self, key) for key in sorted(self.model_fields_set)}

    @property
    def label(self) -> str:
        """The attack as it is written on the command line: its name and the given options."""
        return with_options(self.name, self.options)


def with_options(name: str, options: Mapping[str, object]) -> str:
    """Return the text ``name:key=value,key=value``."""
    text = ",".join(f"{key}={_written(value)}" for key, value in options.items())
    return f"{name}:{text}" if text else name


_NEEDED = {
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than_equal": "a number of at most {le}",
}


def _sentence(kind: type[NamedAttack], error: ValidationError) -> str:
    """Return one sentence on the first option that cannot be used."""
    name, fields = kind.__name__, kind.model_fields
    # A number outside its range says more than a type that it does not have.
    fault = min(error.errors(), key=lambda fault: fault["type"] not in _NEEDED)
    context = fault.get("ctx", {})
    if fault["type"] == "value_error":
        return str(context["error"])
    key, value = str(fault["loc"][0]), fault["input"]
    if fault["type"] == "missing":
        return f"The attack {name} needs the option {key!r}: give it."
    if fault["type"] == "extra_forbidden":
        return no_option(name, key, tuple(fields))
    if fault["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        rule = f"choose {' or '.join(choices)}."
        return f"{name} has no {key} {str(value)!r}: {remedy(str(value), choices, rule)}"
    needed = _NEEDED.get(fault["type"], "")
    if not needed:
        example = fields[key].default
        needed = f"a value like {_written(0.01 if example is None else example)}"
        if example is None and fault["type"] == "string_type":
            needed = "a name"
    shown = repr(value) if isinstance(value, str) else value
    return f"{name}'s option {key} is {shown}: {needed.format(**in_words(context))} is needed."


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
