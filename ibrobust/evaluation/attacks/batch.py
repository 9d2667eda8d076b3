"""One attack on one batch: ibrobust's own, torchattacks', AutoAttack by its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.given import AnyAttack, GivenAttack, check_numbers, run_given
from ibrobust.evaluation.attacks.losses import LOSSES
from ibrobust.evaluation.attacks.pgd import loss_gradient, pgd, random_start
from ibrobust.evaluation.attacks.spec import OWN_ATTACKS
from ibrobust.evaluation.attacks.torchattacks_classes import foreign_attack
from ibrobust.evaluation.autoattack_parts import autoattack
from ibrobust.evaluation.bfloat16.search import SAME_BUT_FOR_ROUNDING, agrees
from ibrobust.evaluation.guarded_model import guard
from ibrobust.evaluation.model_state import isolated_rng
from ibrobust.evaluation.predictions import is_correct
from ibrobust.evaluation.worst_case_attack import worst_case_attack

# Rounding in x + delta and back; float32 keeps pixels to 6e-8, and longer norms add up more of it.
TOLERANCE = {"Linf": 1e-6, "L2": 1e-4, "L1": 1e-2, "L0": 1e-6}
_GRADIENT_FREE = {"VANILA", "GN", "Square", "SPSA", "OnePixel", "Pixle"}


def attack_batch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: AnyAttack,
    *,
    epsilon: float,
    seed: int,
    copied: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Return adversarial images (B, C, H, W), and (B,) bool for images with a NaN gradient or result.

    An attack without a radius searches for the smallest perturbation; if that is larger than epsilon, the attack has
    failed and the image is returned unchanged. The random generators are restored afterwards.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) in [0, 1], on the model's device.
        labels: (B,).
        spec: the attack.
        epsilon: radius in the attack's norm.
        seed: of everything random.
        copied: the copy for an attack with precision=bf16, see `search_copy`; the model itself by default.

    Raises:
        IbrobustError: the attack's result is outside [0, 1] or the ball: it must not be counted.
    """
    if len(images) == 0:
        return images, torch.zeros(0, dtype=torch.bool, device=images.device)
    model = guard(model)
    with isolated_rng(seed), torch.enable_grad():
        if isinstance(spec, GivenAttack):
            nonfinite = _nonfinite_gradient(model, images, labels)
            adversarial, bounded = run_given(model, images, labels, spec, epsilon=epsilon, seed=seed), True
            check_numbers(spec, adversarial, excused=nonfinite)
        elif spec.name in OWN_ATTACKS:
            options = {**OWN_ATTACKS[spec.name], **dict(spec.options)}
            attack = _OWN[spec.name]
            if copied is not None and options.get("precision") == "bf16":
                adversarial, nonfinite = _drafted(attack, copied, model, images, labels, epsilon, seed, options)
            else:
                adversarial, nonfinite = attack(model, images, labels, epsilon, seed, options)
            bounded = True
        else:
            adversarial, nonfinite, bounded = foreign_attack(model, images, labels, spec, epsilon=epsilon, seed=seed)
            if spec.name not in _GRADIENT_FREE:
                nonfinite |= _nonfinite_gradient(model, images, labels)
    adversarial = adversarial.detach()
    if not bounded:
        outside = perturbation_size(adversarial - images, spec.norm) > epsilon + TOLERANCE[spec.norm]  # (B,)
        adversarial = torch.where(outside[:, None, None, None], images, adversarial)
    counted = ~nonfinite
    check_result(spec.label, adversarial[counted], images[counted], norm=spec.norm, epsilon=epsilon)
    return adversarial, nonfinite


def check_result(label: str, adversarial: Tensor, images: Tensor, *, norm: str, epsilon: float) -> None:
    """Raise IbrobustError if an attack's result (B, C, H, W) is outside the ball or [0, 1]: it must not be counted."""
    size = perturbation_size(adversarial - images, norm)  # (B,)
    outside = ~(size <= epsilon + TOLERANCE[norm])  # NaN is outside as well
    if bool(outside.any()):
        raise IbrobustError(
            f"{label} went to {float(size[outside].max()):.6g} in {norm}, beyond epsilon {epsilon:.6g}: "
            "its result is not counted. Leave this attack out."
        )
    beyond = ((adversarial < -1e-6) | (adversarial > 1 + 1e-6)).flatten(1).any(dim=1)
    if bool(beyond.any()):
        raise IbrobustError(
            f"{label} gave pixels outside [0, 1] for {int(beyond.sum())} images: its result is not counted. "
            "Leave this attack out."
        )


