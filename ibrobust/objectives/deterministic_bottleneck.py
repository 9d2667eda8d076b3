"""The deterministic information bottleneck as entropies, trained through a decoder."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ibrobust.estimators.entropy import check_class_sizes, conditional_knn_entropy, knn_entropy
from ibrobust.objectives.base import ENLARGE, Loss, Objective


class DeterministicBottleneck(Objective):
    """min H[Y | Z] + beta H[Z], or beta H[Z | Y], in nats (Kirsch, Lyle, Gal 2020, eq. 9 and eq. 8).

    H[Y | Z] is bounded by the cross-entropy of a decoder, trained together with the encoder, as in the surrogate
    objectives of Kirsch et al. 2020 ("Unpacking information bottlenecks"); the other entropy is the kNN estimate of the
    noisy latents.

    Args:
        latent_dim: D.
        num_classes: C.
        beta: weight of the latent entropy: the paper's beta'' for H[Z], its beta' for H[Z | Y].
        num_neighbors: k of the estimate.
        average_neighbors: average the estimates for 1..k.
        head: latents (B, D) -> logits (B, C); linear by default.
        conditional: compress H[Z | Y], eq. (8), instead of H[Z], eq. (9).
    """

    options: ClassVar[tuple[str, ...]] = ("beta", "num_neighbors", "average_neighbors", "head", "conditional")
    adds_noise: ClassVar[bool] = True

    def __init__(
        self,
        *,
        latent_dim: int,
        num_classes: int,
        beta: float,
        num_neighbors: int,
        average_neighbors: bool,
        head: nn.Module | None = None,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.num_neighbors = num_neighbors
        self.average_neighbors = average_neighbors
        self.head: nn.Module = head if head is not None else nn.Linear(latent_dim, num_classes)
        self.conditional = conditional

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        """Return the loss of noisy latents (B, D) with labels (B,); terms ``H[Y|Z]`` and ``H[Z]`` or ``H[Z|Y]``."""
        options: dict[str, Any] = {"average": self.average_neighbors, "validate": False}
        decoding = F.cross_entropy(self.head(latents).float(), labels)
        if self.conditional:
            if not labels.is_cuda:  # reading labels on a GPU would delay every step; the loss is NaN there instead
                check_class_sizes(labels, self.num_neighbors, remedy=ENLARGE.format("the batch size"))
            entropy = conditional_knn_entropy(latents, labels, self.num_neighbors, **options)
        else:
            entropy = knn_entropy(latents, self.num_neighbors, **options)
        name = "H[Z|Y]" if self.conditional else "H[Z]"
        return Loss(decoding + self.beta * entropy, {"H[Y|Z]": decoding, name: entropy})
