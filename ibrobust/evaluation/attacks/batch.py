"""One attack on one batch, and the check of what it returns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ibrobust.evaluation.attacks.attack import Attack, Found
from ibrobust.evaluation.attacks.perturbation import check_result, is_invalid, perturbation_size, tolerance
from ibrobust.evaluation.bfloat16.search import search_on_copy
from ibrobust.evaluation.guarded_model import guard
from ibrobust.isolated_rng import isolated_rng


def attack_batch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    epsilon: float,
    seed: int,
    copied: nn.Module | None = None,
    flags: list[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return adversarial images (B, C, H, W), and (B,) bool for images with a NaN gradient or result.

    If the perturbation that a minimal attack found is larger than epsilon, the attack has failed and the image is
    returned unchanged. So is an image with a NaN gradient that became NaN or left the ball. The random generators are
    restored afterwards.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        attack: any; see `read_attack` for one by its name.
        epsilon: radius in the attack's norm; infinite for whatever a minimal attack finds.
        seed: of all random numbers.
        copied: the copy for an attack with precision=bf16, see `search_copy`; the model itself by default.
        flags: the attack's own warnings are appended to it.

    Raises:
        IbrobustError: the attack's result is outside [0, 1] or the ball: it must not be counted.
    """
    if len(images) == 0:
        return images, torch.zeros(0, dtype=torch.bool, device=images.device)
    model = guard(model)

    def find(attacked: nn.Module, points: Tensor, classes: Tensor) -> Found:
        return Found(*attack.find(attacked, points, classes, epsilon=epsilon, seed=seed))

    with isolated_rng(seed), torch.enable_grad():
        if copied is not None and attack.searches_on_copy:
            adversarial, nonfinite, warnings = search_on_copy(find, guard(copied), model, images, labels)
        else:
            adversarial, nonfinite, warnings = find(model, images, labels)
        if flags is not None:
            flags += warnings
    adversarial = adversarial.detach()
    if attack.minimal:
        within = epsilon + tolerance(attack.norm, epsilon, images[0].numel())
        outside = perturbation_size(adversarial - images, attack.norm) > within  # (B,)
        adversarial = torch.where(outside[:, None, None, None], images, adversarial)
    if bool(nonfinite.any()):  # the model's gradient is to blame for what became of these images, not the attack
        lost = nonfinite & is_invalid(adversarial, images, norm=attack.norm, epsilon=epsilon)
        adversarial = torch.where(lost[:, None, None, None], images, adversarial)
    check_result(attack.label, adversarial, images, norm=attack.norm, epsilon=epsilon)
    return adversarial, nonfinite
