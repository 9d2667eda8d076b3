"""What the worst-case attack leaves of three models that cut their gradient, with and without its stage for them.

python benchmarks/cut_gradients.py IMAGES

IMAGES is a data set of CIFAR-10 for --dataset, such as cifar10-jpeg. The vote is over digits, which come with ibrobust.
"""

from __future__ import annotations

import io
import sys
from unittest.mock import patch

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image, to_tensor

import ibrobust
from ibrobust.evaluation.straight_through import Cuts
from ibrobust.evaluation.worst_case_attack import run

NUMBER = 60


class Vote(nn.Module):
    """How many of four views of an image get each class."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        views = (images, images.flip(3), images.roll(1, 3), images.roll(-1, 3))
        return torch.stack([F.one_hot(self.model(view).argmax(dim=1), 10) for view in views]).sum(dim=0)


class Detached(nn.Module):
    """A network without its gradient, and next to nothing of another one with its gradient."""

    def __init__(self, hidden: nn.Module, seen: nn.Module) -> None:
        super().__init__()
        self.hidden, self.seen = hidden, seen

    def forward(self, images: Tensor) -> Tensor:
        return self.hidden(images.detach()) + 1e-3 * self.seen(images.flip(3))


class Jpeg(nn.Module):
    """A network that classifies what Pillow's JPEG makes of an image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(torch.stack([self._encoded(image) for image in images]))

    @staticmethod
    def _encoded(image: Tensor) -> Tensor:
        stream = io.BytesIO()
        to_pil_image(image).save(stream, "JPEG", quality=75)
        return to_tensor(Image.open(stream))


def main() -> None:
    """Print one line for each model, without and with the stage."""
    load = ibrobust.load_model
    cases = (
        ("vote", Vote(load("cross_entropy-digits")), "digits", 0.06),
        ("detached", Detached(load("cross_entropy-w16-s0"), load("cross_entropy-w16-s1")), sys.argv[1], 4 / 255),
        ("JPEG", Jpeg(load("cross_entropy-w16-s0")), sys.argv[1], 4 / 255),
    )
    for name, model, source, epsilon in cases:
        test = ibrobust.load_dataset(source).test.subset(NUMBER)
        for kind in ("without", "with"):
            known = {} if kind == "with" else {"return_value": Cuts()}
            with patch.object(run, "gradient_cuts", wraps=run.gradient_cuts, **known):
                found = ibrobust.worst_case_attack(model.eval(), test.images, test.labels, epsilon=epsilon)
            passes = found.cost.forward_images + found.cost.backward_images
            left, correct = sum(found.robust_correct), sum(found.clean_correct)
            print(f"{name}, {kind} the stage: {left} of {correct} left, {passes:,} passes, {found.warnings}")


if __name__ == "__main__":
    main()
