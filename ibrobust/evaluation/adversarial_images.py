"""The adversarial images behind a robust accuracy, in a file for independent checks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ibrobust.atomic import write_tensors
from ibrobust.correctness import is_correct
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.losses import margin
from ibrobust.evaluation.attacks.own_attacks import WorstCase
from ibrobust.evaluation.attacks.perturbation import TOLERANCE, is_invalid
from ibrobust.evaluation.attacks.result import AttackResult
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.inputs import check_batch_size, images_and_labels
from ibrobust.evaluation.logit_distance import COMPARED, draws_random_numbers
from ibrobust.evaluation.model_state import evaluation_mode, model_device
from ibrobust.evaluation.predictions import count_classes
from ibrobust.evaluation.statistics import exceeds, more_often
from ibrobust.evaluation.worst_case_attack import judge_of

_TENSORS = ("images", "adversarial", "labels")
_OTHER_MODEL = 0.01  # of all images: so many are not on the other side of the boundary by rounding
# Of the margin without an attack. TF32 has 10 bits after the first, and an attack may stop just beyond the boundary.
_AT_THE_BOUNDARY = 2e-3


@dataclass(frozen=True)
class Verification:
    """A model's result on the adversarial images of a record.

    Attributes:
        record: the claim.
        clean_correct: images that are correct without an attack.
        outside: adversarial images beyond epsilon or outside [0, 1]; they count as unbroken.
        robust_correct: images that are correct without an attack and not broken by their adversarial image.
        unconfirmed: of these, images that are not correct in the record. Images so near the boundary that another
            processor may round them to the other side are left out.
        refuted: images that are correct under attack in the record and not here, though correct without an attack. Of a
            deterministic model, images so near the boundary are left out here as well.
        gained: images that are correct without an attack here and not in the record.
        lost: images that are correct without an attack in the record and not here.
        random: whether the model draws random numbers.
        model: of the record, as its user named it; empty if the file does not say it.
    """

    record: AttackResult
    clean_correct: int
    outside: int
    robust_correct: int
    unconfirmed: int
    refuted: int
    gained: int
    lost: int
    random: bool
    model: str = ""

    @property
    def robust_accuracy(self) -> float:
        """Share in [0, 1] of all images without a valid adversarial image in the file."""
        return self.robust_correct / self.record.total

    @property
    def holds(self) -> bool:
        """Whether the images show what the record says, image by image.

        Every image that is not robust in the record has to be broken here, and no image that is robust there, by a
        model that classifies the images without an attack as in the record. If the model draws random numbers, an image
        near the boundary may come out either way on other draws: then neither kind of change, under the attack or
        without it, may be significantly more frequent than the reverse.
        """
        if self.random:
            pairs = ((self.unconfirmed, self.refuted), (self.gained, self.lost))
            return not any(more_often(one, other) or more_often(other, one) for one, other in pairs)
        changed = self.unconfirmed or self.refuted
        return not changed and not exceeds(self.otherwise, self.record.total, _OTHER_MODEL)

    @property
    def otherwise(self) -> int:
        """Images that are correct without an attack here and not in the record, or the reverse."""
        return self.gained + self.lost


@dataclass(frozen=True)
class Origin:
    """What a file of adversarial images was made for, and from.

    Attributes:
        model: as its user named it; empty if the file does not say it.
        decoder: of the model, "-" for one from elsewhere; None if the file says neither this nor `resize`.
        resize: the pixels of each side that the images were scaled to inside the model, if they were.
        class_names: name of each label; empty if the file does not say them.
        shape: (C, H, W) of the images.
    """

    model: str
    decoder: str | None
    resize: int | None
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]


def save_adversarial_images(
    path: Path,
    images: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    *,
    record: AttackResult,
    model: str,
    decoder: str | None = None,
    resize: int | None = None,
    class_names: Sequence[str] = (),
) -> None:
    """Write clean and adversarial images (N, C, H, W) in [0, 1], labels (N,) and the record to a safetensors file.

    Model, decoder, resize and class names are those of `Origin`.
    """
    origin = {"model": model} if decoder is None else {"model": model, "decoder": decoder}
    if resize is not None:
        origin["resize"] = str(resize)
    if class_names:
        origin["class_names"] = json.dumps(list(class_names))
    tensors = dict(zip(_TENSORS, (images, adversarial, labels), strict=True))
    write_tensors(
        path,
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={**origin, "record": json.dumps(record.to_dict())},
    )


def read_origin(path: str | Path) -> Origin:
    """Return what a file of `save_adversarial_images` was made for, without reading its images.

    Raises:
        IbrobustError: the file is missing, or has another format.
    """
    with _reading(path) as file:
        metadata = file.metadata() or {}
        channels, height, width = file.get_slice(_TENSORS[0]).get_shape()[1:]
        return Origin(
            metadata.get("model", ""),
            metadata.get("decoder"),
            int(metadata["resize"]) if "resize" in metadata else None,
            tuple(map(str, json.loads(metadata.get("class_names", "[]")))),
            (channels, height, width),
        )


@contextmanager
def _reading(path: str | Path) -> Iterator[Any]:
    why = "it is no safetensors file"
    try:
        with safe_open(str(path), framework="pt") as file:
            why = "it has other contents, such as the weights of a model"
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if not isinstance(error, SafetensorError):
            why = " ".join(str(error).split())
        raise IbrobustError(
            f"{str(path)!r} holds no adversarial images with a record ({why}): give a file written by ibrobust attack "
            "--save-images."
        ) from error


def verify_adversarial_images(path: str | Path, model: nn.Module, *, batch_size: int = 250) -> Verification:
    """Return a model's result on the images in a file of `save_adversarial_images`.

    A model that draws random numbers is judged as for the record: for WorstCase by the mean of its logits over draws,
    for other attacks by one draw.

    Args:
        path: of the file.
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), on its own device.
        batch_size: images per batch.

    Raises:
        IbrobustError: the file is missing, or has another format.
    """
    batch_size = check_batch_size(batch_size)
    with _reading(path) as file:
        metadata = file.metadata() or {}
        record = AttackResult.from_dict(json.loads(metadata["record"]))
        images, adversarial, labels = (file.get_tensor(name) for name in _TENSORS)
        if adversarial.shape != images.shape or record.total != len(images) or record.norm not in TOLERANCE:
            raise ValueError("its parts do not belong together")
    images, labels = images_and_labels(images, labels)
    guarded, device = guard(model), model_device(model)
    images, adversarial, labels = images.to(device), adversarial.to(images).to(device), labels.to(device)
    inside = ~is_invalid(adversarial, images, norm=record.norm, epsilon=record.epsilon)
    with evaluation_mode(model, seed=record.seed), torch.no_grad():
        count_classes(guarded, images, labels)
        random = draws_random_numbers(guarded, images[: min(batch_size, COMPARED)])
        averaged = random and record.attack.partition(":")[0] == WorstCase.__name__
        judge = judge_of(guarded, images) if averaged else guarded
        shown = torch.where(inside[:, None, None, None], adversarial, images)
        before, after = (torch.cat([judge(x) for x in parts.split(batch_size)]) for parts in (images, shown))
        clean = is_correct(before, labels)
        robust = clean & is_correct(after, labels)
        at_the_boundary = margin(after, labels).abs() <= _AT_THE_BOUNDARY * margin(before, labels).abs()
    clean_claimed, robust_claimed = (
        torch.tensor(bits, device=device) for bits in (record.clean_correct, record.robust_correct)
    )
    # Images that are wrong without an attack are counted as `lost`.
    unconfirmed, refuted = robust & ~robust_claimed, clean & ~robust & robust_claimed
    if not random:
        unconfirmed, refuted = unconfirmed & ~at_the_boundary, refuted & ~at_the_boundary
    return Verification(
        record,
        clean_correct=int(clean.sum()),
        outside=int((~inside).sum()),
        robust_correct=int(robust.sum()),
        unconfirmed=int(unconfirmed.sum()),
        refuted=int(refuted.sum()),
        gained=int((clean & ~clean_claimed).sum()),
        lost=int((~clean & clean_claimed).sum()),
        random=random,
        model=metadata.get("model", ""),
    )
