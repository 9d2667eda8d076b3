"""How far two outputs of a model for the same images are apart, and what else than its image decides them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ibrobust.evaluation.model_state import random_state
from ibrobust.isolated_rng import isolated_rng

# A larger distance is no rounding; as in AutoAttack's check for randomised models.
SAME = 1e-4
_ROUNDING = 1e-6  # of the largest logit, in float32
MOVED = 0.05  # as SAME, for half of the images: a bfloat16 model's rounding in another batch is about 0.01
# A model that draws one of two values for a whole batch repeats it half of the time. So many further passes, over a few
# images: in one of 250 runs all are the same.
_REPEATS, REPEATED = 6, 4
# If passes draw random numbers that change nothing, they may change something rarely: so many passes look for it.
MANY_REPEATS = 100
HALF_LEVEL = 0.5 / 255.0

COMPARED = 32  # images whose logits are computed twice
BATCH_DEPENDENT = (
    "The model's logits for an image depend on the other images of its batch: the accuracies hold for these batches "
    "alone; give `batch_size` 1."
)
ONE_DRAW = (
    "The model draws random numbers, and this attack follows single draws: worst_case or "
    "AutoAttack:version=rand, which average over draws, would probably break more images."
)


def logit_distance(one: Tensor, other: Tensor) -> float:
    """Return the largest distance over the images, as a share of how far an image's logits are spread.

    A shift that all classes share hides nothing, and neither does a class that is ruled out by -inf. A logit that is a
    number in one output alone counts as a distance of 1, and one that is NaN or infinite in both as equal.

    Args:
        one: (B, K) logits.
        other: (B, K) logits for the same images.
    """
    return float(logit_distances(one, other).max())


def logit_distances(one: Tensor, other: Tensor) -> Tensor:
    """Return the distance (B,) of each image; see `logit_distance`."""
    one, other = one.cpu().double(), other.cpu().double()  # MPS has no float64
    lost = (one.isfinite() != other.isfinite()).any(dim=1)
    both = one.isfinite() & other.isfinite()
    number = both.sum(dim=1, keepdim=True).clamp(min=1)
    one, other = one.where(both, 0.0), other.where(both, 0.0)
    spread = (one - one.sum(dim=1, keepdim=True) / number).where(both, 0.0).norm(dim=1)
    apart = (one - other).norm(dim=1) - _ROUNDING * one.abs().amax(dim=1)
    # Logits come as float32: below its smallest normal number, all is rounding.
    shares = apart.clamp(min=0.0) / spread.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(lost, shares.clamp(min=1.0), shares)


def slightly_moved(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) with noise of at most half an 8-bit level: a model may treat clean images apart."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    return (images + (2.0 * noise - 1.0) * HALF_LEVEL).clamp(0.0, 1.0)


def gradient_distance(model: nn.Module, images: Tensor) -> float:
    """Return how far two gradients of the same few images are apart, see `logit_distance`; 0 if none can be taken.

    Above `MOVED` is no rounding, not even that of a GPU which sums in any order. The loss is the difference of the two
    largest logits.
    """

    def gradient() -> Tensor:
        points = images[:REPEATED].detach().clone().requires_grad_()
        two = model(points).topk(2, dim=1).values
        return torch.autograd.grad((two[:, 0] - two[:, 1]).sum(), points)[0].flatten(1)

    with torch.enable_grad():
        try:
            return logit_distance(gradient(), gradient())
        except Exception:  # an outside model may raise any error; an attack that needs gradients will say so
            return 0.0


@torch.no_grad()
def logits_depend_on(model: nn.Module, images: Tensor) -> Literal["draws", "batch"] | None:
    """Return on what else than the image its logits depend: random draws, the batch, or nothing.

    A model whose gradients alone are random counts as one that draws. The images (B, C, H, W) are looked at as they are
    and slightly moved, as an attack would move them.
    """
    found = [_depend_on(model, points) for points in (images, slightly_moved(images))]
    if "draws" in found or gradient_distance(model, images) > MOVED:
        return "draws"
    return "batch" if "batch" in found else None


def _depend_on(model: nn.Module, images: Tensor) -> Literal["draws", "batch"] | None:
    """Return the same for the logits of exactly these images.

    Several passes over a few images show random draws, many if they use a random generator. Two passes over all of them
    show whether there is anything else. In the second one the images come in the opposite order and in two halves, so
    that each has another place and fewer images beside it. If the logits differ, further passes tell why. A sum may be
    rounded differently in a batch of another size, by much in half precision or TF32, but not in a batch of the same
    size at the same place: there, only the images beside it can change an image's logits.
    """
    if _repeats_differ(model, images[:REPEATED]):
        return "draws"
    half = (len(images) + 1) // 2
    reverse = images.flip(0)
    first = model(images)
    again = torch.cat([model(part) for part in reverse.split(half)]).flip(0)
    if logit_distance(first, again) <= SAME:
        return None
    if any(logit_distance(first, model(images)) > SAME for _ in range(_REPEATS)):
        return "draws"
    for kept in (slice(0, half), slice(half, len(images))):
        mixed = reverse.clone()
        mixed[kept] = images[kept]
        if len(images[kept]) and logit_distance(first[kept], model(mixed)[kept]) > SAME:
            return "batch"
    # The place alone may decide as well, as with noise of a fixed seed: too much for rounding, at most images.
    return "batch" if float(logit_distances(first, again).median()) > MOVED else None


def _repeats_differ(model: nn.Module, images: Tensor) -> bool:
    once, before = model(images), random_state(images.device)
    for number in range(MANY_REPEATS):
        if number == _REPEATS and random_state(images.device) == before:
            break
        if logit_distance(once, model(images)) > SAME:
            return True
    return False


def batch_flags(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Return a warning if the logits depend on the batch or on random draws; the random generators are restored.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K).
        images: (B, C, H, W) in [0, 1], one batch, of which at most the first `COMPARED` are used.
    """
    with isolated_rng():
        depends = logits_depend_on(model, images[:COMPARED])
    return () if depends is None else ({"batch": BATCH_DEPENDENT, "draws": ONE_DRAW}[depends],)


def draws_random_numbers(model: nn.Module, images: Tensor) -> bool:
    """Return whether two passes over the same images (B, C, H, W) differ by more than rounding."""
    return logits_depend_on(model, images) == "draws"
