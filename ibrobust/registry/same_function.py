"""Whether a stored model would compute what the given one does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ibrobust.copied_module import copied
from ibrobust.data import Dataset, to_unit_range
from ibrobust.errors import IbrobustError
from ibrobust.isolated_rng import isolated_rng

IMAGES = 8
# Relative to the largest number: the tolerance for another order of summation. In float32 only a model is compared that
# cannot be computed in float64, as one that casts its images to float32.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}
PROBED = 2  # images of a probe, which is made whenever a model is loaded
PROBE_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}

OWN_REMEDY = "store an ibrobust.ImageClassifier that does no more than its encoder and decoder, or attack it as it is."
OUTSIDE_REMEDY = "give the factory and the arguments that build this module, and its weights, or attack it as it is."


def require_same_function(model: nn.Module, rebuild: Callable[[], nn.Module], dataset: Dataset, *, remedy: str) -> None:
    """Raise IbrobustError if the logits or the input gradients of two models differ, in evaluation mode.

    Both are compared as copies in float64, where rounding cannot hide or feign a difference; in float32 if such a copy
    of the given model fails.

    Args:
        model: images (B, 3, H, W) in [0, 1] -> logits (B, C), in float32.
        rebuild: gives the same, as it would be loaded.
        dataset: gives the images.
        remedy: to end the error with.
    """
    dtypes = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    if others := dtypes - {torch.float32}:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        raise IbrobustError(f"A model in {names} cannot be stored as it is: give it in float32, as model.float().")
    generator = torch.Generator().manual_seed(0)
    images = to_unit_range(dataset.test.subset(IMAGES).images).double()
    # Half noise: off the grid of 8 bits, where a model that rounds its images would show nothing.
    images = (images + torch.rand(images.shape, generator=generator, dtype=torch.float64)) / 2
    direction = torch.randn(len(images), dataset.num_classes, generator=generator, dtype=torch.float64)
    require_classes(model, dataset)
    try:
        given, dtype = _logits_and_gradient(model, images, direction)
    # Whatever the caller's own forward pass does.
    except Exception as error:
        raise IbrobustError(
            f"The {type(model).__name__} cannot be stored: a copy of it gives no logits "
            f"(B, {dataset.num_classes}) with a gradient ({type(error).__name__}: {error}); {remedy}"
        ) from error
    found = _in_dtype(rebuild(), images, direction, dtype)
    for what, ours, theirs in zip(("logits", "input gradients"), given, found, strict=True):
        difference, size = float((ours - theirs).abs().max()), float(theirs.abs().max())
        if not difference <= TOLERANCES[dtype] * size:
            raise IbrobustError(
                f"The {type(model).__name__} cannot be stored: what would be loaded has other {what} (by up to "
                f"{difference:.2g}, their largest is {size:.2g}); {remedy}"
            )


def require_classes(model: nn.Module, dataset: Dataset) -> None:
    """Raise IbrobustError if the model's number of outputs is not the data set's number of classes."""
    try:
        with torch.no_grad(), isolated_rng():
            output = copied(model).cpu().eval()(to_unit_range(dataset.test.images[:2]))
        shape = tuple(output.shape)
    except Exception:  # whatever the caller's own forward pass does; the comparison reports it
        return
    if len(shape) == 2 and shape[1] != dataset.num_classes:
        raise IbrobustError(
            f"The model has {shape[1]} output{'' if shape[1] == 1 else 's'}, but {dataset.name} has "
            f"{dataset.num_classes} classes: give one output for each class, or the model's own data set."
        )


def probe(
    model: nn.Module, *, channels: int, image_size: tuple[int, int], num_classes: int
) -> tuple[tuple[float, ...], float]:
    """Return numbers by which a model is recognised, and the tolerance of their comparison, see `is_the_same`.

    They are its logits and input gradients for fixed images, projected, in float64, or in float32 if that fails.

    The code that a card names may change after the weights were stored, and its module may be another one of the same
    name. The first numbers are products with fixed random directions, divided by the sum of the terms' magnitudes, so
    they are in [-1, 1]; the last two are the logarithms of the largest logit and of the largest gradient.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K).
        channels: C.
        image_size: (H, W).
        num_classes: K.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(PROBED, channels, *image_size, generator=generator, dtype=torch.float64)
    direction = torch.randn(PROBED, num_classes, generator=generator, dtype=torch.float64)
    pair, dtype = _logits_and_gradient(model, images, direction)
    found = [values.double() for values in pair]
    numbers = []
    for values in found:
        along = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        products = (values * along).flatten(1)
        numbers += (products.sum(dim=1) / products.abs().sum(dim=1).clamp(min=torch.finfo(torch.float64).tiny)).tolist()
    size = [float(values.abs().max()) for values in found]
    logs = (math.log(value) if 0 < value < math.inf else 0.0 for value in size)
    return (*numbers, *logs), PROBE_TOLERANCES[dtype]


def is_the_same(one: Sequence[float], other: Sequence[float], tolerance: float) -> bool:
    """Return whether the numbers of two probes are of one model, up to the rounding of another processor."""
    return len(one) == len(other) and all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


def _logits_and_gradient(
    model: nn.Module, images: Tensor, direction: Tensor
) -> tuple[tuple[Tensor, Tensor], torch.dtype]:
    """Return what `_in_dtype` does in float64, or in float32 if the model fails in float64, and the dtype."""
    try:
        return _in_dtype(model, images, direction, torch.float64), torch.float64
    except Exception as error:  # whatever its forward pass does
        try:
            return _in_dtype(model, images, direction, torch.float32), torch.float32
        except Exception:
            raise error from None


def _in_dtype(model: nn.Module, images: Tensor, direction: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return logits (B, C), and the gradient (B, 3, H, W) of their product with `direction` (B, C)."""
    net = copied(model).cpu().eval()
    net = net.double() if dtype == torch.float64 else net.float()  # unlike .to, they leave complex weights as they are
    points = images.to(dtype, copy=True).requires_grad_()
    # A model that draws random numbers is recognised by the same draws each time.
    with torch.enable_grad(), isolated_rng(0):
        logits: Tensor = net(points)
        if logits.shape != direction.shape:
            raise ValueError(f"its output is of shape {tuple(logits.shape)}")
        # A model that cuts the graph, as one that rounds, has no gradient; that is no fault of how it is stored.
        total = (logits * direction).sum() + 0.0 * points[:0].sum()
        (gradient,) = torch.autograd.grad(total, points)
    return logits.detach(), gradient
