"""A model's gradient, also through operations that cut it: rounding, comparisons, votes, `detach` and `no_grad`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ibrobust.copied_module import copied
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import GuardedModel, image_gradient
from ibrobust.evaluation.past_cuts import PastCuts
from ibrobust.isolated_rng import isolated_rng

PROBED = 32  # images, to see which operations cut a gradient
# A gradient past the cuts is another one than the model's if a step along it raises the margin by so much more, for at
# least one in so many images.
STRONGER, ONE_IN = 1.2, 16


class StraightThrough(nn.Module):
    """The same logits as the model's, with a gradient that passes straight through what cuts the model's own.

    The backward pass replaces (BPDA, backward pass differentiable approximation; Athalye et al. 2018):

    - rounding, other steps such as `sign`, and casts to integers by the identity
    - `a > b` by `a - b`
    - what an index argmax(z) chooses, such as `one_hot`, a row of a table or the output of a network, by the mean over
      all choices with the softmax of z; and a mask `argmax(z) == k` by the softmax of z at k
    - `detach`, `.data`, `no_grad` and `inference_mode` by nothing
    - what NumPy, Pillow and operations on integers compute by the identity, times a number, if the result has the same
      shape as their argument and correlates with it.

    So a product of a number and a comparison has the gradients of both. Other operations that cut a gradient are not
    seen, such as the model's own autograd functions.

    It works on a copy of the model with the same parameters, so that what a model stores in its passes gets no history.

    Args:
        model: in a guard: images (B, C, H, W) in [0, 1] -> logits (B, K).

    Attributes:
        cuts: in words, the operations that were replaced so far.

    Raises:
        IbrobustError: the model cannot be copied.
    """

    def __init__(self, model: GuardedModel) -> None:
        super().__init__()
        try:
            self.model = copied(model, shared=model.parameters())
        except Exception as error:  # an outside model may raise any error
            raise IbrobustError(
                f"The model cannot be copied ({error}), so no attack went past cuts of its gradient: give it a "
                "__deepcopy__."
            ) from error
        self.cuts: dict[str, None] = {}
        self._passed: list[weakref.ref[Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        if not torch.is_grad_enabled():
            return self.model(images)
        mode = PastCuts()
        try:
            with torch.enable_grad(), mode:  # restored here, since the model's own ways to restore it are switched off
                logits: Tensor = self.model(images)
        finally:
            self.cuts |= mode.cuts
            self._passed += mode.passed
        return logits

    @contextmanager
    def passes(self, *, in_place: bool = False) -> Iterator[None]:
        """Return the block for forward passes and their backward passes.

        With `in_place`, a forward pass may change tensors that the backward pass needs, as the model may under
        `no_grad`; it may then not use `torch.func`. Afterwards, detached tensors that the model's hooks have stored
        elsewhere have no history.
        """
        try:
            with torch.autograd.graph.allow_mutation_on_saved_tensors() if in_place else nullcontext():
                yield
        finally:
            for reference in self._passed:
                stored = reference()
                if stored is not None and stored.grad_fn is not None and not stored._is_view():
                    stored.detach_()
            self._passed.clear()


@dataclass(frozen=True)
class Cuts:
    """What cuts a model's gradient.

    Attributes:
        operations: in words, those past which `StraightThrough` has a gradient.
        warnings: sentences, if the model cannot be copied, or if its gradient vanishes and none could be passed.
        in_place: whether the model changes tensors in place that a backward pass needs.
    """

    operations: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    in_place: bool = False


def gradient_cuts(model: GuardedModel, images: Tensor, ball: Ball, *, batch_size: int = PROBED) -> Cuts:
    """Return what cuts a model's gradient at some of the images (B, C, H, W), of which `batch_size` are in a pass.

    Operations do if, for at least one in `ONE_IN` images, a step of the ball's size along the gradient of
    `StraightThrough` raises the margin by over `STRONGER` times as much as one along the model's own, or if only its
    own is zero.
    """
    images = images.detach()
    try:
        through = StraightThrough(model)
    except IbrobustError as error:
        return Cuts(warnings=(str(error),))
    parts, found, failure = images.split(batch_size), [], ""
    for in_place in (False, True):
        try:
            with through.passes(in_place=in_place):
                found = [_logits_and_gradient(through, part) for part in parts]
            break
        except IbrobustError as error:
            failure = failure or str(error)
    if not through.cuts:
        return Cuts()
    owns = [_gradient(*_pass(model, part)) for part in parts]
    if not found:
        vanished = sum(int(_is_zero(own).sum()) for own in owns)
        return Cuts(warnings=(_failing(through, failure),) if ONE_IN * vanished >= len(images) else ())
    cut = 0
    for part, own, (logits, gradient) in zip(parts, owns, found, strict=True):
        if gradient is not None:
            ahead, behind = (_gain(model, part, logits, each, ball) for each in (gradient, own))
            vanished_alone = _is_zero(own) & ~_is_zero(gradient)
            cut += int((vanished_alone | (ahead > STRONGER * behind.clamp(min=0.0))).sum())
    return Cuts(tuple(through.cuts), in_place=in_place) if ONE_IN * cut >= len(images) else Cuts()


def _is_zero(gradient: Tensor) -> Tensor:
    return (gradient == 0.0).flatten(1).all(dim=1)


def _logits_and_gradient(through: StraightThrough, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return logits (B, K), and the gradient of the margins if something was cut until now."""
    points, logits = _pass(through, images)
    return logits.detach(), _gradient(points, logits) if through.cuts else None


def _failing(through: StraightThrough, error: str) -> str:
    operations = ", ".join(through.cuts)
    return f"No attack went past what cuts the model's gradient ({operations}), since the passes there fail: {error}"


def _pass(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (B, C, H, W) that require a gradient, and their logits (B, K)."""
    points = images.clone().requires_grad_()
    with isolated_rng(0), torch.enable_grad():
        return points, model(points)


def _gradient(points: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient (B, C, H, W) of the margins; it is zero where it is no number."""
    with torch.enable_grad():
        value = margin(logits, logits.argmax(dim=1)).sum()
    return image_gradient(value, points).nan_to_num(0.0, 0.0, 0.0)


def _gain(model: nn.Module, images: Tensor, logits: Tensor, gradient: Tensor, ball: Ball) -> Tensor:
    """Return by how much a step along a gradient raises the margins (B,) over those of the images' logits (B, K)."""
    labels = logits.argmax(dim=1)
    moved = ball.project(images + ball.epsilon * ball.direction(gradient, images), images)
    with isolated_rng(0), torch.no_grad():
        return margin(model(moved), labels) - margin(logits, labels)
