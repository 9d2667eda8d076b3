"""Any classifier made into one of images in [0, 1] to logits.

Normalisation, another input size, outputs with `.logits`, a single logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.models.channels import require_channels
from ibrobust.suggestions import a_type

torch.fx.wrap("require_channels")


def _as_taken(model: nn.Module, images: Tensor) -> Tensor:
    """Return the images in the dtype of a model in half precision; for other models unchanged."""
    if isinstance(model, (Normalized, Resized)):  # which does this itself, after its own computation
        return images
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
    return images.to(dtype) if dtype.itemsize < 4 else images


class Normalized(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> what the model gives for (images - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's output."""
        if self.mean.shape[1] > 1:  # a single mean is for all channels
            require_channels(images, self.mean.shape[1])
        output: Tensor = self.model(_as_taken(self.model, (images - self.mean) / self.std))
        return output


class LogitsOf(nn.Module):
    """Images (B, C, H, W) -> the logits (B, K) in the model's output, which are its attribute or its key."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        output = self.model(images)
        logits: Tensor | None = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        if logits is None:
            raise IbrobustError(
                f"The model gives {a_type(output)} without logits: leave out logits_of, or give a model whose "
                "forward pass returns the logits alone."
            )
        return logits


class TwoLogits(nn.Module):
    """Images (B, C, H, W) -> logits (B, 2): 0 and z, whose cross-entropy is the binary cross-entropy of z."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        output = self.model(images)
        try:  # torch.fx does not follow a comparison of shapes
            logit = output.reshape(images.shape[0], 1)
        except RuntimeError as error:
            raise IbrobustError(
                f"The model gives {tuple(output.shape)} for {len(images)} images, not one logit each: leave out "
                "two_logits, or give a model with a single output."
            ) from error
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


class Resized(nn.Module):
    """Images (B, C, H, W) of any size -> what the model gives for the same images scaled to its own size."""

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's output."""
        images = F.interpolate(images, size=self.size, mode="bilinear", antialias=True)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            images = _as_taken(self.model, images)
        output: Tensor = self.model(images)
        return output


def normalized(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Return a classifier of images in [0, 1] from one of normalised images.

    Args:
        model: (images - mean) / std, of shape (B, C, H, W) -> logits (B, K).
        mean: C numbers, in [0, 1] scale.
        std: C numbers above 0, in [0, 1] scale.

    Raises:
        IbrobustError: mean and std are not of the same length, a standard deviation is not above 0, or a number is
            above 1, as for pixels up to 255.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = ibrobust.normalized(torch.nn.Flatten(), mean=[0.5], std=[0.25])
        >>> model(torch.tensor([[[[1.0, 0.5]]]]))  # an image of two pixels
        tensor([[2., 0.]])
    """
    mean, std = [float(value) for value in mean], [float(value) for value in std]
    if len(mean) != len(std) or not mean:
        raise IbrobustError(f"mean has {len(mean)} numbers and std {len(std)}: give one of each for every channel.")
    if not min(std) > 0:
        raise IbrobustError(f"std has {min(std)}: normalisation divides by it, so give numbers above 0.")
    if max(*mean, *std) > 1.0:
        raise IbrobustError(
            f"mean and std go up to {max(mean):g} and {max(std):g}, but the images are in [0, 1]: divide both by 255 "
            "if they are of pixels up to 255."
        )
    return Normalized(model, mean, std)


def logits_of(model: nn.Module) -> nn.Module:
    """Return a classifier that gives logits from one whose output has them as `output.logits` or `output["logits"]`.

    Args:
        model: images (B, C, H, W) -> such an output, as the models of Hugging Face's transformers give it.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> class Network(torch.nn.Module):
        ...     def forward(self, images):
        ...         return {"logits": images.flatten(1)}
        >>> ibrobust.logits_of(Network())(torch.tensor([[[[1.0, 0.5]]]]))
        tensor([[1.0000, 0.5000]])
    """
    return LogitsOf(model)


def two_logits(model: nn.Module) -> nn.Module:
    """Return a classifier of the classes 0 and 1 from one with a single logit, which is positive for class 1.

    Args:
        model: images (B, C, H, W) -> logits (B,) or (B, 1), before any sigmoid. A call that gives another number of
            them raises IbrobustError.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = ibrobust.two_logits(torch.nn.Flatten())  # an image of one pixel: the pixel is the logit
        >>> model(torch.tensor([[[[0.5]]]]))
        tensor([[0.0000, 0.5000]])
    """
    return TwoLogits(model)


def resized(model: nn.Module, size: int | tuple[int, int]) -> nn.Module:
    """Return a classifier of images of any size from one of images of its own size.

    The images are scaled bilinearly inside the model, so an attack changes the images that are given, at their own
    resolution, and epsilon is measured there.

    Args:
        model: images (B, C, *size) in [0, 1] -> logits (B, K).
        size: height and width that the model takes, or one number for both.

    Raises:
        IbrobustError: the size is not made of whole numbers, at least 1.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = ibrobust.resized(torch.nn.Flatten(), 4)
        >>> model(torch.rand(2, 3, 2, 2)).shape
        torch.Size([2, 48])
    """
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise IbrobustError(f"The size {size!r} is not a number of pixels, at least 1: give 224, or (height, width).")
    return Resized(model, sides)
