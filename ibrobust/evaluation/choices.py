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

MOST = 2**25  # numbers: the elements of an index, for each class; beyond it there is no gradient


class _Known(dict[int, tuple[Tensor, int, Tensor]]):
    """Something about tensors, by their ids: the tensor itself, so that no other gets its id, its version, and that."""

    def of(self, tensor: Any) -> Tensor | None:
        """Return what is known of a tensor; None if nothing is, or if the tensor was changed in place since."""
        known = self.get(id(tensor))
        return known[2] if known is not None and known[1] == known[0]._version else None

    def put(self, tensor: Tensor, about: Tensor) -> None:
        self[id(tensor)] = tensor, tensor._version, about


class Choices:
    """What a forward pass has chosen so far by the largest of some scores.

    The gradient of a choice is that of the mean over all choices, weighted by the softmax of the scores. A mask that
    compares an index with one class has the weight of this class.
    """

    def __init__(self) -> None:
        # Of indices: their scores, with one more dimension at the end for the classes.
        self._scores = _Known()
        # Of masks, and of indices of where a mask holds: for each element a 1 with the weight's gradient.
        self._ones = _Known()

    def softmax(self, index: Any) -> Tensor | None:
        """Return the weights of all classes instead of an index, with one more dimension at the end; None without."""
        scores = self._scores.of(index)
        return None if scores is None else scores.softmax(dim=-1)

    def note_mask(self, mask: Tensor, ones: Tensor) -> None:
        """Store a mask from comparing an index with a class, and its weights: in value the mask itself."""
        self._ones.put(mask, ones)

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
                self._scores.put(index, scores.unsqueeze(dim if dim >= 0 else dim - 1) if kept else scores)
        elif name == "topk" and isinstance(first, Tensor) and first.is_floating_point() and first.requires_grad:
            index, dim = out[1], args[2] if len(args) > 2 else kwargs.get("dim", -1)
            scores = first.movedim(dim, -1).unsqueeze(dim if dim >= 0 else dim - 1)
            self._scores.put(index, scores.expand(*index.shape, -1))  # the same for each rank
        elif name == "stack":
            dim, parts = args[1] if len(args) > 1 else kwargs.get("dim", 0), [self._scores.of(each) for each in first]
            if dim >= 0 and all(each is not None for each in parts):  # the classes come last, as before
                self._scores.put(out, torch.stack(parts, dim))  # type: ignore[arg-type]
        elif name == "unbind" and (known := self._scores.of(first)) is not None:
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            for index, scores in zip(out, known.unbind(dim if dim >= 0 else dim - 1), strict=True):
                self._scores.put(index, scores)
        elif name in SHAPES and isinstance(out, Tensor) and out.dtype == first.dtype:
            if (known := self._scores.of(first)) is not None and out.numel() * known.shape[-1] <= MOST:
                self._scores.put(out, torch.stack([func(each, *args[1:], **kwargs) for each in known.unbind(-1)], -1))
            elif (ones := self._ones.of(first)) is not None:
                self._ones.put(out, func(ones, *args[1:], **kwargs))
        elif name in ("nonzero", "where") and len(args) == 1 and (ones := self._ones.of(first)) is not None:
            if not isinstance(out, Tensor):
                for each in out:
                    self._ones.put(each, ones[first])
            elif first.ndim == 1:
                self._ones.put(out, ones[first][:, None])

    def looked_up(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor
    ) -> Tensor | None:
        """Return what has the gradient of a look-up `out` by an index with scores, or by a mask; None if it is none."""
        name = getattr(func, "__name__", "").strip("_")
        if name == "where" and len(args) == 3 and (ones := self._ones.of(args[0])) is not None:
            here, there = (each.detach() if isinstance(each, Tensor) else each for each in args[1:])
            # An infinite difference, as from a class that is ruled out, has no gradient to give.
            return out + ones * (here - there).nan_to_num(0.0, 0.0, 0.0)
        if name not in LOOKUPS or not out.is_floating_point():
            return None
        if name == "getitem" and (ones := self._ones_of(args[1])) is not None and out.shape[:1] == ones.shape:
            return out * _ahead(ones, out)
        given = (*args, *kwargs.values())
        places = [each for each in (args[1] if isinstance(args[-1], tuple) else given) if each is not None]
        indices = [each for each in places if self._scores.of(each) is not None]
        weights = self.softmax(indices[0]) if len(indices) == 1 else None
        if weights is None or weights.numel() > MOST:
            return None
        (index,) = indices
        fixed = tuple(_without_history(each) for each in given)
        if name in ("getitem", "take", "embedding") and any(each is index for each in args):  # of a table
            table = next(each for each in fixed if isinstance(each, Tensor) and each.is_floating_point())
            mean = torch.tensordot(weights.to(table.dtype), table.flatten() if name == "take" else table, 1)
        else:
            mean = torch.zeros_like(out)
            for label, weight in enumerate(weights.unbind(-1)):
                chosen = _with(fixed, index, torch.full_like(index, label))
                by_name = dict(zip(kwargs, chosen[len(args) :], strict=True))
                mean = mean + _ahead(weight, out).to(out.dtype) * func(*chosen[: len(args)], **by_name)
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
            if (ones := self._ones.of(each)) is not None:
                return ones[each] if each.dtype == torch.bool else ones.flatten()
        return None


def _without_history(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and value.is_floating_point() else value


def _ahead(weights: Tensor, out: Tensor) -> Tensor:
    """Return weights for the first dimensions of `out`."""
    return weights.reshape(*weights.shape, *(1,) * (out.ndim - weights.ndim))


def _with(args: tuple[Any, ...], old: Tensor, new: Tensor) -> tuple[Any, ...]:
    """Return the arguments with one tensor replaced, also in a tuple among them."""
    return tuple(_with(each, old, new) if isinstance(each, tuple) else new if each is old else each for each in args)
