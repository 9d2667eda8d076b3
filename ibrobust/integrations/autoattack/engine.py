"""AutoAttack under the name and with the signature that RobustBench calls, over the pyautoattack package.

RobustBench imports `autoattack`, which is not on the package index, and requires `pyautoattack`, which has another
module name and another signature. `autoattack_module.install` provides the missing name in memory: no file is changed,
and a real `autoattack` takes precedence. The attacks and the checks are pyautoattack's own. The loop over them is ours:
pyautoattack's cannot resume from a state file, since it reads the set of attacks back as one string and then returns
undefined labels.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyautoattack
import torch
from pyautoattack import checks
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.batch import check_result
from ibrobust.evaluation.attacks.behaviour import behaviour, some_images
from ibrobust.evaluation.guarded_model import guard
from ibrobust.integrations.autoattack.state import EvaluationState, tensors_digest

_COUNTS = {
    "apgd": ("n_restarts", "n_iter", "eot_iter"),
    "apgd_targeted": ("n_restarts", "n_iter", "eot_iter", "n_target_classes"),
    "fab": ("n_restarts", "n_iter", "n_target_classes"),
    "square": ("n_restarts", "n_queries"),
}
ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")


class AutoAttack(pyautoattack.AutoAttack):  # type: ignore[misc]
    """AutoAttack (Croce and Hein, 2020) on a classifier of images in [0, 1].

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode.
        norm: ``Linf``, ``L2`` or ``L1``.
        eps: epsilon, the radius in that norm, in [0, 1] pixel scale.
        seed: of every attack, set again before each batch; None uses the time.
        verbose: print the progress. Warnings of the checks are always printed.
        attacks_to_run: for ``version="custom"``, some of apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square.
        version: ``standard``, ``plus``, ``rand`` or ``custom``.
        is_tf_model: not supported.
        device: of the attacks and the model.
        log_path: file that every message is appended to.

    `seed`, `attacks_to_run` and the attacks' own attributes (`apgd.n_restarts`, `square.n_queries`, ...) may
    be set before an evaluation. `flags` holds the checks' warnings about the last evaluation.
    """

    attacks_to_run: list[str]

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device = "cuda",
        log_path: str | Path | None = None,
    ) -> None:
        if is_tf_model:
            raise IbrobustError("AutoAttack with is_tf_model=True is not supported: give a torch module.")
        super().__init__(
            model,
            norm=norm,
            eps=eps,
            seed=seed,
            version=version,
            device=device,
            attacks=list(attacks_to_run) or None,
        )
        self.attacks_to_run = list(self.attacks_to_run or ())
        self.verbose = verbose
        self.flags: list[str] = []
        self.logger = _Log(self, log_path)
        self.apgd.logger = self.apgd_targeted.logger = self.logger

    def run_standard_evaluation(  # type: ignore[override, unused-ignore]
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return adversarial images (N, C, H, W) in [0, 1], unchanged if no attack succeeded.

        Args:
            x_orig: images (N, C, H, W) in [0, 1].
            y_orig: labels (N,).
            bs: batch size.
            return_labels: return the model's predictions (N,) for them as well.
            state_path: JSON file for the progress; an existing one is resumed. With a seed, a resumed evaluation
                returns the same as an uninterrupted one.

        Raises:
            IbrobustError: the state file is damaged or belongs to another evaluation.
        """
        x_adv, y_adv = self._evaluate(x_orig, y_orig, bs, state_path)
        return (x_adv, y_adv) if return_labels else x_adv

    def _evaluate(
        self, x_orig: Tensor, y_orig: Tensor, bs: int, state_path: str | Path | None = None
    ) -> tuple[Tensor, Tensor]:
        settings = self._settings(x_orig, y_orig, bs) if state_path is not None else {"attacks": self.attacks_to_run}
        self._check_numbers(bs)
        with _caller_undisturbed(self.model, x_orig, self.device):
            state = self._begin(x_orig, y_orig, bs, settings, state_path)
            x_adv = x_orig.clone().detach()
            y_adv = state.clean_predictions.clone().to(y_orig.device)
            for indices, images, predictions in state.kept_images():
                x_adv[indices], y_adv[indices] = images.to(x_adv), predictions.to(y_adv)
            started = time.monotonic()
            for attack in [attack for attack in self.attacks_to_run if attack not in state.finished]:
                if not state.robust.any():
                    self.logger.info("no image remains to be attacked")
                    break
                self._run_attack(attack, state, x_orig, y_orig, bs, x_adv, y_adv)
                self.logger.info(
                    f"robust accuracy after {attack.upper()}: {state.robust_accuracy:.2%} (total time "
                    f"{time.monotonic() - started:.1f} s)"
                )
            checks.check_square_sr(state.accuracies, logger=self.logger)
        self._report(x_orig, x_adv, state)
        return x_adv, y_adv

    def run_standard_evaluation_individual(  # type: ignore[override, unused-ignore]
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """Return, for each attack, the result of `run_standard_evaluation` with this attack alone on all images."""
        attacks, verbose = self.attacks_to_run, self.verbose
        self.logger.info(f"using {self.version} version including {', '.join(attacks)}")
        adversarial: dict[str, Any] = {}
        try:
            for attack in attacks:
                self.attacks_to_run, self.verbose = [attack], False
                started = time.monotonic()
                images, labels = self._evaluate(x_orig, y_orig, bs)
                adversarial[attack] = (images, labels) if return_labels else images
                self.verbose = verbose
                accuracy = int(labels.eq(y_orig).sum()) / len(y_orig)
                self.logger.info(
                    f"robust accuracy by {attack.upper()}: {accuracy:.2%} (time attack: "
                    f"{time.monotonic() - started:.1f} s)"
                )
        finally:
            self.attacks_to_run, self.verbose = attacks, verbose
        return adversarial

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Return the accuracy, in [0, 1], on images (N, C, H, W)."""
        accuracy = int(self._predictions(x_orig, bs).eq(y_orig.cpu()).sum()) / len(y_orig)
        self.logger.info(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    @torch.no_grad()
    def _predictions(self, images: Tensor, bs: int) -> Tensor:
        return torch.cat(
            [self.get_logits(part.to(self.device)).argmax(dim=1).cpu() for part in torch.split(images, bs)]
        )

    def _begin(
        self, x: Tensor, y: Tensor, bs: int, settings: dict[str, Any], state_path: str | Path | None
    ) -> EvaluationState:
        unknown = sorted(set(self.attacks_to_run) - set(ATTACKS))
        if unknown or not self.attacks_to_run:
            raise IbrobustError(f"AutoAttack cannot run {unknown or 'no attack'}: choose among {', '.join(ATTACKS)}.")
        path = Path(state_path) if state_path is not None else None
        asked = guard(self.model) if isinstance(self.model, nn.Module) else self.get_logits
        answers = behaviour(asked, some_images(x).to(self.device)) if path is not None else None
        if path is not None and answers is not None and path.exists():
            state = EvaluationState.from_disk(path)
            state.require(settings, answers, y)
            self.flags = state.flags
            self.logger.info(
                f"restored state from {path}: clean accuracy {state.clean_accuracy:.2%}, robust accuracy so far "
                f"{state.robust_accuracy:.2%}, finished: {', '.join(state.finished) or 'none'}"
            )
            return state
        self.logger.info(f"using {self.version} version including {', '.join(self.attacks_to_run)}")
        self.flags = []
        self._check_model(x[:bs].to(self.device), y[:bs].to(self.device), bs)
        predictions = self._predictions(x, bs)
        state = EvaluationState(
            settings, answers, path, robust=predictions.eq(y.cpu()), clean_predictions=predictions, flags=self.flags
        )
        state.accuracies["clean"] = state.robust_accuracy
        state.forget_images()
        state.to_disk()
        self.logger.info(f"initial accuracy: {state.robust_accuracy:.2%}")
        return state

    def _check_numbers(self, bs: int) -> None:
        """Raise IbrobustError for a radius or a count that would attack nothing."""
        if not 0 < self.epsilon < math.inf:
            raise IbrobustError(f"AutoAttack's eps is {self.epsilon}: a finite number above 0 is needed, as 8/255.")
        counts: dict[str, Any] = {"bs": bs}
        for name, options in _COUNTS.items():
            counts |= {f"{name}.{option}": getattr(getattr(self, name), option) for option in options}
        for name, count in counts.items():
            if not isinstance(count, int) or count < 1:
                raise IbrobustError(f"AutoAttack's {name} is {count!r}: a whole number of at least 1 is needed.")

    def _check_model(self, x: Tensor, y: Tensor, bs: int) -> None:
        if self.version != "rand":
            checks.check_randomized(self.get_logits, x, y, bs=bs, logger=self.logger)
        num_classes = checks.check_range_output(self.get_logits, x, logger=self.logger)
        # pyautoattack's counters are global and never reset, and it switches off the caller's debugger.
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))
        trace = sys.gettrace()
        try:
            checks.check_dynamic(self.model, x, False, logger=self.logger)
        finally:
            sys.settrace(trace)
        checks.check_n_classes(
            num_classes,
            self.attacks_to_run,
            self.apgd_targeted.n_target_classes,
            self.fab.n_target_classes,
            logger=self.logger,
        )

    def _run_attack(
        self, attack: str, state: EvaluationState, x: Tensor, y: Tensor, bs: int, x_adv: Tensor, y_adv: Tensor
    ) -> None:
        if state.attack != attack or state.pending is None:
            state.attack, state.batches_done = attack, 0
            state.pending = state.robust.nonzero(as_tuple=True)[0]
        batches = torch.split(state.pending, bs)
        for number, indices in enumerate(batches):
            if number < state.batches_done:
                continue
            images, labels = x[indices].to(self.device), y[indices].to(self.device)
            adversarial = self._perturb(attack, images.clone(), labels.clone())
            with torch.no_grad():
                predictions = self.get_logits(adversarial).argmax(dim=1)
            fell = predictions.ne(labels)
            fell_cpu = fell.cpu()
            fallen = indices[fell_cpu]
            check_result(attack, adversarial[fell], images[fell], norm=self.norm, epsilon=self.epsilon)
            x_adv[fallen] = adversarial[fell].detach().to(x_adv)
            y_adv[fallen] = predictions[fell].to(y_adv)
            state.robust[fallen] = False
            state.keep_images(fallen, adversarial[fell].detach(), predictions[fell])
            state.batches_done += 1
            state.to_disk()
            self.logger.info(
                f"{attack} - {number + 1}/{len(batches)} - {len(fallen)} out of {len(indices)} successfully perturbed"
            )
        state.finished.append(attack)
        state.accuracies[attack] = state.robust_accuracy
        state.attack, state.pending, state.batches_done = None, None, 0
        state.to_disk()

    def _perturb(self, attack: str, images: Tensor, labels: Tensor) -> Tensor:
        if attack in ("apgd-ce", "apgd-dlr"):
            runner = self.apgd
            runner.loss = attack.removeprefix("apgd-")
        elif attack == "apgd-t":
            runner = self.apgd_targeted
        elif attack in ("fab", "fab-t"):
            runner = self.fab
            runner.targeted = attack == "fab-t"
        else:
            runner = self.square
        runner.seed = self.get_seed()
        restarts = runner.n_restarts
        if attack == "fab-t":
            runner.n_restarts = 1  # the targeted attack has no restarts, even if the untargeted one has
        try:
            # The attacks enable gradients where they need them; elsewhere graphs would only cost time and memory.
            with torch.no_grad():
                adversarial: Tensor = runner.perturb(images, labels)
        finally:
            runner.n_restarts = restarts
        return adversarial

    def _settings(self, x: Tensor, y: Tensor, bs: int) -> dict[str, Any]:
        model = list(self.model.state_dict().values()) if isinstance(self.model, nn.Module) else []
        return {
            "attacks": list(self.attacks_to_run),
            "norm": self.norm,
            "epsilon": float(self.epsilon),
            "seed": self.seed,
            "batch size": bs,
            "apgd": [self.apgd.n_restarts, self.apgd.n_iter, self.apgd.eot_iter],
            "apgd-t": [
                self.apgd_targeted.n_restarts,
                self.apgd_targeted.n_iter,
                self.apgd_targeted.eot_iter,
                self.apgd_targeted.n_target_classes,
            ],
            "fab": [self.fab.n_restarts, self.fab.n_iter, self.fab.n_target_classes],
            "square": [self.square.n_restarts, self.square.n_queries],
            "images": tensors_digest([x, y]),
            "model": tensors_digest([tensor for tensor in model if isinstance(tensor, Tensor)]),
        }

    def _report(self, x: Tensor, x_adv: Tensor, state: EvaluationState) -> None:
        difference = (x_adv - x).flatten(1)
        order = {"Linf": float("inf"), "L2": 2, "L1": 1}[self.norm]
        size = torch.linalg.vector_norm(difference, ord=order, dim=1).max()
        self.logger.info(
            f"max {self.norm} perturbation: {size:.5f}, nan in tensor: {int(x_adv.isnan().sum())}, max: "
            f"{x_adv.max():.5f}, min: {x_adv.min():.5f}"
        )
        self.logger.info(f"robust accuracy: {state.robust_accuracy:.2%}")


class _Log:
    """The logger for pyautoattack's attacks and checks: messages to the terminal and to a file."""

    def __init__(self, owner: AutoAttack, path: str | Path | None) -> None:
        self._owner = owner
        self._path = Path(path) if path is not None else None

    def info(self, message: str) -> None:
        self._emit(message, shown=self._owner.verbose)

    debug = info

    def warning(self, message: str) -> None:
        self._owner.flags.append(message)
        self._emit(f"Warning: {message}", shown=True)

    def _emit(self, message: str, *, shown: bool) -> None:
        if shown:
            print(message, flush=True)  # `verbose` promises it, and RobustBench prints its own lines between ours
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(message + "\n")


@contextmanager
def _caller_undisturbed(model: object, x: Tensor, device: str | torch.device) -> Iterator[None]:
    """Restore random state and parameter gradients: the attacks reseed the one, FAB adds to the other."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    gradients = [parameter.grad for parameter in parameters]
    devices = {torch.device(device), x.device}
    cuda = [
        index.index if index.index is not None else torch.cuda.current_device()
        for index in devices
        if index.type == "cuda"
    ]
    for parameter in parameters:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=sorted(set(cuda))):
            yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
