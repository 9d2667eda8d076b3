"""The results of a long evaluation, one line of JSON per batch, from which it can resume."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.atomic import write_text
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.behaviour import Behaviour

FORMAT = 2
Key = tuple[str, float, int]


class AttackLog:
    """The finished batches, in memory and, with a path, on the disk.

    Args:
        path: file of JSON lines, read if it exists; None writes nothing to the disk.
        digest: of everything that affects the numbers, except the forward pass; see `evaluation_digest`.
        behaviour: of the model; None without a path.
        sizes: images in each batch.

    Raises:
        IbrobustError: the file is damaged or belongs to another evaluation, or cannot be written.
    """

    def __init__(self, path: Path | None, digest: str, behaviour: Behaviour | None, sizes: Sequence[int]) -> None:
        self.path = path
        self._done: dict[Key, dict[str, Any]] = {}
        if path is None or behaviour is None:
            return
        lines = _complete_lines(path) if path.exists() else []
        if lines:
            _check_header(path, lines[0], digest, behaviour)
        else:
            lines = [{"format": FORMAT, "digest": digest, "behaviour": behaviour.to_dict()}]
        for number, line in enumerate(lines[1:], start=2):
            if not _is_batch(line, sizes):
                raise IbrobustError(f"Line {number} of {str(path)!r} is damaged: remove it or name another file.")
            self._done[line["attack"], line["epsilon"], line["batch"]] = line
        try:
            # Written again, to remove an incomplete last line after a kill.
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise IbrobustError(f"{str(path)!r} cannot be written: {error.strerror}.") from error

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return the fields of a finished batch, else None."""
        return self._done.get(key)

    def add(self, key: Key, fields: dict[str, Any]) -> None:
        """Store a batch's fields; they are on the disk when this returns."""
        line = {"attack": key[0], "epsilon": key[1], "batch": key[2], **fields}
        self._done[key] = line
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def evaluation_digest(model: nn.Module, images: Tensor, labels: Tensor, settings: dict[str, Any]) -> str:
    """Return a SHA-256 of the model's class and weights, the images, the labels and the settings."""
    digest = hashlib.sha256(json.dumps([type(model).__name__, settings], sort_keys=True).encode())
    for name, tensor in [*model.state_dict().items(), ("images", images), ("labels", labels)]:
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_header(path: Path, header: dict[str, Any], digest: str, found: Behaviour) -> None:
    remedy = "remove it or name another file"
    if "digest" in header and header.get("format") != FORMAT:
        raise IbrobustError(f"{str(path)!r} is the state of another version of ibrobust: {remedy}.")
    try:
        stored, fields = header["digest"], header["behaviour"]
        before = Behaviour(logits=fields["logits"], gradients=fields["gradients"])
        difference = before.difference(found)
    except (KeyError, TypeError, ValueError) as error:
        raise IbrobustError(f"{str(path)!r} is not an evaluation's state: {remedy}.") from error
    if stored != digest:
        raise IbrobustError(
            f"{str(path)!r} holds the state of another evaluation (model, images, attacks, epsilons, batch size or "
            f"seed differ): {remedy}."
        )
    if difference:
        raise IbrobustError(
            f"{str(path)!r} holds the state of another evaluation (the model has the same weights but gave other "
            f"{difference}, for example after an edit of its code, on other hardware, or with random numbers of its "
            "own): "
            f"{remedy}."
        )


def _is_batch(line: dict[str, Any], sizes: Sequence[int]) -> bool:
    """Return whether a line holds an attack's result for one batch, one character per image."""
    texts = all(isinstance(line.get(key), str) for key in ("attack", "clean", "attacked"))
    numbers = all(isinstance(line.get(key), int) for key in ("batch", "nonfinite"))
    if not (texts and numbers and isinstance(line.get("epsilon"), float | int) and 0 <= line["batch"] < len(sizes)):
        return False
    size = sizes[line["batch"]]
    bits = all(len(line[key]) == size and set(line[key]) <= {"0", "1"} for key in ("clean", "attacked"))
    return bits and 0 <= line["nonfinite"] <= size


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines()
        lines = [json.loads(line) for line in whole]
    except (OSError, ValueError) as error:
        raise IbrobustError(f"{str(path)!r} cannot be read as an evaluation's state: {error}.") from error
    # The header is written completely, so a file without it belongs to another program.
    if not all(isinstance(line, dict) for line in lines) or (text and not lines):
        raise IbrobustError(f"{str(path)!r} is not an evaluation's state: remove it or name another file.")
    return lines
