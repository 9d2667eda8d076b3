"""AutoAttack (Croce and Hein 2020): one loop for every caller, over pyautoattack's attacks and checks.

Each attack runs in batches on the images that the attacks before it did not break. Every batch of every attack starts
from the user's own seed, as in pyautoattack, so the adversarial images equal those of pyautoattack. They depend on the
model, the images and their order, epsilon, the seed and the batch size alone. pyautoattack's own loop cannot resume: it
reads the set of attacks back as one string and then returns undefined labels.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ibrobust.correctness import is_correct
from ibrobust.evaluation.attacks.attack import Found
from ibrobust.evaluation.attacks.perturbation import check_result
from ibrobust.evaluation.attacks.pgd import nonfinite_flags, nonfinite_gradient
from ibrobust.evaluation.attacks.result import are_bits, from_bits, to_bits
from ibrobust.evaluation.attacks.state import AttackLog
from ibrobust.evaluation.attacks.watched_model import SOME_NONFINITE, WatchedModel
from ibrobust.evaluation.bfloat16.search import search_on_copy
from ibrobust.evaluation.grad_mode import grad_mode_flags
from ibrobust.evaluation.guarded_model import GuardedModel
from ibrobust.evaluation.inputs import unit_range
from ibrobust.evaluation.logit_distance import BATCH_DEPENDENT, logits_depend_on
from ibrobust.evaluation.model_state import model_device, model_reference
from ibrobust.full_precision import default_dtype
from ibrobust.isolated_rng import isolated_rng

PARTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
# The number of classes that the losses need: DLR uses the third largest logit, its targeted form the fourth.
_FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}

_SILENT = logging.getLogger(__name__)
_SILENT.addHandler(logging.NullHandler())


class Messages(Protocol):
    """Receives the progress, and the warnings of AutoAttack's checks; a `logging.Logger` is one."""

    def info(self, message: str, /) -> object: ...
    def warning(self, message: str, /) -> object: ...


@dataclass(frozen=True)
class AutoAttackOutcome:
    """The result for N images, on the CPU.

    Attributes:
        clean_correct: (N,) bool, images that are classified correctly without an attack.
        robust_correct: (N,) bool, those that no attack broke.
        nonfinite: (N,) bool, images for which a gradient was NaN or infinite, at the image or during an attack.
        predictions: (N,) int64, the classes of the adversarial images, or of the images if no attack succeeded.
        adversarial: (N, C, H, W) in [0, 1], the images if no attack succeeded; None if they are not kept.
        flags: warnings of AutoAttack's checks; with any warning, the robust accuracy is not reliable.
    """

    clean_correct: Tensor
    robust_correct: Tensor
    nonfinite: Tensor
    predictions: Tensor
    adversarial: Tensor | None
    flags: tuple[str, ...]


def autoattack(
    model: GuardedModel,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str = "Linf",
    version: str = "standard",
    n_iter: int = 100,
    n_queries: int = 5000,
    batch_size: int,
    seed: int,
    copied: nn.Module | None = None,
    **options: Any,
) -> AutoAttackOutcome:
    """Return the outcome of AutoAttack with the settings of its authors.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode, behind a guard.
        images: (N, C, H, W) floats in [0, 1] or uint8 in [0, 255], on any device.
        labels: (N,).
        epsilon: radius in that norm.
        norm: Linf or L2.
        version: standard, or rand for a model that draws random numbers.
        n_iter: steps of the attacks that take a gradient; APGD's step sizes keep the schedule for 100 steps.
        n_queries: of Square.
        batch_size: images per batch.
        seed: of the random numbers; set again before each batch.
        copied: a faster copy of the model, see `search_copy`. The search then uses the copy, and only the model's own
            answers count.
        options: of `run_suite`.
    """
    from pyautoattack import AutoAttack

    def suite(of: nn.Module) -> Any:
        device = model_device(model)
        made = AutoAttack(WatchedModel(of), norm=norm, eps=epsilon, version=version, device=device, seed=seed)
        made.apgd.n_iter = made.apgd_targeted.n_iter = made.fab.n_iter = n_iter
        made.apgd.n_iter_orig = made.apgd_targeted.n_iter_orig = n_iter
        made.square.n_queries = n_queries
        return made

    copy_suite = None if copied is None else suite(copied)
    return run_suite(
        model, suite(model), images, labels, batch_size=batch_size, seed=seed, copy_suite=copy_suite, **options
    )


