"""The model as another package's attack, or a user's function, sees it: every gradient that it takes is looked at."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from ibrobust.correctness import is_correct
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Found
from ibrobust.evaluation.attacks.losses import LOSSES
from ibrobust.evaluation.attacks.pgd import loss_gradient, zero_gradient_flags
from ibrobust.evaluation.guarded_model import LibraryModel
from ibrobust.evaluation.model_state import model_device

SOME_NONFINITE = "A gradient was NaN or infinite on the way: the attack could not follow it."


class WatchedModel(LibraryModel):
    """The model, and a record of its NaN outputs and gradients since `watch`.

    The sign of NaN is 0 in torch, so an attack with a NaN gradient changes nothing, without an error.

    Attributes:
        failed: (B,) bool, images for which a logit was NaN or plus infinity, or a gradient was not finite, in a call
            with all B of them.
        failed_anywhere: () bool, whether that was so in any call.
        zero: (B,) bool, images for which the first gradient was zero in every pixel, among calls with all B of them;
            None if there was no such gradient. Of one call with several gradients, all are zero.
        vanished: () bool, whether the gradient of an image was zero in every pixel in any call.
        unseen: whether torch.func called the model, whose gradients cannot be looked at.
        followed: whether any other gradient was taken; None if the model was never called.
    """

    def __init__(self, model: nn.Module, count: int = 0) -> None:
        super().__init__(model)
        self.watch(count)

    def watch(self, count: int) -> None:
        """Forget the record; from now on `count` images are attacked."""
        nothing = torch.zeros(count, dtype=torch.bool, device=model_device(self.model))
        self.failed, self.failed_anywhere, self.vanished = nothing, nothing.any(), nothing.any()
        self.zero: Tensor | None = None
        self.unseen = False
        self.followed: bool | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        if is_functorch_wrapped_tensor(images):  # torch.func's tensors cannot be stored
            self.unseen = True
            return super().forward(images)
        self.followed = bool(self.followed)
        finite = images.detach().flatten(1).isfinite().all(dim=1)  # (B,) else the attack is to blame
        images = images.view_as(images)  # whose hook is called for this call alone
        asked = finite  # (B,) bool, with a loss whose derivative is a number
        is_first = False  # with all images, of those whose gradient was taken

        def receive_from_loss(gradient: Tensor) -> None:
            nonlocal asked
            asked = finite & gradient.isfinite().all(dim=1)

        def receive_from_model(gradient: Tensor) -> None:
            nonlocal is_first
            self.followed = True
            rows = gradient.flatten(1)
            self._note(asked & ~rows.isfinite().all(dim=1))
            zero = asked & (rows == 0).all(dim=1)
            self.vanished = self.vanished | zero.any()
            is_first = is_first or (self.zero is None and len(zero) == len(self.failed))
            if is_first:
                self.zero = zero if self.zero is None else self.zero & zero

        if images.requires_grad:
            images.register_hook(receive_from_model)
        logits = super().forward(images)
        logits = logits.view_as(logits)  # whose gradient is the attack's, before any hook of the model
        if logits.requires_grad:
            logits.register_hook(receive_from_loss)
        self._note(finite & ~(logits.detach() < torch.inf).all(dim=1))
        return logits

    def _note(self, failed: Tensor) -> None:
        self.failed_anywhere = self.failed_anywhere | failed.any()
        if len(failed) == len(self.failed):
            self.failed = self.failed | failed


def judged_by_gradients(
    watched: WatchedModel,
    adversarial: Tensor,
    images: Tensor,
    labels: Tensor,
    *,
    label: str,
    minimal: bool,
    gradient_free: bool = False,
) -> Found:
    """Return what an attack made of images (B, C, H, W), with warnings if the gradient gave it no direction.

    If it turned an image into NaN because the model's gradient was zero, NaN or infinite, the image comes back
    unchanged: the attack had no direction.

    The first gradient that the attack took says where it had no direction. Cross-entropy's gradient at the image helps
    if that one is not known: if the attack takes no gradient of all images at once, or takes it by torch.func.

    Args:
        watched: the model that the attack was given.
        adversarial: (B, C, H, W) its result.
        images: (B, C, H, W) in [0, 1].
        labels: (B,).
        label: of the attack.
        minimal: it searches for the smallest perturbation. Then an image that it broke may be far away for want of a
            direction; otherwise an image that it broke gives no warning.
        gradient_free: the attack follows no gradient, so that one that is NaN at an image does not matter. This is
            also so if it calls the model and takes no gradient.

    Raises:
        IbrobustError: there are NaN or infinite pixels, although the model's gradients are finite and not zero.
    """
    gradient, _, logits = loss_gradient(watched.model, images, labels, LOSSES["cross_entropy"])
    gradient = gradient.flatten(1)
    at_image = ~gradient.isfinite().all(dim=1)
    lost = ~adversarial.flatten(1).isfinite().all(dim=1)  # (B,)
    failed = bool(watched.failed_anywhere)
    unexplained = lost & ~at_image
    if bool(unexplained.any()) and not failed and not bool(watched.vanished):
        raise IbrobustError(
            f"The attack {label} gave NaN or infinite pixels for {int(unexplained.sum())} images, although the model's "
            "outputs and gradients are finite: its result is not counted. Correct it, or leave it out."
        )
    # An attack that does not call the watched model may take gradients of a copy.
    follows = not gradient_free and (watched.unseen or watched.followed is not False)
    nonfinite = watched.failed | (lost & failed) | (at_image & (lost | follows))
    result = torch.where(lost[:, None, None, None], images, adversarial)
    zero = watched.zero
    if zero is None:
        zero = (gradient == 0).all(dim=1) & (watched.vanished | watched.unseen)
    if bool(zero.any()):
        with torch.no_grad():
            zero &= is_correct(logits if minimal else watched.model(result), labels)
    flags = zero_gradient_flags(zero)
    if failed and not bool(nonfinite.any()):
        flags = (*flags, SOME_NONFINITE)
    return Found(result, nonfinite, flags)
