"""The finished steps of a long evaluation, one line of JSON each, from which it can resume.

An evaluation makes the same steps in the same order each time. A resumed one reads the results of its first steps and
computes the others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ibrobust.atomic import append_json_line, write_tensors, write_text
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.behaviour import Behaviour

FORMAT = 7
_IMAGES = re.compile(r"\d{6,}\.safetensors|\.\d{6,}\.safetensors\.\w+\.tmp")  # also those of a kill
_REMEDY = "remove it, or store the state elsewhere"


class AttackLog:
    """The finished steps, in their order, in a file; without a path, nothing is stored.

    Args:
        path: file of JSON lines, read if it exists.
        settings: everything that affects the numbers, except the forward pass; see `data_digests`.
        behaviour: of the model; None without a path.
        surrogates: the behaviour of each surrogate, by the label of its attack.
        keep_images: whether the images of a step are stored, in a folder beside the file.

    Raises:
        IbrobustError: the file is damaged or belongs to another evaluation, or cannot be written; or the folder of the
            images holds other files.
    """

    def __init__(
        self,
        path: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        behaviour: Behaviour | None = None,
        *,
        surrogates: Mapping[str, Behaviour] | None = None,
        keep_images: bool = False,
    ) -> None:
        self.path, self.keep_images = path, keep_images
        self._finished: list[dict[str, Any]] = []
        self._done = 0
        if path is None or settings is None or behaviour is None:
            return
        header = {"format": FORMAT, "settings": dict(settings), "behaviour": asdict(behaviour)}
        if surrogates:
            header["surrogates"] = {label: asdict(found) for label, found in surrogates.items()}
        lines = [header]
        if path.exists():
            lines = _complete_lines(path)
            _check_header(path, lines[0], settings, behaviour, surrogates or {})
        elif keep_images:
            _refuse_other_files(path)
            _remove_images(path)  # of an earlier evaluation
        self._finished = lines[1:]
        try:
            # Written again, to remove an incomplete last line after a kill.
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise IbrobustError(f"{str(path)!r} cannot be written: {error.strerror}.") from error

    @property
    def is_empty(self) -> bool:
        """Whether the file held no finished step when it was read."""
        return not self._finished

    def step(
        self,
        key: Mapping[str, Any],
        work: Callable[[], dict[str, Any]],
        valid: Callable[[dict[str, Any]], bool],
    ) -> dict[str, Any]:
        """Return the fields of the next step: from the file if it is finished, else from `work`, and store them.

        Args:
            key: what tells this step from all others.
            work: computes the fields, for JSON; a tensor (M, C, H, W) named "images" is stored in a file of its own, or
                not at all if the log keeps no images.
            valid: whether a line of the file holds such fields; it may raise KeyError, TypeError or ValueError.

        Raises:
            IbrobustError: the line is damaged, or its images are missing.
        """
        number = self._done = self._done + 1
        if number <= len(self._finished):
            line = self._finished[number - 1]
            if not _holds(line, key, valid):
                raise IbrobustError(f"Line {number + 1} of {str(self.path)!r} is damaged: {_REMEDY}.")
            return self._with_images(line, number)
        fields = work()
        if self.path is not None:
            images = fields.get("images")
            line = {**key, **{name: value for name, value in fields.items() if name != "images"}}
            if self.keep_images and images is not None:
                line["images"] = len(images)
                if len(images):
                    write_tensors(_images_file(self.path, number), {"images": images.contiguous()})
            append_json_line(self.path, line)
        return fields

    def _with_images(self, line: dict[str, Any], number: int) -> dict[str, Any]:
        if not self.keep_images or not line.get("images"):
            return line
        assert self.path is not None
        file = _images_file(self.path, number)
        try:
            images = load_file(file)["images"]
            if len(images) != line["images"]:
                raise ValueError("it holds other images")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise IbrobustError(
                f"{str(self.path)!r} and the images in {str(file)!r} do not belong together ({error}): delete both to "
                "start again."
            ) from error
        return {**line, "images": images}


def remove_state(path: Path) -> None:
    """Remove a state file and its images, if there are any; other files in the folder of the images stay."""
    path.unlink(missing_ok=True)
    _remove_images(path)


def images_folder(path: Path) -> Path:
    """Return the folder of the images of a state file."""
    return path.with_name(path.name + ".images")


def data_digests(model: nn.Module | None, images: Tensor, labels: Tensor) -> dict[str, str]:
    """Return the SHA-256 of the images with their labels, and of the model's weights."""
    weights = model.state_dict().values() if model is not None else ()
    return {
        "images": _digest([images, labels]),
        "weights": _digest(tensor for tensor in weights if isinstance(tensor, Tensor)),
    }