def run_suite(
    model: GuardedModel,
    suite: Any,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    seed: int,
    copy_suite: Any = None,
    log: AttackLog | None = None,
    key: Mapping[str, Any] | None = None,
    keep_images: bool = False,
    messages: Messages = _SILENT,
    progress: Callable[[float], None] | None = None,
) -> AutoAttackOutcome:
    """Return the outcome of a suite's attacks, one after the other, on what the others left.

    An attack is skipped if its loss needs more classes, or if Square's tiles do not fit into the images.

    Args:
        model: decides whether an image is broken; in evaluation mode, behind a guard.
        suite: pyautoattack's AutoAttack of this model in a `WatchedModel`.
        images: (N, C, H, W) floats in [0, 1] or uint8 in [0, 255], on any device.
        labels: (N,).
        batch_size: images per batch.
        seed: of the random numbers; set again before each batch.
        copy_suite: the same suite of a faster copy of the model. The search then uses this copy, and only the model's
            own answers count.
        log: holds the finished steps of an interrupted run.
        key: tells this run's steps from those of other runs in the log.
        keep_images: return the adversarial images; a log must hold them too.
        messages: receives the progress and the warnings.
        progress: called with the finished share in [0, 1] after each batch.

    Raises:
        IbrobustError: the model fails, an attack left its ball, or the log is damaged.
    """
    log = log or AttackLog()
    run = _Run(
        model=model,
        suite=suite,
        copy_suite=copy_suite,
        images=images,
        labels=labels,
        batch_size=batch_size,
        seed=seed,
        log=log,
        key=key or {},
        messages=_Flagging(messages),
    )
    if keep_images:
        run.adversarial = unit_range(images, run.reference.cpu()).clone()
    return run.all_parts(progress or (lambda _: None))


