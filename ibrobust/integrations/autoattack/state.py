"""The progress of an AutoAttack evaluation on disk: one JSON file and, beside it, the adversarial images."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ibrobust.atomic import atomic_path, write_text
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.behaviour import Behaviour


@dataclass
class EvaluationState:
    """The progress of one evaluation of N images.

    Attributes:
        settings: of the evaluation: attacks, norm, epsilon, seed, digests of weights and data. Only an evaluation with
            equal settings can resume a state.
        behaviour: the model's outputs for a few of the images; None without a path.
        path: of the JSON file; None keeps the state in memory only.
        robust: (N,) bool, on the CPU: images that are right so far.
        clean_predictions: (N,) int64.
        finished: finished attacks, in order.
        flags: warnings of AutoAttack's checks so far.
        accuracies: share of right images, in [0, 1], clean and after each finished attack.
        attack: the running attack.
        pending: (M,) int64 indices of the running attack's images, fixed at its start, so that a resumed attack has the
            same batches as an uninterrupted one.
        batches_done: number of finished batches of `pending`.
    """

    settings: Mapping[str, Any]
    behaviour: Behaviour | None
    path: Path | None
    robust: Tensor
    clean_predictions: Tensor
    finished: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    accuracies: dict[str, float] = field(default_factory=dict)
    attack: str | None = None
    pending: Tensor | None = None
    batches_done: int = 0

    @property
    def robust_flags(self) -> Tensor:
        """(N,) float32, 1 if an image is right so far: RobustBench takes the mean, which bool does not support."""
        return self.robust.float()

    @property
    def robust_accuracy(self) -> float:
        """Share of images, in [0, 1], that are right so far."""
        return int(self.robust.sum()) / len(self.robust)

    @property
    def clean_accuracy(self) -> float:
        """Share of images, in [0, 1], that are right without attack."""
        return self.accuracies["clean"]

    @property
    def attacks_to_run(self) -> set[str]:
        return set(self.settings["attacks"])

    @property
    def run_attacks(self) -> set[str]:
        return set(self.finished)

    @classmethod
    def from_disk(cls, path: Path | str) -> EvaluationState:
        """Return the state in a JSON file; raise IbrobustError if it cannot be read."""
        path = Path(path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(fields, dict):
                raise TypeError("not a JSON object")
            state = cls(
                settings=dict(fields["settings"]),
                behaviour=Behaviour(**fields["behaviour"]),
                path=path,
                robust=_tensor(fields["robust"], torch.bool),
                clean_predictions=_tensor(fields["clean_predictions"], torch.int64),
                finished=list(fields["finished"]),
                flags=list(fields["flags"]),
                accuracies=dict(fields["accuracies"]),
                attack=fields["attack"],
                pending=None if fields["pending"] is None else _tensor(fields["pending"], torch.int64),
                batches_done=int(fields["batches_done"]),
            )
            state._check()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            if isinstance(error, IbrobustError):
                raise
            raise IbrobustError(
                f"The AutoAttack state {str(path)!r} cannot be read ({error!r}): delete it to start again."
            ) from error
        return state

    def _check(self) -> None:
        """Raise ValueError if the parts contradict each other: a total would be wrong without notice."""
        images, attacks = len(self.robust), list(self.settings["attacks"])
        running = attacks[len(self.finished) :][:1]
        pending = torch.empty(0, dtype=torch.int64) if self.pending is None else self.pending
        whole = (
            images > 0
            and len(self.clean_predictions) == images
            and self.finished == attacks[: len(self.finished)]
            and [*self.accuracies] == ["clean", *self.finished]
            and (self.attack is None) == (self.pending is None)
            and (self.attack is None or [self.attack] == running)
            and bool(((pending >= 0) & (pending < images)).all())
            and 0 <= self.batches_done <= len(pending)
        )
        if not whole:
            raise ValueError("its parts contradict each other")

    def to_disk(self) -> None:
        """Write the JSON file, completely or not at all; do nothing without a path."""
        if self.path is None:
            return
        fields = {
            "settings": dict(self.settings),
            "behaviour": None if self.behaviour is None else self.behaviour.to_dict(),
            "robust": self.robust.int().tolist(),
            "clean_predictions": self.clean_predictions.tolist(),
            "finished": self.finished,
            "flags": self.flags,
            "accuracies": self.accuracies,
            "attack": self.attack,
            "pending": None if self.pending is None else self.pending.tolist(),
            "batches_done": self.batches_done,
        }
        write_text(self.path, json.dumps(fields))

    def require(self, settings: Mapping[str, Any], behaviour: Behaviour, labels: Tensor) -> None:
        """Raise IbrobustError unless this state belongs to such an evaluation and has all its adversarial images.

        Args:
            settings: of the evaluation.
            behaviour: outputs of its model.
            labels: (N,) of its images.
        """
        remedy = "give another file, or delete this one"
        for key, value in settings.items():
            stored = self.settings.get(key)
            if stored != value:
                raise IbrobustError(
                    f"The AutoAttack state {str(self.path)!r} belongs to another evaluation ({key} is {stored!r} "
                    f"there and {value!r} here): {remedy}."
                )
        difference = self.behaviour.difference(behaviour) if self.behaviour is not None else "logits"
        if difference:
            raise IbrobustError(
                f"The AutoAttack state {str(self.path)!r} belongs to another evaluation (the model has the same "
                "weights "
                f"but gave other {difference}, for example after an edit of its code, on other hardware, or with "
                "random "
                f"numbers of its own): {remedy}."
            )
        fell = torch.zeros_like(self.robust)
        for indices, _, _ in self.kept_images():
            fell[indices] = True
        together = len(self.robust) == len(labels)
        if not together or not torch.equal(fell, (self.clean_predictions == labels.cpu()) & ~self.robust):
            raise IbrobustError(
                f"The AutoAttack state {str(self.path)!r} and the images in {str(self._images_folder)!r} do not belong "
                "together: delete both to start again."
            )

    def keep_images(self, indices: Tensor, images: Tensor, predictions: Tensor) -> None:
        """Write the adversarial images of the current batch to disk; call this before `to_disk`.

        One small file per batch: rewriting all images each time would take quadratic time.
        """
        if self.path is None or len(indices) == 0:
            return
        tensors = {
            "indices": indices.cpu(),
            "images": images.cpu().contiguous(),
            "predictions": predictions.cpu(),
        }
        with atomic_path(self._images_folder / f"{self.attack}-{self.batches_done:06d}.safetensors") as temporary:
            save_file(tensors, temporary)

    def kept_images(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (indices, images, predictions) of every finished batch."""
        if self.path is None or not self._images_folder.is_dir():
            return []
        kept = []
        for file in sorted(self._images_folder.glob("*.safetensors")):
            attack, _, number = file.stem.rpartition("-")
            if attack not in self.finished and not (attack == self.attack and int(number) < self.batches_done):
                continue  # written just before an interruption; that batch runs again
            try:
                part = load_file(file)
                indices, images, predictions = part["indices"], part["images"], part["predictions"]
                if not len(indices) == len(images) == len(predictions) or int(indices.max()) >= len(self.robust):
                    raise ValueError("it holds other images")
                kept.append((indices, images, predictions))
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                raise IbrobustError(
                    f"{str(file)!r} of the AutoAttack state {str(self.path)!r} cannot be read ({error}): delete both "
                    "to start again."
                ) from error
        return kept

    def forget_images(self) -> None:
        """Remove the images of an earlier evaluation."""
        if self.path is not None:
            shutil.rmtree(self._images_folder, ignore_errors=True)

    @property
    def _images_folder(self) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + ".images")


def _tensor(values: list[int], dtype: torch.dtype) -> Tensor:
    """Return (M,) whole numbers, 0 and 1 for bool; raise ValueError for anything else."""
    tensor = torch.tensor(values, dtype=torch.int64)
    if tensor.dim() != 1 or (dtype == torch.bool and not bool(((tensor == 0) | (tensor == 1)).all())):
        raise ValueError("its numbers are not in the written form")
    return tensor.to(dtype)


def tensors_digest(tensors: list[Tensor]) -> str:
    """Return the SHA-256 (hex) of tensors' shapes, types and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        # Through bytes, since NumPy has no bfloat16; a 0-dimensional tensor has no byte view.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
