"""A surrogate of the paper's objective: all points of a batch and a memory are neighbours, and k is not used."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ibrobust.estimators.soft_entropy import soft_entropies
from ibrobust.objectives.base import Loss, Objective
from ibrobust.objectives.memory import LatentMemory


class SoftBottleneck(Objective):
    """min soft H[Z | Y] + (beta - 1) soft H[Z]: eq. (10) of Kirsch, Lyle, Gal (2020) on `soft_entropies`.

    It does not use the paper's k-nearest-neighbour estimator, as `KnnBottleneck` does. It has no decoder: one is fitted
    to the frozen encoder afterwards.

    Args:
        latent_dim: D.
        num_classes: C.
        beta: the paper's beta'', in [0, 1).
        beta_warm_up: share of the training in which beta rises linearly from 0.
        neighbor_sharpness: the power for H[Z], see `soft_entropies`.
        class_sharpness: the power for H[Z | Y].
        memory_size: number of latest latents that are neighbours too.
    """

    options: ClassVar[tuple[str, ...]] = (
        "beta",
        "beta_warm_up",
        "neighbor_sharpness",
        "class_sharpness",
        "memory_size",
    )
    adds_noise: ClassVar[bool] = True
    knows_images: ClassVar[bool] = True

    def __init__(
        self,
        *,
        latent_dim: int,
        num_classes: int,  # noqa: ARG002
        beta: float,
        neighbor_sharpness: float,
        beta_warm_up: float = 0.0,
        class_sharpness: float = 0.0,
        memory_size: int = 0,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.beta_warm_up = beta_warm_up
        self.neighbor_sharpness = neighbor_sharpness
        self.class_sharpness = class_sharpness
        self.memory = LatentMemory(memory_size, latent_dim)

    @property
    def settles_at(self) -> float:
        """Share of the training after which the warm-up of beta has ended."""
        return self.beta_warm_up

    def forward(self, latents: Tensor, labels: Tensor, images: Tensor | None = None) -> Loss:
        """Return the loss of noisy latents (B, D) with labels (B,); terms ``soft H[Z|Y]`` and ``soft H[Z]``.

        The terms are not entropies, so they have other names. Latents of the same image, by the indices `images` (B,),
        are no neighbours of each other; by default all differ.
        """
        within, overall = soft_entropies(
            latents,
            labels,
            sharpness=self.neighbor_sharpness,
            class_sharpness=self.class_sharpness,
            memory=self.memory.contents(),
            images=self.memory.images_with(images),
        )
        if self.training:
            self.memory.remember(latents, labels, images)
        beta = warmed_up(self.beta, self.beta_warm_up, self.progress)
        return Loss(within + (beta - 1.0) * overall, {"soft H[Z|Y]": within, "soft H[Z]": overall})


def warmed_up(beta: float, warm_up: float, progress: float) -> float:
    """Return beta at the share `progress` of the training; it rises linearly from 0 in the first share `warm_up`."""
    return beta * min(1.0, progress / warm_up) if warm_up else beta
