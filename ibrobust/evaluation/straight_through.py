"""A model's gradient, also through operations that cut it: rounding, comparisons, votes, `detach` and `no_grad`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.guarded_model import GuardedModel, image_gradient
from ibrobust.isolated_rng import isolated_rng

# By the names of torch's functions, without the underscores of operators and of functions that change their argument.
STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "bernoulli"}
COMPARISONS = {"gt": 1.0, "ge": 1.0, "lt": -1.0, "le": -1.0, "greater": 1.0, "less": -1.0}
CASTS = {"to", "type", "byte", "char", "short", "int", "long", "bool"}
DETACHING: set[Any] = {torch.detach, torch.detach_, Tensor.detach, Tensor.detach_, Tensor.data.__get__}  # type: ignore[attr-defined]
TO_NUMPY: set[Any] = {Tensor.numpy, Tensor.__array__}

PROBED = 8  # images, to see which operations cut a gradient
ROUNDED = 0.01  # relative difference of two gradients that may be rounding


class StraightThrough(nn.Module):
    """The same logits as the model's, with a gradient that passes straight through what cuts the model's own.

    The backward pass replaces (BPDA, backward pass differentiable approximation; Athalye et al. 2018):

    - rounding, other steps such as `sign`, and casts to integers by the identity
    - `a > b` by `a - b`, and `one_hot(argmax(z))` by the softmax of z, in what is computed from them
    - `detach`, `.data` and `no_grad` by nothing.

    What has a gradient of its own keeps it. NumPy arrays and autograd functions of the model are not seen.

    Args:
        model: in a guard: images (B, C, H, W) in [0, 1] -> logits (B, K).

    Attributes:
        cuts: in words, the operations that cut a gradient so far.
        replaced: whether any logits may have another gradient than the model's own.
    """

    def __init__(self, model: GuardedModel) -> None:
        super().__init__()
        self.model = model
        self.cuts: dict[str, None] = {}
        self.replaced = False

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        if not torch.is_grad_enabled():
            return self.model(images)
        mode = _Mode()
        with torch.enable_grad(), mode:  # restored here, since the model's own ways to restore it are switched off
            logits: Tensor = self.model(images)
        self.cuts |= mode.cuts
        self.replaced |= mode.replaced
        return logits


def gradient_cuts(model: GuardedModel, images: Tensor) -> tuple[str, ...]:
    """Return, in words, the operations of a model that cut its gradient at some of the images (B, C, H, W).

    None if the gradient of `StraightThrough` is the model's, or if its backward pass fails.
    """
    through = StraightThrough(model)
    try:
        with torch.enable_grad():
            points, value = _value(through, images[:PROBED])
            if not through.replaced:
                return ()
            gradient = image_gradient(value, points)
            points, value = _value(model, images[:PROBED])
            own = image_gradient(value, points)
    except IbrobustError:
        return ()
    gradient, own = (each.nan_to_num(0.0, 0.0, 0.0) for each in (gradient, own))
    differs = bool(torch.dist(gradient, own) > ROUNDED * torch.linalg.vector_norm(own))
    return tuple(through.cuts) if differs else ()


def _value(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return points (B, C, H, W) that require a gradient, and a sum () of unequal shares of their logits."""
    points = images.detach().clone().requires_grad_()
    with isolated_rng(0):
        logits = model(points)
    shares = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
    return points, (logits * shares).sum()


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
    """Sees every call of a torch function in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.cuts: dict[str, None] = {}
        self.replaced = False
        # For tensors without a gradient, by id: the tensor itself, so that no other gets its id, and a tensor with a
        # gradient. That is one of the same values (twins), or the scores whose largest an index is of (scores).
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}
        self._scores: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            if not args[0]:
                self._cut("no_grad", replaced=True)
            return func(True)
        if func in DETACHING:
            if args[0].requires_grad:
                self._cut("detach", replaced=True)
            return args[0]
        if func in TO_NUMPY:
            return func(args[0].detach(), *args[1:], **kwargs)
        name = getattr(func, "__name__", "")
        if name.endswith("_") and name[:-1] in STEPS:
            # In place: the argument gets a new history.
            if args[0].requires_grad:
                self._cut(name[:-1], replaced=True)
            return args[0].copy_(_replace(getattr(args[0], name[:-1])(*args[1:], **kwargs), args[0].clone()))
        out = func(*args, **kwargs)
        if name in ("argmax", "max"):
            self._remember(args, kwargs, out if isinstance(out, Tensor) else out[1])
        if not isinstance(out, Tensor):
            return out
        try:
            smooth = self._smooth(func, name, args, kwargs, out)
        except (RuntimeError, TypeError, IndexError, ValueError):  # it takes no floats, such as an index or a bit
            return out
        if smooth is None or not smooth.requires_grad or smooth.shape != out.shape:
            return out
        self._cut(_words(name.strip("_"), kwargs, out), replaced=out.is_floating_point())
        if out.is_floating_point():
            return _replace(out, smooth)
        self._twins[id(out)] = out, _replace(out.to(smooth.dtype), smooth)
        return out

    def _cut(self, words: str, *, replaced: bool) -> None:
        """Note an operation that cuts a gradient; "" if it only passes one on."""
        self.cuts |= {words: None} if words else {}
        self.replaced |= replaced

    def _remember(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], index: Tensor) -> None:
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if isinstance(dim, int) and args[0].is_floating_point() and args[0].requires_grad:
            self._scores[id(index)] = index, args[0].movedim(dim, -1)

    def _smooth(
        self, func: Callable[..., Any], func_name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor
    ) -> Tensor | None:
        """Return a tensor with a gradient that stands for `out`; None if there is none, or `out` has its own."""
        name, first = func_name.strip("_"), args[0] if args and isinstance(args[0], Tensor) else None
        twins = [self._twin(each) for each in args]
        if name in COMPARISONS:
            return COMPARISONS[name] * (twins[0] - twins[1])
        if first is not None and first.is_floating_point():
            if name in STEPS or (name in CASTS and not out.is_floating_point()):
                return first
            if kwargs.get("rounding_mode"):
                return first / args[1]
        if out.requires_grad:
            return None
        if name == "one_hot" and id(first) in self._scores:
            return self._scores[id(first)][1].softmax(dim=-1)
        if all(one is other for one, other in zip(twins, args, strict=True)) or _changes(func_name):
            return None
        if name == "where" and len(args) == 3:
            return twins[0] * args[1] + (1.0 - twins[0]) * args[2]
        return func(*twins, **kwargs)

    def _twin(self, value: Any) -> Any:
        """Return the tensor with a gradient instead of `value`, also in a list; `value` itself if it has none."""
        if isinstance(value, (list, tuple)):
            found = [self._twin(each) for each in value]
            return found if any(one is not other for one, other in zip(found, value, strict=True)) else value
        known = self._twins.get(id(value))
        return value if known is None else known[1]


def _words(name: str, kwargs: Mapping[str, Any], out: Tensor) -> str:
    if name in COMPARISONS:
        return "a comparison"
    if name == "one_hot":
        return "argmax"
    if kwargs.get("rounding_mode"):
        return "a rounded quotient"
    if name in CASTS and not out.is_floating_point():
        return "a cast to integers"
    return name if name in STEPS else ""


def _changes(name: str) -> bool:
    """Return whether the function of this name changes its argument: a second call would do it twice."""
    is_operator = name.startswith("__i") and name != "__invert__"
    return name == "__setitem__" or is_operator or (name.endswith("_") and not name.endswith("__"))