class _Flagging:
    """The logger for pyautoattack's attacks and checks: it remembers their warnings."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self.flags: list[str] = []

    def info(self, message: str) -> None:
        self._messages.info(message)

    def warning(self, message: str) -> None:
        self.flags.append(message)
        self._messages.warning(message)


@dataclass
class _Run:
    """One run, with the arguments of `run_suite`: what is known of each image so far."""

    model: GuardedModel
    suite: Any
    copy_suite: Any
    images: Tensor
    labels: Tensor
    batch_size: int
    seed: int
    log: AttackLog
    key: Mapping[str, Any]
    messages: _Flagging
    num_classes: int = 0
    adversarial: Tensor | None = None

    def __post_init__(self) -> None:
        self.reference = model_reference(self.model).to(self.suite.device)
        self.clean, self.left, self.robust, self.nonfinite = torch.zeros(4, len(self.labels), dtype=torch.bool)
        self.predictions = torch.zeros(len(self.labels), dtype=torch.int64)

    def all_parts(self, progress: Callable[[float], None]) -> AutoAttackOutcome:
        """Run the checks, the clean classification and every attack."""
        from pyautoattack import checks

        parts, say, started = list(self.suite.attacks_to_run), self.messages.info, time.monotonic()
        say(f"using {self.suite.version} version including {', '.join(parts)}")
        self.check_model(parts)
        for number, at in enumerate(torch.arange(len(self.labels)).split(self.batch_size)):
            self.classify(number, at, gradients=parts != ["square"])
        accuracies = {"clean": _share(self.clean)}
        say(f"initial accuracy: {accuracies['clean']:.2%}")
        for done, part in enumerate(parts):
            if not self.left.any():
                say("no image remains to be attacked")
                break
            if not self.can_run(part):
                if part == "square":
                    self.messages.warning("Square was skipped, since its squares do not fit into such small images.")
                else:
                    say(f"{part} was skipped: it cannot attack so few classes")
                continue
            batches = self.left.nonzero()[:, 0].split(self.batch_size)
            for number, at in enumerate(batches):
                broken = self.attack(part, number, at)
                say(f"{part} - {number + 1}/{len(batches)} - {broken} out of {len(at)} successfully perturbed")
                progress((done + (number + 1) / len(batches)) / len(parts))
            accuracies[part] = _share(self.left)
            seconds = time.monotonic() - started
            say(f"robust accuracy after {part.upper()}: {accuracies[part]:.2%} (total time {seconds:.1f} s)")
        for flag in nonfinite_flags(int(self.nonfinite.sum())):
            self.messages.warning(flag)
        checks.check_square_sr(accuracies, logger=self.messages)
        say(f"robust accuracy: {_share(self.robust):.2%}")
        robust = _bits(self.robust)
        self.step("end", 0, lambda: {"robust": robust}, lambda line: line["robust"] == robust)
        progress(1.0)
        flags = tuple(dict.fromkeys(self.messages.flags))  # a batch may say what an earlier one said
        return AutoAttackOutcome(self.clean, self.robust, self.nonfinite, self.predictions, self.adversarial, flags)

    def step(
        self, part: str, batch: int, work: Callable[[], dict[str, Any]], valid: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Return the fields of a step, from the log if it is finished there; it always has the same random numbers."""
        before = len(self.messages.flags)
        key = {**self.key, "part": part, "batch": batch}
        with isolated_rng(self.seed):
            fields = self.log.step(
                key,
                lambda: {**work(), "flags": self.messages.flags[before:]},
                lambda line: all(isinstance(flag, str) for flag in line["flags"]) and valid(line),
            )
        self.messages.flags[before:] = fields["flags"]
        return fields

    def batch(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (B, C, H, W) in [0, 1] and the labels (B,) at positions (B,), on the suite's device."""
        images, labels = self.images[at.to(self.images.device)], self.labels[at.to(self.labels.device)]
        return unit_range(images, self.reference), labels.to(self.reference.device).long()

    def check_model(self, parts: list[str]) -> None:
        """Run AutoAttack's own checks on the first batch."""
        from pyautoattack import checks

        def work() -> dict[str, Any]:
            images, labels = self.batch(torch.arange(min(self.batch_size, len(self.labels))))
            ask, logger = self.suite.get_logits, self.messages
            if self.suite.version != "rand":
                before = len(logger.flags)
                checks.check_randomized(ask, images, labels, bs=self.batch_size, logger=logger)
                if len(logger.flags) == before:
                    depends = logits_depend_on(self.model, images)
                    # That check divides by the length of the logits: a common shift or an infinite logit hides draws.
                    if depends == "draws":
                        logger.warning('the model draws random numbers: use version="rand".')
                    elif depends == "batch":
                        logger.warning(BATCH_DEPENDENT)
            for flag in grad_mode_flags(self.model, images):
                logger.warning(flag)
            classes = checks.check_range_output(ask, images, logger=logger)
            # pyautoattack's counters are global and never reset, and it switches off the caller's debugger.
            checks.funcs.update(dict.fromkeys(checks.funcs, 0))
            trace = sys.gettrace()
            try:
                checks.check_dynamic(ask, images, False, logger=logger)
            finally:
                sys.settrace(trace)
            targets = [_targets(runner, classes) for runner in (self.suite.apgd_targeted, self.suite.fab)]
            checks.check_n_classes(classes, parts, *targets, logger=logger)
            return {"classes": classes}

        self.num_classes = self.step("checks", 0, work, lambda line: isinstance(line["classes"], int))["classes"]

    def classify(self, number: int, at: Tensor, *, gradients: bool) -> None:
        """Classify the images at positions (B,) without an attack."""

        def work() -> dict[str, Any]:
            images, labels = self.batch(at)
            with torch.no_grad():
                logits = self.model(images)
                again = self.model(images)  # judges a stochastic model that no attack breaks
            right = is_correct(logits, labels)
            nonfinite = torch.zeros_like(right)
            if gradients and bool(right.any()):
                nonfinite[right] = nonfinite_gradient(self.model, images[right], labels[right])
            return {
                "clean": _bits(right),
                "attacked": _bits(is_correct(again, labels)),
                "nonfinite": _bits(nonfinite),
                "predictions": logits.argmax(dim=1).tolist(),
            }

        def valid(line: dict[str, Any]) -> bool:
            return self.are_classes(line["predictions"], len(at)) and all(
                are_bits(line[name], len(at)) for name in ("clean", "attacked", "nonfinite")
            )

        fields = self.step("clean", number, work, valid)
        self.clean[at], self.nonfinite[at] = _tensor(fields["clean"]), _tensor(fields["nonfinite"])
        self.left[at] = self.clean[at]
        self.robust[at] = self.left[at] & _tensor(fields["attacked"])
        self.predictions[at] = torch.tensor(fields["predictions"])

    def can_run(self, part: str) -> bool:
        """Return whether an attack can work with the classes and on the images."""
        enough = self.num_classes >= _FEWEST_CLASSES.get(part, 2)
        return enough and (part != "square" or square_takes(self.images, self.suite.norm))

    def attack(self, part: str, number: int, at: Tensor) -> int:
        """Attack the images at positions (B,); return how many of them the attack broke."""

        def work() -> dict[str, Any]:
            images, labels = self.batch(at)
            watched: WatchedModel = self.suite.model
            watched.watch(len(at))
            found = self.search(part, images, labels)
            # A NaN gradient may have made the image itself NaN.
            failed = bool(watched.failed_anywhere)
            lost = ~found.flatten(1).isfinite().all(dim=1) & (self.nonfinite[at].to(found.device) | failed)
            found = torch.where(lost[:, None, None, None], images, found)
            nonfinite = watched.failed | lost
            if failed and not bool(nonfinite.any()) and SOME_NONFINITE not in self.messages.flags:
                self.messages.warning(SOME_NONFINITE)
            with torch.no_grad():
                logits = self.model(found)
                # A stochastic model is judged on draws that had no part in the choice.
                robust = is_correct(self.model(found), labels)
            wrong = ~is_correct(logits, labels)
            check_result(part, found[wrong], images[wrong], norm=self.suite.norm, epsilon=self.suite.epsilon)
            return {
                "nonfinite": _bits(nonfinite),
                "wrong": _bits(wrong),
                "attacked": _bits(robust[wrong]),
                "predictions": logits[wrong].argmax(dim=1).tolist(),
                "images": found[wrong].detach().cpu(),
            }

        def valid(line: dict[str, Any]) -> bool:
            count = line["wrong"].count("1")
            whole = all(are_bits(line[name], len(at)) for name in ("wrong", "nonfinite"))
            whole = whole and are_bits(line["attacked"], count)
            return whole and self.are_classes(line["predictions"], count)

        fields = self.step(part, number, work, valid)
        self.nonfinite[at] |= _tensor(fields["nonfinite"])
        broken = at[_tensor(fields["wrong"])]
        self.left[broken] = False
        self.robust[broken] = _tensor(fields["attacked"])
        self.predictions[broken] = torch.tensor(fields["predictions"], dtype=torch.int64)
        if self.adversarial is not None and len(broken):
            self.adversarial[broken] = fields["images"]
        return len(broken)

    def search(self, part: str, images: Tensor, labels: Tensor) -> Tensor:
        """Return the result of an attack (B, C, H, W), found on the copy of the model first if available."""
        if self.copy_suite is None:
            return self.perturb(self.suite, part, images, labels)

        def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Found:
            suite = self.suite if model is self.model else self.copy_suite
            return Found(self.perturb(suite, part, images, labels), torch.zeros_like(labels, dtype=torch.bool))

        return search_on_copy(attack, self.copy_suite.model, self.model, images, labels)[0]

    def perturb(self, suite: Any, part: str, images: Tensor, labels: Tensor) -> Tensor:
        """Return the result of one of pyautoattack's attacks (B, C, H, W), with its settings for this part and seed."""
        runner = {"apgd-t": suite.apgd_targeted, "fab": suite.fab, "fab-t": suite.fab, "square": suite.square}.get(
            part, suite.apgd
        )
        settings: dict[str, Any] = {"seed": self.seed}
        if part.startswith("apgd-"):
            settings["logger"] = self.messages
        if part in ("apgd-ce", "apgd-dlr"):
            settings["loss"] = part.removeprefix("apgd-")
        if part.startswith("fab"):
            settings["targeted"] = part == "fab-t"
        if part.endswith("-t"):
            settings["n_target_classes"] = _targets(runner, self.num_classes)
        if part == "fab-t":
            settings["n_restarts"] = 1  # the targeted attack has no restarts, even if the untargeted one has
        # The attacks enable gradients where they need them; elsewhere graphs would only cost time and memory.
        with patch.multiple(runner, **settings), torch.no_grad(), default_dtype(torch.float32):
            found: Tensor = runner.perturb(images.float(), labels.clone())
        return found.to(images)

    def are_classes(self, values: Any, count: int) -> bool:
        """Return whether a log's values are so many classes."""
        return len(values) == count and all(
            isinstance(value, int) and 0 <= value < self.num_classes for value in values
        )


def _targets(runner: Any, num_classes: int) -> int:
    """Return the number of target classes of a targeted attack: at most all other classes."""
    return max(1, min(runner.n_target_classes, num_classes - 1))


def _share(values: Tensor) -> float:
    """Return the share of True in (N,) bool."""
    return int(values.sum()) / len(values)


def _bits(values: Tensor) -> str:
    return to_bits(tuple(values.tolist()))


def _tensor(bits: str) -> Tensor:
    return torch.tensor(from_bits(bits), dtype=torch.bool)


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
