"""The paper's objective: an information bottleneck of two kNN entropies."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ibrobust.errors import IbrobustError
from ibrobust.objectives.base import Loss, Objective
from ibrobust.objectives.entropy import check_class_sizes, conditional_knn_entropy, knn_entropy
from ibrobust.objectives.soft_entropy import soft_entropies

# The label of a place in the memory that nothing was put into yet.
EMPTY = -1


class KnnBottleneck(Objective):
    """min H[Z | Y] + (beta - 1) H[Z] (Kirsch, Lyle, Gal 2020, eq. 10), both by the kNN estimator, in nats.

    It has no decoder: one is fitted to the frozen encoder afterwards.

    Args:
        latent_dim: D.
        num_classes: C.
        beta: the paper's beta'', in [0, 1).
        num_neighbors: k of both estimates.
        average_neighbors: average the estimates for 1..k.
        neighbor_sharpness: where it is given, every point of the batch is a neighbour, see `soft_entropies`, and k is
            not used. Trains far better on batches of a few hundred; docs/method.md says why.
        class_sharpness: with a neighbour sharpness, the one of H[Z | Y].
        memory_size: with a neighbour sharpness, how many of the latest latents are neighbours too.
    """

    options: ClassVar[tuple[str, ...]] = (
        "beta",
        "num_neighbors",
        "average_neighbors",
        "neighbor_sharpness",
        "class_sharpness",
        "memory_size",
    )
    adds_noise: ClassVar[bool] = True
    memory: Tensor
    memory_labels: Tensor

    def __init__(
        self,
        *,
        latent_dim: int,
        num_classes: int,  # noqa: ARG002
        beta: float,
        num_neighbors: int,
        average_neighbors: bool,
        neighbor_sharpness: float | None = None,
        class_sharpness: float = 0.0,
        memory_size: int = 0,
    ) -> None:
        super().__init__()
        if memory_size and neighbor_sharpness is None:
            raise IbrobustError(
                f"A memory of {memory_size} latents has no use without a neighbour sharpness: give one, or leave the "
                "memory out."
            )
        self.beta = beta
        self.num_neighbors = num_neighbors
        self.average_neighbors = average_neighbors
        self.neighbor_sharpness = neighbor_sharpness
        self.class_sharpness = class_sharpness
        self.memory_size = memory_size
        if memory_size:  # buffers, so that a resumed run goes on with the same neighbours
            self.register_buffer("memory", torch.zeros(memory_size, latent_dim))
            self.register_buffer("memory_labels", torch.full((memory_size,), EMPTY))

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        """Return the loss of noisy latents (B, D) with labels (B,); terms ``H[Z|Y]`` and ``H[Z]`` in nats.

        With a neighbour sharpness the terms are surrogates, not entropies: ``soft H[Z|Y]`` and ``soft H[Z]``.
        """
        if self.neighbor_sharpness is not None:
            memory = (self.memory, self.memory_labels) if self.memory_size else None
            within, overall = soft_entropies(
                latents,
                labels,
                sharpness=self.neighbor_sharpness,
                class_sharpness=self.class_sharpness,
                memory=memory,
            )
            if self.training and memory is not None:
                self._remember(latents.detach(), labels)
            # Other names, so that no one takes the surrogates for entropies.
            names = ("soft H[Z|Y]", "soft H[Z]")
            return Loss(within + (self.beta - 1.0) * overall, dict(zip(names, (within, overall), strict=True)))
        if not labels.is_cuda:  # a look at labels on a GPU would hold up every step; the loss is NaN there instead
            check_class_sizes(labels, self.num_neighbors)
        options: dict[str, Any] = {"average": self.average_neighbors, "validate": False}
        within = conditional_knn_entropy(latents, labels, self.num_neighbors, **options)
        overall = knn_entropy(latents, self.num_neighbors, **options)
        return Loss(within + (self.beta - 1.0) * overall, {"H[Z|Y]": within, "H[Z]": overall})

    def _remember(self, latents: Tensor, labels: Tensor) -> None:
        """Put the batch (B, D) in front, and drop what was there longest."""
        self.memory = torch.cat([latents.to(self.memory), self.memory])[: self.memory_size]
        self.memory_labels = torch.cat([labels, self.memory_labels])[: self.memory_size]
