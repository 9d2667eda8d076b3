"""A model's gradient, also through operations that cut it: rounding, comparisons, votes, `detach` and `no_grad`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ibrobust.copied_module import copied
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.ball import Ball
from ibrobust.evaluation.guarded_model import GuardedModel, image_gradient
from ibrobust.isolated_rng import isolated_rng

# By the names of torch's functions, without the underscores of operators and of functions that change their argument.
STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "bernoulli"}
QUOTIENTS = {"floordiv", "floor_divide"}
UPWARD, DOWNWARD = {"gt", "ge", "greater", "greater_equal"}, {"lt", "le", "less", "less_equal"}
CASTS = {"to", "type", "type_as", "byte", "char", "short", "int", "long", "bool"}
DETACHING: set[Any] = {torch.detach, torch.detach_, Tensor.detach, Tensor.detach_, Tensor.data.__get__}  # type: ignore[attr-defined]
TO_NUMPY: set[Any] = {Tensor.numpy, Tensor.__array__}

PROBED = 8  # images, to see which operations cut a gradient
# A gradient past the cuts is another one than the model's if a step along it raises the logits by so much more.
STRONGER = 1.2


class StraightThrough(nn.Module):
    """The same logits as the model's, with a gradient that passes straight through what cuts the model's own.

    The backward pass replaces (BPDA, backward pass differentiable approximation; Athalye et al. 2018):

    - rounding, other steps such as `sign`, and casts to integers by the identity
    - `a > b` by `a - b`
    - `one_hot(argmax(z))`, or another table with the rows argmax(z), by the mean of its rows with the softmax of z
    - `detach`, `.data` and `no_grad` by nothing.

    So a product of a number and a comparison has the gradients of both. Other operations that cut a gradient are not
    seen: those on bits, NumPy arrays, and autograd functions of the model.

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
        mode = _Mode()
        with torch.enable_grad(), mode:  # restored here, since the model's own ways to restore it are switched off
            logits: Tensor = self.model(images)
        self.cuts |= mode.cuts
        self._passed += mode.passed
        return logits

    def release(self) -> None:
        """Cut the history of detached tensors that the model's hooks have stored elsewhere."""
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
        try:
            points, value = _value_at(through, images)
            if not through.cuts:
                return ()
            gradient = _gradient(points, value)
        finally:
            through.release()
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