def read_state(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a state file: its header, then one per finished step.

    Raises:
        IbrobustError: it is not the state of an evaluation of this version.
    """
    lines = _complete_lines(path)
    _require_format(path, lines[0])
    return lines


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        # Through bytes, since NumPy has no bfloat16; a 0-dimensional tensor has no byte view.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _images_file(path: Path, number: int) -> Path:
    return images_folder(path) / f"{number:06d}.safetensors"


def _refuse_other_files(path: Path) -> None:
    folder = images_folder(path)
    if not folder.exists():
        return
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else [folder.name]
    if other := next((name for name in names if not _IMAGES.fullmatch(name)), None):
        raise IbrobustError(
            f"{str(folder)!r} is needed for the images of the state {str(path)!r}, but {other!r} is there, which is "
            "not of an evaluation: move it, or give the state another name."
        )


def _remove_images(path: Path) -> None:
    with suppress(OSError):  # there is no such folder, or other files are in it
        for file in list(images_folder(path).iterdir()):
            if _IMAGES.fullmatch(file.name):
                file.unlink()
        images_folder(path).rmdir()


def _holds(line: dict[str, Any], key: Mapping[str, Any], valid: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        return all(line[name] == value for name, value in key.items()) and valid(line)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _require_format(path: Path, header: dict[str, Any]) -> None:
    if "settings" in header and header.get("format") != FORMAT:
        raise IbrobustError(f"{str(path)!r} cannot be read: it is the state of another version of ibrobust: {_REMEDY}.")


def _check_header(
    path: Path,
    header: dict[str, Any],
    settings: Mapping[str, Any],
    found: Behaviour,
    surrogates: Mapping[str, Behaviour],
) -> None:
    _require_format(path, header)
    try:
        stored = dict(header["settings"])
        differences = {"the model": _difference(header["behaviour"], found)}
        for label, fields in header.get("surrogates", {}).items():
            if label in surrogates:  # else the attacks in the settings differ
                differences[f"the surrogate of {label}"] = _difference(fields, surrogates[label])
    except (KeyError, TypeError, ValueError) as error:
        raise IbrobustError(f"{str(path)!r} cannot be read: it is not an evaluation's state: {_REMEDY}.") from error
    for name in {**settings, **stored}:
        before, now = stored.get(name), settings.get(name)
        if before != now:
            digest = name in ("images", "weights", "sources")
            what = f"other {name}" if digest else f"{name}: {before!r} there and {now!r} here"
            raise IbrobustError(f"{str(path)!r} holds the state of another evaluation ({what}): {_REMEDY}.")
    for whose, difference in differences.items():
        if difference:
            raise IbrobustError(
                f"{str(path)!r} holds the state of another evaluation ({whose} has the same weights but gave other "
                f"{difference}, for example after an edit of its code, on other hardware, or with random numbers of "
                f"its own): {_REMEDY}."
            )


def _difference(fields: Mapping[str, Any], found: Behaviour) -> str | None:
    return Behaviour(logits=fields["logits"], gradients=fields["gradients"]).difference(found)


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        # The header is written completely, so a file without a complete line belongs to another program.
        complete = text[: text.rfind("\n") + 1] or text
        lines = [json.loads(line) for line in complete.splitlines()]
    except (OSError, ValueError) as error:
        raise IbrobustError(f"{str(path)!r} cannot be read as an evaluation's state ({error}): {_REMEDY}.") from error
    if not lines or not all(isinstance(line, dict) for line in lines):
        raise IbrobustError(f"{str(path)!r} cannot be read: it is not an evaluation's state: {_REMEDY}.")
    return lines
