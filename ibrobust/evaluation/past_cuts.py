"""The operations that cut a gradient, each with the gradient that stands for its own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ibrobust.evaluation.choices import Choices
from ibrobust.evaluation.replaced_gradient import with_gradient_of

# By the names of torch's functions, without the underscores of operators and of functions that change their argument.
STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "bernoulli"}
QUOTIENTS = {"floordiv", "floor_divide"}
LOGICAL = {"eq", "ne", "and", "logical_and", "invert", "logical_not"}
FAILING = (RuntimeError, TypeError, IndexError, ValueError, AttributeError)
BINS = {"bucketize", "searchsorted"}
UPWARD, DOWNWARD = {"gt", "ge", "greater", "greater_equal"}, {"lt", "le", "less", "less_equal"}
CASTS = {"to", "type", "type_as", "byte", "char", "short", "int", "long", "bool"}
DETACHING: set[Any] = {torch.detach, torch.detach_, Tensor.detach, Tensor.detach_, Tensor.data.__get__}  # type: ignore[attr-defined]
REQUIRING: set[Any] = {Tensor.requires_grad_, Tensor.requires_grad.__set__}  # type: ignore[attr-defined]
LEAVING: set[Any] = {Tensor.numpy, Tensor.__array__, Tensor.tolist}
# A tensor without a gradient is one that has left torch before, changed, if it has its shape and correlates so much.
# JPEG and few levels leave more than 0.9. So many numbers hardly do so by chance.
RETURNED, FEWEST = 0.7, 16


class PastCuts(TorchFunctionMode):
    """In its block, what cuts a gradient gets another one: `StraightThrough` lists which.

    It sees every call of a torch function.

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
        # Tensors with a gradient whose values left torch, or entered a function that takes no floats; where, in words.
        self._left: list[tuple[Tensor, tuple[str, ...]]] = []
        self._choices = Choices()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            self._note(("inference_mode",))
            with torch.inference_mode(False):
                return self.__torch_function__(func, types, args, kwargs)
        name = getattr(func, "__name__", "")
        if func is torch._C._set_grad_enabled:
            self._note(() if args[0] else ("no_grad",))
            return func(True)
        if func in REQUIRING and args[0].requires_grad and not args[0].is_leaf:
            # What was detached has a history here, and its `grad` is asked for next. Two such may have one origin.
            view = args[0].view_as(args[0])
            for each in (args[0], view):
                each.retain_grad()
            return view
        if name == "backward":  # the backward pass to the images needs the graph again
            return func(*args, **{**kwargs, "retain_graph": True})
        if func in DETACHING:
            if args[0].requires_grad:
                self._note(("detach",))
                self.passed.append(weakref.ref(args[0]))
            return args[0]
        if func in LEAVING:
            self._leave(args[:1], "NumPy" if func is not Tensor.tolist else "a list")
            return func(args[0].detach(), *args[1:], **kwargs)
        if name.startswith("lift_fresh"):  # torch's own step within `from_numpy`, whose result is another object
            return func(*args, **kwargs)
        if self._left:
            kept = 1 if _changes(name) else 0  # what is changed in place has to be the model's own tensor
            args = (*args[:kept], *(self._returned(each) for each in args[kept:]))
        if name.endswith("_") and name[:-1] in STEPS:
            # In place: the argument gets a new history. `bernoulli_` depends on the probabilities alone.
            smooth = args[0].clone() if name != "bernoulli_" else args[1] if len(args) > 1 else None
            if isinstance(smooth, Tensor) and smooth.requires_grad:
                self._note((name[:-1],))
                changed = func(args[0].detach().clone(), *args[1:], **kwargs)
                return args[0].copy_(with_gradient_of(changed, smooth.expand_as(changed)))
        args, given = self._choices.written(name, args), args
        self._note(("argmax",) if args is not given else ())
        out = func(*args, **kwargs)
        with suppress(*FAILING):
            self._choices.note(func, args, kwargs, out)
        if name in BINS:
            self._leave(args, name)
        if isinstance(out, (tuple, list)) and args and id(args[0]) in self._twins:  # such as `unbind` and `chunk`
            with suppress(*FAILING):
                for part, twin in zip(out, func(self._twins[id(args[0])][1], *args[1:], **kwargs), strict=True):
                    self._twins[id(part)] = part, twin, self._cuts_of(args[:1])
            return out
        if not isinstance(out, Tensor) or out.is_complex():
            return out
        try:
            words, smooth = self._smooth(func, name, args, kwargs, out)
        except FAILING:  # it takes no floats, such as an index or a bit
            self._leave(args, "an operation on integers")
            return out
        if smooth is None or not smooth.requires_grad or smooth.shape != out.shape:
            return out
        words = (*self._cuts_of(args), *words)
        if out.is_floating_point():
            self._note(words)
            return with_gradient_of(out, smooth)
        self._twins[id(out)] = out, with_gradient_of(out.to(smooth.dtype), smooth), words
        if name.strip("_") in LOGICAL and "argmax" in words:
            self._choices.note_mask(out, self._twins[id(out)][1])
        return out

    def _note(self, words: Iterable[str]) -> None:
        self.cuts |= dict.fromkeys(words)

    def _leave(self, values: Iterable[Any], place: str) -> None:
        """Store those of the values that have a gradient or a twin, until they come back as other tensors."""
        for value in values:
            twin = self._twin(value)
            if isinstance(twin, Tensor) and twin.requires_grad and twin.numel() >= FEWEST:
                self._left.append((twin, (*self._cuts_of([value]), place)))

    def _returned(self, value: Any) -> Any:
        """Return a tensor that has left torch with the gradient of what left, also in a list; others as they are.

        A tensor of integers, which can have no gradient, gets a twin.
        """
        if isinstance(value, (list, tuple)):
            found = [self._returned(each) for each in value]
            return found if any(one is not other for one, other in zip(found, value, strict=True)) else value
        if not isinstance(value, Tensor) or value.requires_grad or id(value) in self._twins or value.is_complex():
            return value
        smooth, words = self._source(value)
        if smooth is None:
            return value
        if value.is_floating_point():
            self._note(words)
            return with_gradient_of(value, smooth.to(value))
        smooth = smooth.to(value.device)
        self._twins[id(value)] = value, with_gradient_of(value.to(smooth.dtype), smooth), words
        return value

    def _source(self, value: Tensor) -> tuple[Tensor | None, tuple[str, ...]]:
        """Return what left as these values, times a number, and what cut it; or None for it.

        It is one of the tensors that left, or an image of a batch that left, or the batch of all images that left.
        """
        for number, (source, words) in enumerate(self._left):
            if (smooth := _alike(value, source)) is not None:
                del self._left[number]  # the next tensor that comes back is another one
                return smooth, words
            if source.ndim > 3 and len(source) > 1 and source[0].numel() == value.numel():
                self._left[number : number + 1] = [(image, words) for image in source]
                return self._source(value)
        images = [source for source, _ in self._left]
        if len(images) > 1 and value.ndim > 3 and len(value) == len(images) and len({x.shape for x in images}) == 1:
            return _alike(value, torch.stack(images)), self._left[0][1]
        return None, ()

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
        if (looked_up := self._choices.looked_up(func, args, kwargs, out)) is not None:
            return ("argmax",), looked_up
        if out.requires_grad:
            return (), None
        if name in CASTS and twins and twins[0] is not first and not out.is_floating_point():
            return (), twins[0]
        if name == "one_hot" and (weights := self._choices.softmax(first)) is not None:
            return ("argmax",), weights
        if name in ("eq", "ne"):
            for index, label in (args[:2], args[1::-1]):
                if (weights := self._choices.softmax(index)) is not None:
                    labels = torch.as_tensor(label, device=out.device).expand(out.shape)[..., None]
                    possible = (labels >= 0) & (labels < weights.shape[-1])
                    equal = weights.expand(*out.shape, -1).gather(-1, labels.where(possible, 0)).where(possible, 0.0)
                    return ("argmax",), equal[..., 0] if name == "eq" else 1.0 - equal[..., 0]
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


def _alike(value: Tensor, source: Tensor) -> Tensor | None:
    """Return the multiple of `source` that comes nearest to `value`, or None if the two do not correlate.

    NumPy and Pillow have the channels last: `source` may have them there, or first.
    """
    if source.numel() != value.numel():
        return None
    for moved in (source, *((source.movedim(-3, -1), source.movedim(-1, -3)) if source.ndim > 2 else ())):
        if moved.shape == value.shape:
            one, other = (each.detach().double().flatten().cpu() for each in (value, moved))
            one, other = one - one.mean(), other - other.mean()
            product, square = float(one @ other), float(other @ other)
            if product > RETURNED * float(one.norm()) * square**0.5:
                return product / square * moved
    return None


def _changes(name: str) -> bool:
    """Return whether the function of this name changes its argument: a second call would do it twice."""
    is_operator = name.startswith("__i") and name != "__invert__"
    return name == "__setitem__" or is_operator or (name.endswith("_") and not name.endswith("__"))