class _Replace(torch.autograd.Function):
    """One tensor's values, bit for bit, with another one's gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, smooth: Tensor) -> Tensor:
        del ctx, smooth
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        del ctx
        return None, gradients[0]


def _replace(value: Tensor, smooth: Tensor) -> Tensor:
    return _Replace.apply(value.detach(), smooth)


class _Mode(TorchFunctionMode):
    """Sees every call of a torch function in its block.

    Attributes:
        cuts: in words, the operations that were replaced.
        passed: the tensors that `detach` would have cut off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cuts: dict[str, None] = {}
        self.passed: list[weakref.ref[Tensor]] = []
        # For tensors without a gradient, by id: the tensor itself, so that no other gets its id; a tensor of the same
        # values with a gradient; and what cut it, in words.
        self._twins: dict[int, tuple[Tensor, Tensor, tuple[str, ...]]] = {}
        # For indices, by id: the index itself, and the scores (..., K) whose largest it is of.
        self._scores: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            self._note(() if args[0] else ("no_grad",))
            return func(True)
        if func in DETACHING:
            if args[0].requires_grad:
                self._note(("detach",))
                self.passed.append(weakref.ref(args[0]))
            return args[0]
        if func in TO_NUMPY:
            return func(args[0].detach(), *args[1:], **kwargs)
        name = getattr(func, "__name__", "")
        if name.endswith("_") and name[:-1] in STEPS:
            # In place: the argument gets a new history.
            self._note((name[:-1],) if args[0].requires_grad else ())
            return args[0].copy_(_replace(getattr(args[0], name[:-1])(*args[1:], **kwargs), args[0].clone()))
        out = func(*args, **kwargs)
        self._remember(name, args, kwargs, out)
        if not isinstance(out, Tensor) or out.is_complex():
            return out
        try:
            words, smooth = self._smooth(func, name, args, kwargs, out)
        except (RuntimeError, TypeError, IndexError, ValueError):  # it takes no floats, such as an index or a bit
            return out
        if smooth is None or not smooth.requires_grad or smooth.shape != out.shape:
            return out
        words = (*self._cuts_of(args), *words)
        if out.is_floating_point():
            self._note(words)
            return _replace(out, smooth)
        self._twins[id(out)] = out, _replace(out.to(smooth.dtype), smooth), words
        return out

    def _note(self, words: Iterable[str]) -> None:
        self.cuts |= dict.fromkeys(words)

    def _remember(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Store the scores of indices: those of `argmax`, `argmin` and `max`, and of a stack of such."""
        if not args:
            return
        if name in ("argmax", "argmin", "max") and isinstance(args[0], Tensor):
            dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
            index = out if isinstance(out, Tensor) else out[1]
            if isinstance(dim, int) and args[0].is_floating_point() and args[0].requires_grad:
                scores = args[0].movedim(dim, -1)
                self._scores[id(index)] = index, -scores if name == "argmin" else scores
        elif name == "stack" and all(id(each) in self._scores for each in args[0]):
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            if dim >= 0:  # the classes come last, as before
                self._scores[id(out)] = out, torch.stack([self._scores[id(each)][1] for each in args[0]], dim)

    def _smooth(
        self, func: Callable[..., Any], func_name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor
    ) -> tuple[tuple[str, ...], Tensor | None]:
        """Return what is cut here, in words, and a tensor with a gradient that stands for `out`; or None for it."""
        name, first = func_name.strip("_"), args[0] if args and isinstance(args[0], Tensor) else None
        twins = [self._twin(each) for each in args]
        if name in UPWARD | DOWNWARD:
            return ("a comparison",), twins[0] - twins[1] if name in UPWARD else twins[1] - twins[0]
        if name in QUOTIENTS or kwargs.get("rounding_mode"):
            return ("a rounded quotient",), twins[0] / twins[1]
        if first is not None and first.is_floating_point():
            if name in STEPS:
                return (name,), first
            if name in CASTS and not out.is_floating_point():
                return ("a cast to integers",), first
        if out.requires_grad:
            return (), None
        if name == "one_hot" and id(first) in self._scores:
            return ("argmax",), self._scores[id(first)][1].softmax(dim=-1)
        if name == "getitem" and id(args[1]) in self._scores and out.is_floating_point():
            return ("argmax",), self._scores[id(args[1])][1].softmax(dim=-1) @ args[0]
        if all(one is other for one, other in zip(twins, args, strict=True)) or _changes(func_name):
            return (), None
        if name in ("invert", "logical_not") and out.dtype == torch.bool:
            return (), 1.0 - twins[0]
        if name in ("and", "logical_and") and out.dtype == torch.bool:
            return (), twins[0] * twins[1]
        if name == "where" and len(args) == 3:
            return (), twins[0] * args[1] + (1.0 - twins[0]) * args[2]
        return (), func(*twins, **kwargs)

    def _twin(self, value: Any) -> Any:
        """Return the tensor with a gradient instead of `value`, also in a list; `value` itself if it has none."""
        if isinstance(value, (list, tuple)):
            found = [self._twin(each) for each in value]
            return found if any(one is not other for one, other in zip(found, value, strict=True)) else value
        known = self._twins.get(id(value))
        return value if known is None else known[1]

    def _cuts_of(self, values: Iterable[Any]) -> tuple[str, ...]:
        """Return what cut the values that have a twin."""
        found: list[str] = []
        for value in values:
            if isinstance(value, (list, tuple)):
                found += self._cuts_of(value)
            elif id(value) in self._twins:
                found += self._twins[id(value)][2]
        return tuple(dict.fromkeys(found))


def _changes(name: str) -> bool:
    """Return whether the function of this name changes its argument: a second call would do it twice."""
    is_operator = name.startswith("__i") and name != "__invert__"
    return name == "__setitem__" or is_operator or (name.endswith("_") and not name.endswith("__"))
