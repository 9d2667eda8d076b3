"""The result of the worst-case attack."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ibrobust.epsilon import format_epsilon
from ibrobust.evaluation.pass_counter import Cost
from ibrobust.readable import Readable, percent


@dataclass(frozen=True)
class StageRecord:
    """One stage.

    Attributes:
        name: of the stage.
        attacked: unbroken images at its start.
        broken: images broken by it.
        cost: passes through the model.
        surrogate_cost: passes through the surrogate.
    """

    name: str
    attacked: int
    broken: int
    cost: Cost
    surrogate_cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {
            "stage": self.name,
            "attacked": self.attacked,
            "broken": self.broken,
            **asdict(self.cost),
            "surrogate_forward_images": self.surrogate_cost.forward_images,
            "surrogate_backward_images": self.surrogate_cost.backward_images,
        }


@dataclass(frozen=True, repr=False)
class WorstCaseResult(Readable):
    """The worst case at one epsilon, image by image.

    Attributes:
        norm: Linf or L2.
        epsilon: radius in that norm, in [0, 1] pixel scale.
        clean_correct: for each image, whether it is classified correctly without an attack.
        robust_correct: for each image, whether it is correct without an attack and no stage broke it.
        broken_by: for each image, the stage that broke it; "" if none did.
        stages: in the order they ran.
        warnings: signs that another attack would break more, one sentence each; with `escalated` also AutoAttack's.
        escalated: whether AutoAttack was run on the remaining images.
        seed: of all random numbers.
        adversarial: (N, C, H, W) misclassified images within the ball; the clean ones if no stage succeeded. On the
            model's device.
        nonfinite_gradient: for each image, whether a gradient was NaN or infinite at any step.
    """

    norm: str
    epsilon: float
    clean_correct: tuple[bool, ...]
    robust_correct: tuple[bool, ...]
    broken_by: tuple[str, ...]
    stages: tuple[StageRecord, ...]
    warnings: tuple[str, ...]
    escalated: bool
    seed: int
    adversarial: Tensor = field(repr=False, compare=False)
    nonfinite_gradient: tuple[bool, ...] = ()

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.clean_correct)

    @property
    def clean_accuracy(self) -> float:
        """Share in [0, 1] of all images that are correct without an attack."""
        return sum(self.clean_correct) / self.total

    @property
    def robust_accuracy(self) -> float:
        """Share in [0, 1] of all images that are correct and that no stage broke."""
        return sum(self.robust_correct) / self.total

    @property
    def upper_bound(self) -> bool:
        """Whether a guard fired: another attack may break more, and the number is only an upper bound."""
        return bool(self.warnings)

    @property
    def cost(self) -> Cost:
        """Total passes through the model."""
        return Cost(
            sum(stage.cost.forward_images for stage in self.stages),
            sum(stage.cost.backward_images for stage in self.stages),
        )

    def _sentence(self) -> str:
        bound = "at most " if self.upper_bound and self.robust_accuracy else ""
        left = f"{bound}{percent(self.robust_accuracy, is_bound=self.upper_bound)}"
        return (
            f"{percent(self.clean_accuracy)} of {self.total:,} images clean, the worst case at {self.norm} "
            f"{format_epsilon(self.epsilon, norm=self.norm)} leaves {left}"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            ("stage", "attacked", "broken"),
            *((stage.name, f"{stage.attacked:,}", f"{stage.broken:,}") for stage in self.stages),
        ]
