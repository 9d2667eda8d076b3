"""A fingerprint of code that is an attack, or of a surrogate: a run is not resumed with another one."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibrobust.evaluation.attacks.state import data_digests


def fingerprint(value: Callable[..., Any]) -> str:
    """Return a SHA-256 of a function's text and of the values that it works with, or of an object or a module.

    These are its default values, what it encloses or binds, and what it reads from its module: numbers, text,
    collections of these, tensors, the weights of modules, and functions and classes of its own package. Of a callable
    object these are its class, with base classes and methods, and its attributes. Of other objects only the name
    counts. Of a module it is the weights, and the types and attributes of all its parts.
    """
    return hashlib.sha256("\x1f".join(_Parts().of(value)).encode()).hexdigest()


class _Parts:
    """Texts that are equal in every process if the values are."""

    def __init__(self) -> None:
        # By their ids. The objects are kept, since another one could get the id of one that is no more.
        self._seen: dict[int, object] = {}
        self._package = ""  # of the first function; the text of others' functions is not followed

    def of(self, value: object) -> Iterator[str]:
        """Yield the texts of a value."""
        yield f"{type(value).__module__}.{type(value).__qualname__}"
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, range, slice, torch.dtype)):
            yield repr(value)
        elif isinstance(value, np.generic):
            yield f"{value.dtype} {value!r}"
        elif isinstance(value, (Tensor, np.ndarray)):
            yield from self._of_array(value)
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            yield from self._of_object(value)

    def _of_array(self, value: Tensor | np.ndarray) -> Iterator[str]:
        try:
            tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        except (TypeError, ValueError):  # torch has no such numbers: text, objects, another order of bytes
            assert isinstance(value, np.ndarray)
            yield f"{value.dtype} {value.shape}"
            yield from self.of(value.tolist())
            return
        if tensor.is_meta:
            yield f"{tensor.dtype} {tuple(tensor.shape)}"
        else:
            yield data_digests(None, tensor.to_dense().resolve_conj(), torch.empty(0))["images"]

    def _of_object(self, value: Any) -> Iterator[str]:
        if isinstance(value, nn.Module):
            yield data_digests(value, torch.empty(0), torch.empty(0))["weights"]
            for name, part in value.named_modules():
                settings = {key: item for key, item in vars(part).items() if key[0] != "_" and key != "training"}
                yield f"{name} {type(part).__module__}.{type(part).__qualname__}"
                yield from self.of(settings)
        elif isinstance(value, (dict, list, tuple)):
            for item in value.items() if isinstance(value, dict) else value:
                yield from self.of(item)
        elif isinstance(value, (set, frozenset)):
            yield from sorted("".join(self.of(item)) for item in value)
        elif isinstance(value, functools.partial):
            yield from self.of((value.func, value.args, value.keywords))
        elif inspect.ismethod(value):
            yield from self.of((value.__func__, value.__self__))
        elif inspect.isfunction(value):
            yield from self._text(value)
            enclosed = inspect.getclosurevars(value)
            read = {name: found for name, found in enclosed.globals.items() if not inspect.ismodule(found)}
            if self._package == _package_of(value):
                yield from self.of((value.__defaults__, value.__kwdefaults__, dict(enclosed.nonlocals), read))
        elif inspect.isclass(value) or inspect.isroutine(value):
            yield str(getattr(value, "__qualname__", ""))
            if inspect.isclass(value) and self._package == _package_of(value):
                yield from self._of_class(value)
        elif callable(value):
            yield from self._of_class(type(value))
            private = getattr(value, "__pydantic_private__", None) or {}
            yield from self.of({**getattr(value, "__dict__", {}), **private})

    def _of_class(self, kind: type) -> Iterator[str]:
        yield from self._text(kind)
        if self._package == _package_of(kind):
            yield from self.of([base for base in kind.__bases__ if self._package == _package_of(base)])
            for name, item in vars(kind).items():
                if isinstance(item, (staticmethod, classmethod)):
                    item = item.__func__
                elif isinstance(item, property):
                    item = item.fget
                if inspect.isfunction(item) or not name.startswith("__"):  # the others are Python's own records
                    yield from self.of(item)

    def _text(self, value: Any) -> Iterator[str]:
        self._package = self._package or _package_of(value)
        yield f"{value.__module__}.{value.__qualname__}"
        if self._package == _package_of(value):
            source = _source(value)
            yield source
            if not source:
                code = getattr(value, "__code__", None)
                if code is not None:
                    plain = [each for each in code.co_consts if not inspect.iscode(each)]
                    yield f"{code.co_code.hex()} {plain!r} {code.co_names!r}"


def _source(value: Any) -> str:
    """Return the text of a function or class; "" if it has no file, such as what was typed into a terminal."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return ""


def _package_of(value: Any) -> str:
    return str(value.__module__).partition(".")[0]
