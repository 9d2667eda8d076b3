"""Attacks that use another model, the surrogate, and the transfer attack."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, PrivateAttr

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import NamedAttack, with_options
from ibrobust.evaluation.attacks.option_types import Count, LossName, Norm, Positive

if TYPE_CHECKING:
    from torch import Tensor, nn

    Surrogate = str | nn.Module
else:

    def _name_or_model(value: object) -> object:
        torch = sys.modules.get("torch")  # before it is imported, nothing is a module
        if isinstance(value, str) or (torch is not None and isinstance(value, torch.nn.Module)):
            return value
        raise ValueError(f"The surrogate is {value!r}: a name is needed, or in Python a model.")

    Surrogate = Annotated[Any, AfterValidator(_name_or_model)]

Self = TypeVar("Self", bound="SurrogateAttack")


class SurrogateAttack(NamedAttack):
    """An attack with a surrogate: a model, or the name of one, which the command line and a study look up.

    Attributes:
        surrogate: images (B, C, H, W) in [0, 1] -> logits (B, K), on the device of the attacked model; or its name.
    """

    surrogate: Surrogate | None = None
    _loaded: nn.Module | None = PrivateAttr(None)

    def with_surrogate(self: Self, model: nn.Module) -> Self:
        """Return the attack with the model that its surrogate names."""
        attack = self.model_copy()
        attack._loaded = model
        return attack

    def without_surrogate(self: Self) -> Self | None:
        """Return the attack without its surrogate; None if it needs one."""
        if type(self).model_fields["surrogate"].is_required():
            return None
        return type(self)(**{key: value for key, value in self.options.items() if key != "surrogate"})

    @property
    def surrogate_model(self) -> nn.Module | None:
        """The surrogate itself; None without one, or if only its name is known."""
        return self._loaded if self.surrogate is None or isinstance(self.surrogate, str) else self.surrogate

    @property
    def options(self) -> dict[str, Any]:
        """The given options, with the class of a surrogate that is a model."""
        given = super().options
        if self.surrogate is not None and not isinstance(self.surrogate, str):
            given["surrogate"] = type(self.surrogate).__name__
        return given

    @property
    def source(self) -> str:
        """A fingerprint of the surrogate, empty without one; for a class that is not ibrobust's, of its code too."""
        source, model = super().source, self.surrogate_model
        if source or model is None:
            return source
        from ibrobust.evaluation.attacks.fingerprint import fingerprint

        return fingerprint(model)

    def check_fit(self, *, channels: int, num_classes: int) -> None:
        """Raise IbrobustError if the surrogate is only a name."""
        del channels, num_classes
        if isinstance(self.surrogate, str) and self._loaded is None:
            raise IbrobustError(
                f"The surrogate {self.surrogate!r} of {self.name} is a name, which only ibrobust attack and studies "
                f"look up: give the model itself, {self.name}(surrogate=ibrobust.load_model({self.surrogate!r}))."
            )


class Transfer(SurrogateAttack):
    """PGD on a surrogate, whose adversarial images are then tried on the model; also written transfer:SURROGATE.

    It takes all its steps on the surrogate, also after the surrogate is broken, and needs no gradient of the model.

    Attributes:
        surrogate: images (B, C, H, W) in [0, 1] -> logits (B, K), on the model's device. The command line and studies
            take the name of a stored model.
        steps: gradients of the surrogate per image and start.
        alpha: step size in pixel scale; by default 2.5 epsilon / steps.
        random_start: start at a random point of the ball, else at the image.
        restarts: number of starts; from the second on they are random, for the images that are still correct.
        loss: the surrogate's loss that the steps increase: cross_entropy, margin or dlr.
        norm: of the ball: Linf or L2.

    Raises:
        IbrobustError: an option is unknown, or the attack cannot work with a value.

    Examples:
        >>> import ibrobust, torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> hidden = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Threshold(0.5, 0.0))
        >>> images = torch.tensor([[0.55, 0.45]]).reshape(1, 1, 1, 2)
        >>> attack = ibrobust.Transfer(surrogate=model, steps=5)
        >>> attack.label
        'transfer:Flatten:steps=5'
        >>> hidden(attack(hidden, images, [0], epsilon=0.1)).argmax(dim=1)
        tensor([1])
    """

    surrogate: Surrogate
    steps: Count = 20
    alpha: Positive | None = None
    random_start: bool = True
    restarts: Count = 1
    loss: LossName = "margin"
    norm: Norm = "Linf"

    @property
    def label(self) -> str:
        """The attack as it is written on the command line: transfer:SURROGATE and the other options."""
        options = self.options
        return with_options(f"transfer:{options.pop('surrogate')}", options)

    def find(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return the surrogate's adversarial images; the (B,) bool are False, since the model's gradient is not used.

        Raises:
            IbrobustError: the surrogate has other classes than the model.
        """
        import torch

        from ibrobust.correctness import is_correct
        from ibrobust.evaluation.attacks.pgd import pgd
        from ibrobust.evaluation.ball import Ball
        from ibrobust.evaluation.guarded_model import guard
        from ibrobust.evaluation.model_state import evaluation_mode

        assert self.surrogate_model is not None
        surrogate, ball = guard(self.surrogate_model), Ball(self.norm, epsilon)
        generator = torch.Generator().manual_seed(seed)
        adversarial, left = images.clone(), torch.arange(len(images), device=images.device)
        with evaluation_mode(surrogate):
            with torch.no_grad():
                self._require_classes(surrogate(images[:1]), model(images[:1]))
            for restart in range(self.restarts):
                points, classes = images[left], labels[left]
                # From the second on, a start at the image would only repeat the first.
                moved = self.random_start or restart > 0
                run = pgd(
                    surrogate,
                    points,
                    classes,
                    epsilon=epsilon,
                    steps=self.steps,
                    step_size=self.alpha,
                    loss=self.loss,
                    start=ball.random_point(points, generator) if moved else None,
                    stop_when_broken=False,
                    norm=self.norm,
                )
                adversarial[left] = run.last
                with torch.no_grad():
                    left = left[is_correct(model(run.last), classes)]
                if len(left) == 0:
                    break
        return adversarial, torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def _require_classes(self, surrogate_logits: Tensor, logits: Tensor) -> None:
        has, needed = surrogate_logits.shape[1], logits.shape[1]
        if has != needed:
            raise IbrobustError(
                f"The surrogate of {self.label} has {has} classes, but the model has {needed}: give a surrogate that "
                "was trained on the same classes."
            )