def perturbation_size(delta: Tensor, norm: str) -> Tensor:
    """Return (B,) sizes of perturbations (B, C, H, W): Linf, L2, L1, or L0 as the share of pixels changed."""
    if norm == "L0":
        return (delta != 0).any(dim=1).flatten(1).float().mean(dim=1)
    order = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}.get(norm)
    if order is None:
        raise IbrobustError(f"Unknown norm {norm!r}: choose Linf, L2 or L1.")
    return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)


def _fgsm(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, seed: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    del seed  # nothing in it is random
    run = pgd(
        model,
        images,
        labels,
        epsilon=epsilon,
        steps=1,
        step_size=epsilon,
        loss=options["loss"],
        stop_when_broken=False,
    )
    return run.last, run.nonfinite


def _pgd(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, seed: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    adversarial = images
    nonfinite = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    left = torch.arange(len(images), device=images.device)
    for restart in range(options["restarts"]):
        # The first time without a copy.
        targets, points = (labels, images) if restart == 0 else (labels[left], images[left])
        # From the second on, a start at the image would only repeat the first.
        moved = options["random_start"] or restart > 0
        run = pgd(
            model,
            points,
            targets,
            epsilon=epsilon,
            steps=options["steps"],
            step_size=options["alpha"],
            loss=options["loss"],
            start=random_start(points, epsilon, generator, options["norm"]) if moved else None,
            norm=options["norm"],
        )
        adversarial = run.adversarial if restart == 0 else adversarial.index_copy(0, left, run.adversarial)
        nonfinite[left] |= run.nonfinite
        left = left[~run.broken]
        if len(left) == 0:
            break
    return adversarial, nonfinite


def _autoattack(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, seed: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    # Before the attacks, so that a failing backward pass is reported at once.
    nonfinite = _nonfinite_gradient(model, images, labels)
    adversarial = autoattack(
        model,
        images,
        labels,
        epsilon=epsilon,
        norm=options["norm"],
        seed=seed,
        version=options["version"],
        n_iter=options["n_iter"],
        n_queries=options["n_queries"],
    )
    return adversarial, nonfinite


def _worst_case(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, seed: int, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    result = worst_case_attack(
        model,
        images,
        labels,
        epsilon=epsilon,
        norm=options["norm"],
        seed=seed,
        batch_size=len(images),
        escalate=options["escalate"],
        progress=False,
    )
    return result.adversarial, _nonfinite_gradient(model, images, labels)


def _nonfinite_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return (B,) bool. The libraries' own steps turn a NaN into no step at all, and the image would look robust."""
    gradient, _, _ = loss_gradient(model, images, labels, LOSSES["cross_entropy"])
    return ~gradient.flatten(1).isfinite().all(dim=1)


OwnAttack = Callable[[nn.Module, Tensor, Tensor, float, int, dict[str, Any]], tuple[Tensor, Tensor]]
_OWN: dict[str, OwnAttack] = {"FGSM": _fgsm, "PGD": _pgd, "AutoAttack": _autoattack, "WorstCase": _worst_case}


def _drafted(
    attack: OwnAttack,
    copied: nn.Module,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    seed: int,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Attack a copy of the model, then the model itself on images for which only the copy gives a result.

    These are images that break only the copy, unbroken images on which the two disagree, and images with a NaN gradient
    of the copy alone. Only the model's own answer counts, since the caller evaluates it for the classes.
    """
    copied = guard(copied)
    adversarial, unsure = attack(copied, images, labels, epsilon, seed, options)
    # Rounding can hide a NaN gradient.
    nonfinite = _nonfinite_gradient(model, images, labels)
    with torch.no_grad():
        unbroken = is_correct(model(adversarial), labels)
        unsure |= unbroken & ~is_correct(copied(adversarial), labels)
    rest = (unbroken & ~unsure).nonzero()[:, 0]
    if len(rest):
        unsure[rest] = ~agrees(copied, model, adversarial[rest], labels[rest], SAME_BUT_FOR_ROUNDING)
    again = unbroken & unsure | ~adversarial.flatten(1).isfinite().all(dim=1)
    if bool(again.any()):
        found, without_gradient = attack(model, images[again], labels[again], epsilon, seed, options)
        adversarial[again] = found
        nonfinite[again] |= without_gradient
    return adversarial, nonfinite
