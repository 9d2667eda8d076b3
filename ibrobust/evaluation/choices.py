"""Indices and masks that a model computes from scores, and the gradient of what it chooses with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Functions of indices and masks that only change their shape, by name.
SHAPES = {
    *("getitem", "squeeze", "unsqueeze", "view", "reshape", "flatten", "expand", "expand_as", "repeat", "permute"),
    *("transpose", "movedim", "contiguous", "clone", "to", "cpu", "cuda"),
}
# Functions that take the elements, rows or channels that an index names.
LOOKUPS = {"getitem", "embedding", "index_select", "take", "gather", "take_along_dim"}
# Functions that change their first argument where an index or a mask says, by name, with the places of the index and of
# the new values.
WRITES = {"__setitem__": (1, 2), "index_add_": (2, 3), "index_copy_": (2, 3), "index_add": (2, 3), "index_copy": (2, 3)}

MOST = 1000  # choices whose results are computed


class Choices:
    """What a forward pass has chosen so far by the largest of some scores.

    The gradient of a choice is that of the mean over all choices, weighted by the softmax of the scores. A mask that
    compares an index with one class has the weight of this class.
    """

    def __init__(self) -> None:
        # By id: the index itself, so that no other tensor gets its id, and its scores, with one more dimension at the
        # end for the classes.
        self._scores: dict[int, tuple[Tensor, Tensor]] = {}
        # By id: a mask, or an index of where it holds; and for each of its elements a 1 with the weight's gradient.
        self._ones: dict[int, tuple[Tensor, Tensor]] = {}

    def softmax(self, index: Any) -> Tensor | None:
        """Return the weights of all classes instead of an index, with one more dimension at the end; None without."""
        return self._scores[id(index)][1].softmax(dim=-1) if id(index) in self._scores else None

    def note_mask(self, mask: Tensor, ones: Tensor) -> None:
        """Store a mask from comparing an index with a class, and its weights: in value the mask itself."""
        self._ones[id(mask)] = mask, ones

    def note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Store the scores of a result that is an index, or a function of one."""
        name = getattr(func, "__name__", "").strip("_")
        if not args or out is args[0]:
            return
        first = args[0]
        if name in ("argmax", "argmin", "max", "min") and isinstance(first, Tensor):
            dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
            index = out if isinstance(out, Tensor) else out[1]
            if isinstance(dim, int) and first.is_floating_point() and first.requires_grad:
                scores = first.movedim(dim, -1)
                scores = -scores if name in ("argmin", "min") else scores
                kept = args[2] if len(args) > 2 else kwargs.get("keepdim", kwargs.get("keepdims"))
                self._scores[id(index)] = index, scores.unsqueeze(dim if dim >= 0 else dim - 1) if kept else scores
        elif name == "topk" and isinstance(first, Tensor) and first.is_floating_point() and first.requires_grad:
            index, dim = out[1], args[2] if len(args) > 2 else kwargs.get("dim", -1)
            scores = first.movedim(dim, -1).unsqueeze(dim if dim >= 0 else dim - 1)
            self._scores[id(index)] = index, scores.expand(*index.shape, -1)  # the same for each rank
        elif name == "stack" and all(id(each) in self._scores for each in first):
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            if dim >= 0:  # the classes come last, as before
                self._scores[id(out)] = out, torch.stack([self._scores[id(each)][1] for each in first], dim)
        elif name == "unbind" and id(first) in self._scores:
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            each_has = self._scores[id(first)][1].unbind(dim if dim >= 0 else dim - 1)
            self._scores |= {id(index): (index, own) for index, own in zip(out, each_has, strict=True)}
        elif name in SHAPES and isinstance(out, Tensor) and out.dtype == first.dtype:
            if id(first) in self._scores:
                planes = self._scores[id(first)][1].unbind(-1)
                self._scores[id(out)] = out, torch.stack([func(plane, *args[1:], **kwargs) for plane in planes], -1)
            elif id(first) in self._ones:
                self._ones[id(out)] = out, func(self._ones[id(first)][1], *args[1:], **kwargs)
        elif name in ("nonzero", "where") and len(args) == 1 and id(first) in self._ones:
            ones = self._ones[id(first)][1][first]
            if not isinstance(out, Tensor):
                self._ones |= {id(each): (each, ones) for each in out}
            elif first.ndim == 1:
                self._ones[id(out)] = out, ones[:, None]

    def looked_up(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor
    ) -> Tensor | None:
        """Return what has the gradient of a look-up `out` by an index with scores, or by a mask; None if it is none."""
        name = getattr(func, "__name__", "").strip("_")
        if name == "where" and len(args) == 3 and id(args[0]) in self._ones:
            here, there = (each.detach() if isinstance(each, Tensor) else each for each in args[1:])
            return out + self._ones[id(args[0])][1] * (here - there)
        if name not in LOOKUPS or not out.is_floating_point():
            return None
        if (ones := self._ones_of(args[1])) is not None and out.shape[:1] == ones.shape:
            return out * _ahead(ones, out)
        places = [each for each in (args[1] if isinstance(args[1], tuple) else args) if id(each) in self._scores]
        if len(places) != 1:
            return None
        index = places[0]
        weights = self._scores[id(index)][1].softmax(dim=-1)
        if weights.shape[-1] > MOST:
            return None
        fixed = tuple(each.detach() if isinstance(each, Tensor) and each.is_floating_point() else each for each in args)
        if name in ("getitem", "take") and args[1] is index:  # of a table
            mean = weights @ fixed[0]
        elif name == "embedding":
            mean = weights @ fixed[1 if args[0] is index else 0]
        else:
            mean = torch.zeros_like(out)
            for label, weight in enumerate(weights.unbind(-1)):
                mean = mean + _ahead(weight, out) * func(*_with(fixed, index, torch.full_like(index, label)), **kwargs)
        # The gradient of what was chosen stays as it is.
        return out + mean if out.requires_grad else mean

    def written(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of a function that writes: the new values get the gradient of the mask's weights."""
        if name not in WRITES or len(args) <= WRITES[name][1]:
            return args
        at, place = WRITES[name]
        ones, values = self._ones_of(args[at]), args[place]
        if ones is None or not isinstance(values, Tensor) or values.shape[:1] != ones.shape:
            return args
        return (*args[:place], values * _ahead(ones, values).to(values.dtype), *args[place + 1 :])

    def _ones_of(self, index: Any) -> Tensor | None:
        """Return the ones (M,) of a mask or an index, also among others in a tuple; None if it has none."""
        for each in index if isinstance(index, tuple) else (index,):
            if id(each) in self._ones:
                ones = self._ones[id(each)][1]
                return ones[each] if each.dtype == torch.bool else ones.flatten()
        return None


def _ahead(weights: Tensor, out: Tensor) -> Tensor:
    """Return weights for the first dimensions of `out`."""
    return weights.reshape(*weights.shape, *(1,) * (out.ndim - weights.ndim))


def _with(args: tuple[Any, ...], old: Tensor, new: Tensor) -> tuple[Any, ...]:
    """Return the arguments with one tensor replaced, also in a tuple among them."""
    return tuple(_with(each, old, new) if isinstance(each, tuple) else new if each is old else each for each in args)
