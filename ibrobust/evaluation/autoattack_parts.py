"""AutoAttack by its parts, on one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.evaluation.guarded_model import LibraryModel
from ibrobust.evaluation.predictions import is_correct


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str,
    seed: int,
    version: str = "standard",
    n_iter: int = 100,
    n_queries: int = 5000,
) -> Tensor:
    """Return images (B, C, H, W), adversarial if an attack succeeded (Croce and Hein 2020).

    Each attack gets the images that the attacks before it did not break. The attacks and their settings are
    pyautoattack's. Its own loop also runs five checks per batch, one of them with a global trace function, and writes
    warnings to a logger; the audit makes those checks and more.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), behind a guard.
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        epsilon: radius in that norm.
        norm: Linf or L2.
        seed: of everything random.
        version: standard or rand.
        n_iter: steps of the attacks that take a gradient.
        n_queries: of Square.
    """
    from pyautoattack import AutoAttack

    suite = AutoAttack(LibraryModel(model), norm=norm, eps=epsilon, version=version, device=images.device, seed=seed)
    with torch.no_grad():
        num_classes = model(images[:1]).shape[1]
    suite.apgd.n_iter = suite.apgd_targeted.n_iter = suite.fab.n_iter = n_iter
    suite.apgd.n_iter_orig = suite.apgd_targeted.n_iter_orig = n_iter
    suite.square.n_queries = n_queries
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(9, num_classes - 1)
    suite.fab.targeted = True
    # The number of classes that the losses need: DLR uses the third largest logit, its targeted form the fourth.
    fewest = {"apgd-dlr": 3, "apgd-t": 4}
    adversarial, left = images.clone(), torch.arange(len(images), device=images.device)
    for name in suite.attacks_to_run:
        if len(left) == 0:
            break
        if num_classes < fewest.get(name, 2) or (name == "square" and not square_takes(images, norm)):
            continue
        if name.startswith("apgd-") and name != "apgd-t":
            suite.apgd.loss = name.removeprefix("apgd-")
        attack = {"apgd-t": suite.apgd_targeted, "fab-t": suite.fab, "square": suite.square}.get(name, suite.apgd)
        # The attacks enable gradients where they need them; elsewhere graphs would only cost time and memory.
        with torch.no_grad():
            found = attack.perturb(images[left].float(), labels[left].clone()).to(images.dtype)
            wrong = ~is_correct(model(found), labels[left])
        adversarial[left[wrong]] = found[wrong]
        left = left[~wrong]
    return adversarial


def square_takes(images: Tensor, norm: str) -> bool:
    """Return whether pyautoattack's Square can work on images (B, C, H, W).

    In L2 it starts with a grid of tiles, each a fifth of the height wide. It fails if they do not fit into the image.
    """
    height, width = images.shape[2:]
    if norm != "L2":
        return True
    side = height // 5
    begin = (height - 5 * side) // 2
    return side >= 2 and all(begin + length // side * side <= length for length in (height, width))
