"""Any attacks by name over any epsilons, resumable, with a record for every image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.epsilon import Epsilons, read_epsilons
from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.attack import Attack, require_different
from ibrobust.evaluation.attacks.batch import attack_batch
from ibrobust.evaluation.attacks.behaviour import Behaviour, behaviour, some_images
from ibrobust.evaluation.attacks.by_name import read_attack
from ibrobust.evaluation.attacks.function_attack import AttackFunction
from ibrobust.evaluation.attacks.own_attacks import AutoAttack, WorstCase
from ibrobust.evaluation.attacks.perturbation import perturbation_size, tolerance
from ibrobust.evaluation.attacks.pgd import nonfinite_flags
from ibrobust.evaluation.attacks.result import AttackResult, are_bits, from_bits, to_bits
from ibrobust.evaluation.attacks.state import AttackLog, data_digests
from ibrobust.evaluation.attacks.surrogate import SurrogateAttack
from ibrobust.evaluation.bfloat16.search import COMPARED_IMAGES, search_copy
from ibrobust.evaluation.grad_mode import grad_mode_flags
from ibrobust.evaluation.guarded_model import GuardedModel, guard
from ibrobust.evaluation.hints import warn_of_mistakes
from ibrobust.evaluation.inputs import ArrayLike, check_batch_size, images_and_labels, unit_range
from ibrobust.evaluation.logit_distance import batch_flags
from ibrobust.evaluation.model_state import evaluation_mode, model_device, model_reference
from ibrobust.evaluation.predictions import count_classes, probability_flags
from ibrobust.isolated_rng import isolated_rng
from ibrobust.live_line import following
from ibrobust.seeds import check_seed, evaluation_seed


def run_attacks(
    model: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    attacks: Sequence[Attack | AttackFunction | str] | Attack | AttackFunction | str,
    epsilons: Epsilons,
    batch_size: int = 250,
    seed: int = 0,
    state_path: str | Path | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    on_images: Callable[[Tensor, Tensor], None] | None = None,
) -> list[AttackResult]:
    """Return one record per attack and epsilon, ordered by attack, then by epsilon.

    The model itself decides whether an image is correct; if it draws random numbers, by one draw. WorstCase decides by
    the mean of the logits over 32 draws.

    Each batch's random numbers depend on the seed, the attack, the epsilon and the batch alone; AutoAttack's batches
    all start from the seed itself, as in the original. WorstCase chooses among all images which ones it attacks
    longer, so it is `worst_case_attack` on all of them, with this seed. So two runs give the same records, and so does
    one that was killed and resumed. Model mode, parameter gradients and random state are restored afterwards.

    A record is flagged if the model's logits for an image depend on the other images of its batch: attacks leave out
    images that are broken or already wrong, so the others are judged in other batches. It is also flagged if they
    depend on random draws or on whether a gradient is taken, if they are probabilities, and if a gradient is NaN or
    infinite: only an image that the model misclassifies is broken.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), K >= 2; see `GuardedModel`. It runs on its own
            device, in evaluation mode.
        images: (N, C, H, W) floats in [0, 1], or uint8 in [0, 255], on any device; a tensor, a NumPy array or a list.
        labels: (N,) integers in [0, K), likewise.
        attacks: objects, PGD(steps=50); text as on the command line, "PGD:steps=50" or "foolbox:LinfPGD"; or functions,
            ``attack(model, images, labels, *, epsilon, seed)`` -> adversarial images, see `FunctionAttack`.
        epsilons: radii in each attack's norm, in [0, 1] pixel scale, numbers or text as "8/255".
        batch_size: images per batch.
        seed: of all random numbers.
        state_path: file for the results of each batch; an existing one is resumed.
        progress: whether to show it; by default in a notebook or on a terminal. Or a function, called with (images
            done, total images) after each batch, counted over attacks and epsilons.
        on_images: called with each batch (B, C, H, W) in [0, 1] and its adversarial images, in the order of the
            results. Not with `state_path`, since a resumed run does not make its earlier images again.

    Raises:
        IbrobustError: an argument is not of that form, the state file belongs to another evaluation, or an attack
            cannot work on such images or left its ball.

    Examples:
        >>> import ibrobust
        >>> import torch
        >>> model = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
        >>> images = torch.tensor([[0.2, 0.8], [0.55, 0.45]]).reshape(2, 1, 1, 2)
        >>> (result,) = ibrobust.run_attacks(model, images, [1, 0], attacks=ibrobust.PGD(steps=5), epsilons=0.1)
        >>> result.robust_correct
        (True, False)
    """
    attacks = attacks if isinstance(attacks, Sequence) and not isinstance(attacks, str) else [attacks]
    chosen = [read_attack(attack) for attack in attacks]
    epsilons = read_epsilons(epsilons, norms={attack.norm for attack in chosen})
    if not chosen or not epsilons:
        raise IbrobustError("No attack or no epsilon was given: give at least one of each.")
    require_different(chosen)
    if len(set(epsilons)) < len(epsilons):
        raise IbrobustError(f"An epsilon occurs twice in {', '.join(map(str, epsilons))}: give each once.")
    if on_images is not None and state_path is not None:
        raise IbrobustError("A run that keeps its state does not give its images: leave one of the two out.")
    batch_size = check_batch_size(batch_size)
    seed = check_seed(seed)
    images, labels = images_and_labels(images, labels)
    guarded = guard(model)
    settings: dict[str, Any] = {
        "attacks": [attack.label for attack in chosen],
        "epsilons": epsilons,
        "batch size": batch_size,
        "seed": seed,
    }
    path = Path(state_path) if state_path is not None else None
    if path is not None and (sources := [attack.source for attack in chosen if attack.source]):
        settings["sources"] = sources
    if path is not None and any(attack.attack_version > 1 for attack in chosen):
        settings["attack versions"] = [attack.attack_version for attack in chosen]
    # One run of a minimal attack is for all epsilons, unless the images of each are wanted.
    work = [
        (attack, radius)
        for attack in chosen
        for radius in ([None] if attack.minimal and on_images is None else epsilons)
    ]
    total, results = len(images) * len(work), list[AttackResult]()
    with evaluation_mode(model), following(progress, "attacks", lambda line: line.show) as report:
        reference = model_reference(guarded)
        num_classes = count_classes(guarded, unit_range(images[:1], reference), labels)
        for attack in chosen:
            attack.check_fit(channels=images.shape[1], num_classes=num_classes)
        log = AttackLog()
        if path is not None:
            settings |= data_digests(model, images, labels)
            some = unit_range(some_images(images), reference)
            log = AttackLog(
                path,
                settings,
                behaviour(guarded, some),
                surrogates=_surrogates(chosen, some),
                keep_images=any(isinstance(attack, WorstCase) and attack.escalate for attack in chosen),
            )
        if log.is_empty:  # a run that is resumed has warned already
            warn_of_mistakes(guarded, images, labels, batch_size=batch_size)
        copied = None
        if any(attack.searches_on_copy for attack in chosen):
            copied = _copy_to_search(guarded, images, labels)
        for number, (attack, epsilon) in enumerate(work):

            def show(done: int, before: int = number * len(images)) -> None:
                if report:
                    report(before + done, total)

            run = _Run(
                model=guarded,
                images=images,
                labels=labels,
                attack=attack,
                epsilon=epsilon,
                batch_size=batch_size,
                seed=seed,
                copied=copied,
                log=log,
                show=show,
                on_images=on_images,
            )
            if isinstance(attack, AutoAttack):
                results.append(run.autoattack())
            elif isinstance(attack, WorstCase):
                results.append(run.worst_case())
            else:
                results += run.batch_by_batch(epsilons if epsilon is None else [epsilon])
    return results


def _surrogates(attacks: Sequence[Attack], images: Tensor) -> dict[str, Behaviour]:
    """Return the behaviour of each attack's surrogate on a few images, by the attack's label."""
    found = {}
    for attack in attacks:
        if isinstance(attack, SurrogateAttack) and attack.surrogate_model is not None:
            with evaluation_mode(attack.surrogate_model):
                found[attack.label] = behaviour(guard(attack.surrogate_model), images)
    return found


def _copy_to_search(model: nn.Module, images: Tensor, labels: Tensor) -> nn.Module | None:
    some = torch.linspace(0, len(images) - 1, min(COMPARED_IMAGES, len(images))).long()
    reference = model_reference(model)
    copied = search_copy(model, unit_range(images[some], reference), labels[some].to(reference.device).long())
    if copied is None:
        warnings.warn("precision=bf16 is not faster here: the model itself is attacked, in float32.", stacklevel=3)
    return copied


@dataclass(frozen=True)
class _Run:
    """One attack on all images, at one epsilon, or at none if it is minimal; the arguments of `run_attacks`."""

    model: GuardedModel
    images: Tensor
    labels: Tensor
    attack: Attack
    epsilon: float | None
    batch_size: int
    seed: int
    copied: nn.Module | None
    log: AttackLog
    show: Callable[[int], None]
    on_images: Callable[[Tensor, Tensor], None] | None

    @property
    def key(self) -> dict[str, Any]:
        """What tells this run's steps in the log from those of the other runs."""
        return {"attack": self.attack.label, "epsilon": self.epsilon}

    def autoattack(self) -> AttackResult:
        """Run AutoAttack, which goes through the images once for each of its parts."""
        assert isinstance(self.attack, AutoAttack)
        assert self.epsilon is not None
        outcome = self.attack.run(
            self.model,
            self.images,
            self.labels,
            epsilon=self.epsilon,
            batch_size=self.batch_size,
            seed=self.seed,
            copied=self.copied if self.attack.searches_on_copy else None,
            log=self.log,
            key=self.key,
            keep_images=self.on_images is not None,
            progress=lambda share: self.show(round(share * len(self.labels))),
        )
        if outcome.adversarial is not None:
            self._give(outcome.adversarial)
        return AttackResult(
            attack=self.attack.label,
            norm=self.attack.norm,
            epsilon=self.epsilon,
            clean_correct=tuple(outcome.clean_correct.tolist()),
            attacked_correct=tuple(outcome.robust_correct.tolist()),
            nonfinite_gradient=int(outcome.nonfinite.sum()),
            seed=self.seed,
            flags=outcome.flags,
        )

    def worst_case(self) -> AttackResult:
        """Run the worst-case attack, which chooses among all images which ones it attacks longer."""
        assert isinstance(self.attack, WorstCase)
        assert self.epsilon is not None
        size = len(self.labels)
        # Its AutoAttack takes most of the time: each batch of that is a step, as are all stages before it together.
        fields = (
            self._worst_case(log=self.log, key=self.key)
            if self.attack.escalate
            else self.log.step(self.key, self._worst_case, partial(_is_batch, size=size, minimal=False))
        )
        self.show(size)
        return AttackResult(
            attack=self.attack.label,
            norm=self.attack.norm,
            epsilon=self.epsilon,
            clean_correct=from_bits(fields["clean"]),
            attacked_correct=from_bits(fields["attacked"]),
            nonfinite_gradient=fields["nonfinite"],
            seed=self.seed,
            flags=tuple(fields["flags"]),
            attack_version=self.attack.attack_version,
        )

    def _worst_case(self, **resumed: Any) -> dict[str, Any]:
        assert isinstance(self.attack, WorstCase)
        assert self.epsilon is not None
        result = self.attack.run(
            self.model,
            self.images,
            self.labels,
            epsilon=self.epsilon,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=lambda _, left, clean: self.show(len(self.labels) * (clean - left) // max(clean, 1)),
            **resumed,
        )
        self._give(result.adversarial)
        return {
            "clean": to_bits(result.clean_correct),
            "attacked": to_bits(result.robust_correct),
            "nonfinite": sum(result.nonfinite_gradient),
            "flags": list(result.warnings),
        }

    def _give(self, adversarial: Tensor) -> None:
        """Hand out the images (N, C, H, W) and what the attack made of them, batch by batch."""
        if self.on_images is None:
            return
        reference = model_reference(self.model)
        for images, found in zip(self.images.split(self.batch_size), adversarial.split(self.batch_size), strict=True):
            self.on_images(unit_range(images, reference), found.to(reference))

    def batch_by_batch(self, epsilons: Sequence[float]) -> list[AttackResult]:
        """Run any other attack; return one record per epsilon."""
        clean: tuple[bool, ...] = ()
        attacked: tuple[bool, ...] = ()
        norms: tuple[float | None, ...] = ()
        nonfinite, found = 0, []
        for number, start in enumerate(range(0, len(self.images), self.batch_size)):
            part = slice(start, start + self.batch_size)
            size = len(self.labels[part])
            fields = self.log.step(
                {**self.key, "batch": number},
                partial(self._attack_batch, self.images[part], self.labels[part], number),
                partial(_is_batch, size=size, minimal=self.epsilon is None),
            )
            clean += from_bits(fields["clean"])
            attacked += from_bits(fields["attacked"])
            norms += tuple(fields.get("minimal_norm", ()))
            nonfinite += fields["nonfinite"]
            found += fields["flags"]
            self.show(start + size)
        record = partial(AttackResult, self.attack.label, self.attack.norm)
        flags = tuple(dict.fromkeys((*found, *nonfinite_flags(nonfinite))))
        if self.epsilon is not None:
            return [record(self.epsilon, clean, attacked, nonfinite, self.seed, flags)]
        results = []
        for epsilon in epsilons:
            within = epsilon + tolerance(self.attack.norm, epsilon, self.images[0].numel())
            attacked = tuple(norm is None or norm > within for norm in norms)
            results.append(record(epsilon, clean, attacked, nonfinite, self.seed, flags, norms))
        return results

    def _attack_batch(self, images: Tensor, labels: Tensor, number: int) -> dict[str, Any]:
        seed = evaluation_seed(self.seed, self.attack.label, None if self.attack.minimal else self.epsilon, number)
        # A model that draws random numbers, of any generator, draws the same ones after a resume.
        with isolated_rng(seed):
            return self._attack_seeded(images, labels, seed, number)

    def _attack_seeded(self, images: Tensor, labels: Tensor, seed: int, number: int) -> dict[str, Any]:
        device = model_device(self.model)
        images, labels = unit_range(images, model_reference(self.model)), labels.to(device).long()
        # A model that draws random numbers is judged on the same draws without every attack, and on draws under it
        # that the attack has not seen: those of the attack start from `seed`.
        with torch.no_grad(), isolated_rng(evaluation_seed(self.seed, "judged without an attack", number)):
            outputs = self.model(images)  # (B, K)
        clean = is_correct(outputs, labels)  # (B,)
        targets = clean.nonzero()[:, 0] if self.attack.skips_misclassified else torch.arange(len(labels), device=device)
        # AutoAttack and WorstCase make these checks among their own.
        flags = (
            [*batch_flags(self.model, images), *grad_mode_flags(self.model, images), *probability_flags(outputs)]
            if number == 0
            else []
        )
        adversarial, nonfinite = attack_batch(
            self.model,
            images[targets],
            labels[targets],
            self.attack,
            epsilon=math.inf if self.epsilon is None else self.epsilon,
            seed=seed,
            copied=self.copied,
            flags=flags,
        )
        attacked = torch.zeros_like(clean)
        if len(targets):
            with torch.no_grad(), isolated_rng(evaluation_seed(seed, "judged under attack")):
                attacked[targets] = is_correct(self.model(adversarial), labels[targets])
        if self.on_images is not None:
            self.on_images(images, images.index_copy(0, targets, adversarial.to(images)))
        fields: dict[str, Any] = {
            "clean": to_bits(tuple(clean.tolist())),
            "attacked": to_bits(tuple(attacked.tolist())),
            "nonfinite": int(nonfinite.sum()),
            "flags": flags,
        }
        if self.epsilon is None:
            found = perturbation_size(adversarial - images[targets], self.attack.norm)
            norms = found.new_zeros(len(images)).index_copy(0, targets, found)
            fields["minimal_norm"] = [
                None if survives else norm for survives, norm in zip(attacked.tolist(), norms.tolist(), strict=True)
            ]
        return fields


def _is_batch(line: dict[str, Any], *, size: int, minimal: bool) -> bool:
    """Return whether a line holds an attack's result for one batch of this size."""
    bits = all(are_bits(line[key], size) for key in ("clean", "attacked"))
    if minimal and len(line["minimal_norm"]) != size:
        return False
    flags = all(isinstance(flag, str) for flag in line["flags"])
    return bits and flags and isinstance(line["nonfinite"], int) and 0 <= line["nonfinite"] <= size
