"""torchattacks' attacks by class name: their requirements, inputs and results."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.spec import (
    OWN_ATTACKS,
    RADIUS_OPTIONS,
    AttackSpec,
    attack_options,
    torchattacks_signature,
)
from ibrobust.evaluation.guarded_model import LibraryModel
from ibrobust.evaluation.model_state import model_device

# Their kernels are made for three channels.
_THREE_CHANNELS = {"TIFGSM", "PIFGSM", "PIFGSMPP"}
# DLR compares with the third largest logit, its targeted form with the fourth.
_FEWEST_CLASSES = {"ce": 2, "margin": 2, "dlr": 3}


def check_attack(spec: AttackSpec, *, channels: int, num_classes: int) -> None:
    """Raise IbrobustError if a torchattacks class cannot work on such images or with so few classes."""
    if spec.name in OWN_ATTACKS:
        return
    if spec.name in _THREE_CHANNELS and channels != 3:
        raise IbrobustError(
            f"{spec.label} works on images with 3 channels, but these have {channels}: leave this attack out."
        )
    loss = str({**attack_options(spec.name), **dict(spec.options)}.get("loss", "ce"))
    fewest = 4 if spec.name == "APGDT" else _FEWEST_CLASSES.get(loss, 2)
    if num_classes < fewest:
        raise IbrobustError(
            f"{spec.label} needs {fewest} classes, but the model has {num_classes}: leave this attack out."
        )


def foreign_attack(
    model: nn.Module, images: Tensor, labels: Tensor, spec: AttackSpec, *, epsilon: float, seed: int
) -> tuple[Tensor, Tensor, bool]:
    """Return adversarial images (B, C, H, W), (B,) bool, and whether the attack takes a radius.

    The second marks images with a NaN gradient or logit of the model. If the attack itself turned an image into NaN
    because the model's gradient was zero, the image is returned unchanged: the attack had no direction.

    Args:
        model: in evaluation mode, behind a guard: torchattacks views gradients as if they were contiguous.
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        spec: the attack.
        epsilon: radius in the attack's norm.
        seed: of everything random.

    Raises:
        IbrobustError: torchattacks cannot run it, or does not return images.
    """
    import torchattacks

    signature = torchattacks_signature(spec.name)
    arguments: dict[str, Any] = dict(spec.options)
    radius = next((option for option in RADIUS_OPTIONS if option in signature), None)
    if radius is not None:
        arguments[radius] = epsilon
    if "seed" in signature:
        arguments["seed"] = seed
    with torch.no_grad():
        num_classes = model(images[:1]).shape[1]
    if "n_classes" in signature:
        arguments["n_classes"] = num_classes
    watched = _Watched(LibraryModel(model), len(images))
    try:
        with redirect_stdout(io.StringIO()):  # torchattacks reports progress by print
            attack = getattr(torchattacks, spec.name)(watched, **arguments)
            attack.set_device(model_device(model))
            if spec.name == "JSMA":  # its own targets are the next of ten classes
                attack.set_mode_targeted_by_function(lambda _, labels: (labels + 1) % num_classes, quiet=True)
            adversarial: Tensor = attack(images.contiguous(), labels).detach().to(images)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # any error of its code, or of the model on its images
        if isinstance(error, IbrobustError) and error.__cause__ is None:
            raise
        reason = error.__cause__ if isinstance(error, IbrobustError) else error
        why = " ".join(str(reason).split()) or type(reason).__name__
        raise IbrobustError(
            f"torchattacks cannot run {spec.label} ({why}): correct its options, or leave this attack out."
        ) from error
    if adversarial.shape != images.shape:
        raise IbrobustError(
            f"{spec.label} gave images of shape {tuple(adversarial.shape)} for {tuple(images.shape)}: its result is "
            "not counted. Leave this attack out."
        )
    lost = ~adversarial.flatten(1).isfinite().all(dim=1)  # (B,)
    if bool(watched.failed_anywhere):
        return adversarial, lost | watched.failed, radius is not None
    if bool(lost.any()) and not bool(watched.vanished):
        raise IbrobustError(
            f"{spec.label} gave NaN pixels for {int(lost.sum())} images, although the model's outputs "
            "and gradients are finite: its result is not counted. Leave this attack out."
        )
    return torch.where(lost[:, None, None, None], images, adversarial), torch.zeros_like(lost), radius is not None


class _Watched(nn.Module):
    """The model, and a record of NaN outputs.

    The sign of NaN is 0 in torch, so an attack with a NaN gradient changes nothing, without an error.

    Attributes:
        failed: (B,) bool, images for which a logit was NaN or plus infinity, or a gradient was not finite, in a call
            with all B of them.
        failed_anywhere: () bool, whether that was so in any call.
        vanished: () bool, whether the gradient of an image was zero in every pixel.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.model = model
        self.training = False  # else torchattacks puts everything in training mode
        nothing = torch.zeros(count, dtype=torch.bool, device=model_device(model))
        self.failed, self.failed_anywhere, self.vanished = nothing, nothing.any(), nothing.any()

    def forward(self, images: Tensor) -> Tensor:
        finite = images.detach().flatten(1).isfinite().all(dim=1)  # (B,) else the attack is to blame
        images = images.view_as(images)  # whose hook is called for this call alone
        asked = finite  # (B,) bool, with a loss whose derivative is a number

        def receive_from_loss(gradient: Tensor) -> None:
            nonlocal asked
            asked = finite & gradient.isfinite().all(dim=1)

        def receive_from_model(gradient: Tensor) -> None:
            rows = gradient.flatten(1)
            self._note(asked & ~rows.isfinite().all(dim=1))
            self.vanished = self.vanished | (asked & (rows == 0).all(dim=1)).any()

        if images.requires_grad:
            images.register_hook(receive_from_model)
        logits = self.model(images)
        logits = logits.view_as(logits)  # whose gradient is the attack's, before any hook of the model
        if logits.requires_grad:
            logits.register_hook(receive_from_loss)
        self._note(finite & ~(logits.detach() < torch.inf).all(dim=1))
        return logits

    def _note(self, failed: Tensor) -> None:
        self.failed_anywhere = self.failed_anywhere | failed.any()
        if len(failed) == len(self.failed):
            self.failed = self.failed | failed
