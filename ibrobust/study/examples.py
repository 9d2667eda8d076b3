"""Some adversarial images of a model, for its report."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ibrobust.data import Dataset
from ibrobust.data.names import attacked_images
from ibrobust.evaluation.attacks.run import run_attacks
from ibrobust.evaluation.model_state import evaluation_mode

COUNT = 6
ATTACK = "PGD:steps=20"


def adversarial_examples(model: nn.Module, data: Dataset, *, epsilon: float, seed: int) -> dict[str, Any]:
    """Return a few test images, spread evenly, with their adversarial images, as a report shows them.

    The result has `images` (in words: "test images"), `attack`, `epsilon`, the class names `labels`, `predicted` and
    `attacked` of each image (COUNT,), and `image`: a PNG in base64 with a column per image. Its rows are the images,
    the perturbations from -epsilon (black) to epsilon (white), and the adversarial images.
    """
    chosen, kept = data.test.subset(COUNT), []

    def keep(images: Tensor, adversarial: Tensor) -> None:
        kept.append((images, adversarial))

    run_attacks(
        model,
        chosen.images,
        chosen.labels,
        attacks=ATTACK,
        epsilons=epsilon,
        batch_size=COUNT,
        seed=seed,
        progress=False,
        on_images=keep,
    )
    ((images, adversarial),) = kept
    with torch.no_grad(), evaluation_mode(model):
        before, after = (model(each).argmax(dim=1).tolist() for each in (images, adversarial))
    perturbations = 0.5 + (adversarial - images) / (2 * epsilon)
    rows = [torch.cat(tuple(each), dim=2) for each in (images, perturbations, adversarial)]  # each (C, H, COUNT * W)
    sheet = torch.cat(rows, dim=1).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet).save(file, "PNG", optimize=True)
    names = data.class_names
    return {
        "images": attacked_images(data.source),
        "attack": ATTACK,
        "epsilon": epsilon,
        "labels": [names[label] for label in chosen.labels.tolist()],
        "predicted": [names[label] for label in before],
        "attacked": [names[label] for label in after],
        "image": base64.b64encode(file.getvalue()).decode(),
    }
