"""The paper's objective: an information bottleneck of two kNN entropies."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.estimators.batch_entropy import batch_knn_entropies
from ibrobust.estimators.entropy import check_class_sizes
from ibrobust.estimators.soft_entropy import soft_entropies
from ibrobust.objectives.base import ENLARGE, Loss, Objective
from ibrobust.objectives.memory import EMPTY, LatentMemory
from ibrobust.objectives.soft_bottleneck import warmed_up


class KnnBottleneck(Objective):
    """min H[Z | Y] + (beta - 1) H[Z] (Kirsch, Lyle, Gal 2020, eq. 10), both by the kNN estimator (eq. 13), in nats.

    It has no decoder: one is fitted to the frozen encoder afterwards. A few neighbours give little signal while the
    latents have no structure. So training can start with many neighbours (`first_neighbors`) or with the surrogate of
    `SoftBottleneck` (`soft_share`). Either way it ends with the k of the recipe.

    Args:
        latent_dim: D.
        num_classes: C.
        beta: the paper's beta'', in [0, 1).
        beta_warm_up: share of the training in which beta rises linearly from 0.
        num_neighbors: k of H[Z | Y].
        neighbor_ratio: the k of H[Z] is this many times as large, rounded.
        average_neighbors: average the estimates for 1..k.
        first_neighbors: k at the start; it falls geometrically to `num_neighbors` over `neighbor_fall`.
        neighbor_fall: share of the training over which k falls.
        soft_share: first share of the training, in which the surrogate is minimised instead.
        neighbor_sharpness: the surrogate's power for H[Z].
        class_sharpness: the surrogate's power for H[Z | Y].
        memory_size: number of latest latents that are neighbours too.
    """

    options: ClassVar[tuple[str, ...]] = (
        "beta",
        "beta_warm_up",
        "num_neighbors",
        "neighbor_ratio",
        "average_neighbors",
        "first_neighbors",
        "neighbor_fall",
        "soft_share",
        "neighbor_sharpness",
        "class_sharpness",
        "memory_size",
    )
    needs: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"neighbor_fall": "first_neighbors", "neighbor_sharpness": "soft_share", "class_sharpness": "soft_share"}
    )
    adds_noise: ClassVar[bool] = True
    knows_images: ClassVar[bool] = True

    def __init__(
        self,
        *,
        latent_dim: int,
        num_classes: int,  # noqa: ARG002
        beta: float,
        num_neighbors: int,
        average_neighbors: bool,
        beta_warm_up: float = 0.0,
        neighbor_ratio: float = 1.0,
        first_neighbors: int | None = None,
        neighbor_fall: float = 0.75,
        soft_share: float = 0.0,
        neighbor_sharpness: float = 2.0,
        class_sharpness: float = 0.5,
        memory_size: int = 0,
    ) -> None:
        super().__init__()
        if first_neighbors is not None and soft_share + neighbor_fall > 1.0:
            raise IbrobustError(
                f"k would not have fallen from first_neighbors {first_neighbors} to num_neighbors {num_neighbors} at "
                f"the end of the training: soft_share {soft_share:g} and neighbor_fall {neighbor_fall:g} are more than "
                "1 together, so lower one."
            )
        if first_neighbors is not None and first_neighbors < num_neighbors:
            raise IbrobustError(
                f"first_neighbors is {first_neighbors}, fewer than num_neighbors {num_neighbors}: k falls during "
                "training, so start with more."
            )
        if first_neighbors is not None and not neighbor_fall:
            raise IbrobustError(
                f"first_neighbors is {first_neighbors}, but neighbor_fall is 0, so that k would never be more than "
                f"{num_neighbors}: raise neighbor_fall, or leave first_neighbors out."
            )
        self.beta = beta
        self.beta_warm_up = beta_warm_up
        self.num_neighbors = num_neighbors
        self.neighbor_ratio = neighbor_ratio
        self.average_neighbors = average_neighbors
        self.first_neighbors = first_neighbors
        self.neighbor_fall = neighbor_fall
        self.soft_share = soft_share
        self.memory = LatentMemory(memory_size, latent_dim)
        self.neighbor_sharpness = neighbor_sharpness
        self.class_sharpness = class_sharpness

    @property
    def settles_at(self) -> float:
        """Share of the training after which the surrogate has ended, k has fallen and beta has risen."""
        fall = 0.0 if self.first_neighbors is None else self.neighbor_fall
        return max(self.soft_share + fall, self.beta_warm_up)

    def neighbors_now(self) -> int:
        """Return the k of H[Z | Y] at the present progress of the training."""
        start, end = self.first_neighbors or self.num_neighbors, self.num_neighbors
        done = min(1.0, (self.progress - self.soft_share) / self.neighbor_fall) if self.neighbor_fall else 1.0
        return max(end, round(start ** (1.0 - done) * end**done))

    def forward(self, latents: Tensor, labels: Tensor, images: Tensor | None = None) -> Loss:
        """Return the loss of noisy latents (B, D) with labels (B,); terms ``H[Z|Y]`` and ``H[Z]`` in nats.

        While the surrogate is minimised, the terms are ``soft H[Z|Y]`` and ``soft H[Z]``. Latents of the same image,
        by the indices `images` (B,), are no neighbours of each other; by default all differ.
        """
        memory = self.memory.contents()
        every_image = self.memory.images_with(images)
        if self.progress < self.soft_share:
            names = ("soft H[Z|Y]", "soft H[Z]")
            within, overall = soft_entropies(
                latents,
                labels,
                sharpness=self.neighbor_sharpness,
                class_sharpness=self.class_sharpness,
                memory=memory,
                images=every_image,
            )
        else:
            names = ("H[Z|Y]", "H[Z]")
            k = self.neighbors_now()
            if not labels.is_cuda:  # reading labels on a GPU would delay every step; the loss is NaN there instead
                remembered = None if memory is None else memory[1]
                sizes = "the batch size" if remembered is None else "memory_size or the batch size"
                if remembered is None or int(remembered.min()) > EMPTY:
                    check_class_sizes(labels, k, memory=remembered, remedy=ENLARGE.format(sizes))
            within, overall = batch_knn_entropies(
                latents,
                labels,
                within_neighbors=k,
                overall_neighbors=max(1, round(self.neighbor_ratio * k)),
                average=self.average_neighbors,
                memory=memory,
                images=every_image,
            )
        if self.training:
            self.memory.remember(latents, labels, images)
        beta = warmed_up(self.beta, self.beta_warm_up, self.progress)
        return Loss(within + (beta - 1.0) * overall, dict(zip(names, (within, overall), strict=True)))
