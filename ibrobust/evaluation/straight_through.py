"""A model's gradient, also through operations that cut it: rounding, comparisons, votes, `detach` and `no_grad`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ibrobust.copied_module import copied
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import GuardedModel, image_gradient
from ibrobust.evaluation.past_cuts import PastCuts
from ibrobust.isolated_rng import isolated_rng

PROBED = 8  # images, to see which operations cut a gradient
# A gradient past the cuts is another one than the model's if a step along it raises the logits by so much more.
STRONGER = 1.2


class StraightThrough(nn.Module):
    """The same logits as the model's, with a gradient that passes straight through what cuts the model's own.

    The backward pass replaces (BPDA, backward pass differentiable approximation; Athalye et al. 2018):

    - rounding, other steps such as `sign`, and casts to integers by the identity
    - `a > b` by `a - b`
    - `one_hot(argmax(z))`, or another table with the rows argmax(z), by the mean of its rows with the softmax of z
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
        with torch.enable_grad(), mode:  # restored here, since the model's own ways to restore it are switched off
            logits: Tensor = self.model(images)
        self.cuts |= mode.cuts
        self._passed += mode.passed
        return logits

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Return the block for forward passes and their backward passes.

        In it, a forward pass may change tensors that the backward pass needs, as the model may under `no_grad`.
        Afterwards, detached tensors that the model's hooks have stored elsewhere have no history.
        """
        try:
            with torch.autograd.graph.allow_mutation_on_saved_tensors():
                yield
        finally:
            for reference in self._passed:
                stored = reference()
                if stored is not None and stored.grad_fn is not None and not stored._is_view():
                    stored.detach_()
            self._passed.clear()


def gradient_cuts(model: GuardedModel, images: Tensor, ball: Ball) -> tuple[str, ...]:
    """Return, in words, the operations of a model that cut its gradient at some of the images (B, C, H, W).

    None if a step of the ball's size along the gradient of `StraightThrough` raises logits no more than one along the
    model's own, or if its backward pass fails. A gradient of zero raises nothing.

    Raises:
        IbrobustError: the model cannot be copied.
    """
    images = images[:PROBED].detach()
    through = StraightThrough(model)
    try:
        with through.passes():
            points, value = _value_at(through, images)
            if not through.cuts:
                return ()
            gradient = _gradient(points, value)
        own = _gradient(*_value_at(model, images))
    except IbrobustError:
        return ()
    if not own.any():
        return tuple(through.cuts) if gradient.any() else ()
    ahead, behind = (_gain(model, images, each, ball, float(value.detach())) for each in (gradient, own))
    return tuple(through.cuts) if ahead > STRONGER * max(behind, 0.0) else ()


def _value_at(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (B, C, H, W) that require a gradient, and a sum () of unequal shares of their logits."""
    points = images.clone().requires_grad_()
    with isolated_rng(0), torch.enable_grad():
        return points, _value(model(points))


def _gradient(points: Tensor, value: Tensor) -> Tensor:
    return image_gradient(value, points).nan_to_num(0.0, 0.0, 0.0)


def _gain(model: nn.Module, images: Tensor, gradient: Tensor, ball: Ball, start: float) -> float:
    moved = ball.project(images + ball.epsilon * ball.direction(gradient, images), images)
    with isolated_rng(0), torch.no_grad():
        return float(_value(model(moved))) - start


def _value(logits: Tensor) -> Tensor:
    shares = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
    # A logit of -inf, which rules a class out, does not count: as the largest float it would be the whole sum.
    return (logits.nan_to_num(0.0, 0.0, 0.0) * shares).sum()
