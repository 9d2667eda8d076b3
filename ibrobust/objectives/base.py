"""The interface of every training objective: from latents and labels to a loss in nats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

# What a training can do about a class with too few points; in the braces, which sizes count.
ENLARGE = "raise {}, balance the batches, or lower num_neighbors"


@dataclass(frozen=True)
class Loss:
    """A differentiable loss and its named parts.

    Attributes:
        total: scalar in nats, the minimised quantity.
        terms: detached scalars in nats unless their name says otherwise, for example ``H[Z|Y]``, ``H[Z]``.
    """

    total: Tensor
    terms: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "terms", MappingProxyType({name: value.detach() for name, value in self.terms.items()})
        )


class Objective(nn.Module):
    """Base class of objectives. A subclass is one file and one `register_objective` line.

    Its constructor takes, by keyword only, ``latent_dim``, ``num_classes`` and the recipe fields named in `options`.
    Parameters of the objective are trained together with the encoder.

    Attributes:
        options: names of the recipe fields for the constructor.
        outputs_per_latent: number of encoder outputs per latent dimension: 1 for point latents, 2 if the encoder gives
            the mean and log standard deviation of a Gaussian.
        needs: options without effect while another one is 0 or None, with that one.
        adds_noise: whether the trainer adds zero-entropy noise before this objective.
        knows_images: whether `forward` also takes ``images``, (B,) int64, the index of each image in the training
            split. An objective that compares the latents with each other can then tell copies of an image.
        head: the decoder (B, latent_dim) -> logits (B, num_classes) that is trained with the encoder, or
            None if the objective has none and decoders are fitted afterwards.
        progress: completed share of the training, for objectives that change during training.
    """

    options: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[Mapping[str, str]] = MappingProxyType({})
    outputs_per_latent: ClassVar[int] = 1
    adds_noise: ClassVar[bool] = False
    knows_images: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        # Not on the class: Python looks up an attribute on the class before nn.Module's own registry.
        self.head: nn.Module | None = None
        self.progress = 0.0

    @property
    def settles_at(self) -> float:
        """Share of the training, in [0, 1], after which losses can be compared: the loss is no longer redefined."""
        return 0.0

    def set_progress(self, progress: float) -> None:
        """Store the completed share of the training, in [0, 1]; the trainer calls this before each step."""
        self.progress = progress

    def forward(self, latents: Tensor, labels: Tensor) -> Loss:
        """Return the loss of one batch.

        Args:
            latents: (B, outputs_per_latent * latent_dim) encoder outputs, noise already added.
            labels: (B,) int64 class indices.
        """
        raise NotImplementedError

    def training_images(
        self,
        images: Tensor,
        labels: Tensor,  # noqa: ARG002
        latents_of: Callable[[Tensor], Tensor],  # noqa: ARG002
    ) -> Tensor:
        """Return the training images; adversarial training overrides this, all other objectives return them unchanged.

        Args:
            images: (B, 3, H, W) in [0, 1]; with several processes, this process's share of the batch.
            labels: (B,) int64.
            latents_of: images (B, 3, H, W) -> latents, the encoder in training mode, with a graph. With several
                processes, all must call it equally often; gradients are those of the sum of their losses.
        """
        return images
