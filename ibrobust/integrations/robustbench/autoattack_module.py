"""AutoAttack under the name and with the signature that RobustBench calls.

RobustBench imports `autoattack`, which is not on the package index, and requires `pyautoattack`, which has another
module name and another signature. `install` provides the missing name in memory: no file is changed, and a real
`autoattack` takes precedence. The attacks run in the same loop as `ibrobust attack --attack AutoAttack`.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pyautoattack
import torch
from pyautoattack import autopgd_base, checks, fab_base, fab_projections, fab_pt, other_utils, square
from torch import Tensor, nn

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.attacks.autoattack import PARTS, AutoAttackOutcome, run_suite
from ibrobust.evaluation.attacks.behaviour import behaviour, some_images
from ibrobust.evaluation.attacks.result import from_bits
from ibrobust.evaluation.attacks.state import AttackLog, data_digests, read_state
from ibrobust.evaluation.attacks.watched_model import WatchedModel
from ibrobust.evaluation.guarded_model import guard, unguard
from ibrobust.evaluation.inputs import images_and_labels, unit_range
from ibrobust.evaluation.model_state import evaluation_mode, model_reference
from ibrobust.evaluation.predictions import correct_in_batches

MODULE = "autoattack"
_COUNTS = {
    "apgd": ("n_restarts", "n_iter", "eot_iter"),
    "apgd_targeted": ("n_restarts", "n_iter", "eot_iter", "n_target_classes"),
    "fab": ("n_restarts", "n_iter", "n_target_classes"),
    "square": ("n_restarts", "n_queries"),
}


class AutoAttack(pyautoattack.AutoAttack):  # type: ignore[misc]
    """AutoAttack (Croce and Hein, 2020) on a classifier of images in [0, 1].

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K).
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
    be set before an evaluation. `outcome` and `flags` hold the last evaluation's result and its checks' warnings.
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
        self.classifier = guard(unguard(model) if isinstance(model, nn.Module) else _Called(model))
        super().__init__(
            WatchedModel(self.classifier),
            norm=norm,
            eps=eps,
            seed=seed,
            version=version,
            device=device,
            attacks=list(attacks_to_run) or None,
        )
        self.attacks_to_run = list(self.attacks_to_run or ())
        self.verbose = verbose
        self.outcome: AutoAttackOutcome | None = None
        self.logger = _Log(self, log_path)

    @property
    def flags(self) -> list[str]:
        """Warnings of AutoAttack's checks about the last evaluation."""
        return list(self.outcome.flags) if self.outcome else []

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
            state_path: file for the progress; an existing one is resumed. With a seed, a resumed evaluation returns
                the same as an uninterrupted one.

        Raises:
            IbrobustError: the state file is damaged or belongs to another evaluation.
        """
        unknown = sorted(set(self.attacks_to_run) - set(PARTS))
        if unknown or not self.attacks_to_run:
            raise IbrobustError(f"AutoAttack cannot run {unknown or 'no attack'}: choose among {', '.join(PARTS)}.")
        self._check_numbers(bs)
        images, labels = images_and_labels(x_orig, y_orig)
        with evaluation_mode(self.classifier):
            log = AttackLog()
            if state_path is not None:
                points = unit_range(some_images(images), model_reference(self.classifier)).to(self.device)
                if Path(state_path).exists():
                    self.logger.info(f"restored state from {state_path}")
                log = AttackLog(
                    Path(state_path),
                    self._settings(images, labels, bs),
                    behaviour(self.classifier, points),
                    keep_images=True,
                )
            self.outcome = run_suite(
                self.classifier,
                self,
                images,
                labels,
                batch_size=bs,
                seed=int(time.time()) if self.seed is None else self.seed,
                log=log,
                keep_images=True,
                messages=self.logger,
            )
        assert self.outcome.adversarial is not None
        adversarial = self.outcome.adversarial.to(x_orig)
        return (adversarial, self.outcome.predictions.to(y_orig)) if return_labels else adversarial

    def run_standard_evaluation_individual(  # type: ignore[override, unused-ignore]
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """Return, for each attack, the result of `run_standard_evaluation` with this attack alone on all images."""
        attacks = self.attacks_to_run
        found: dict[str, Any] = {}
        try:
            for attack in attacks:
                self.attacks_to_run = [attack]
                found[attack] = self.run_standard_evaluation(x_orig, y_orig, bs, return_labels)
        finally:
            self.attacks_to_run = attacks
        return found

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Return the accuracy, in [0, 1], on images (N, C, H, W)."""
        with evaluation_mode(self.classifier):
            correct = correct_in_batches(self.classifier, x_orig.to(self.device), y_orig.to(self.device), batch_size=bs)
        accuracy = int(correct.sum()) / len(correct)
        self.logger.info(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def _check_numbers(self, bs: int) -> None:
        """Raise IbrobustError for a radius or a count that would attack nothing."""
        if not 0 < self.epsilon < math.inf:
            raise IbrobustError(f"AutoAttack's eps is {self.epsilon}: a finite number above 0 is needed, as 8/255.")
        for name, count in {"bs": bs, **self._counts()}.items():
            if not isinstance(count, int) or count < 1:
                raise IbrobustError(f"AutoAttack's {name} is {count!r}: a whole number of at least 1 is needed.")

    def _counts(self) -> dict[str, Any]:
        """Return the numbers of steps, restarts, queries and target classes of all attacks."""
        return {
            f"{name}.{option}": getattr(getattr(self, name), option) for name in _COUNTS for option in _COUNTS[name]
        }

    def _settings(self, images: Tensor, labels: Tensor, bs: int) -> dict[str, Any]:
        return {
            "attacks": list(self.attacks_to_run),
            "norm": self.norm,
            "epsilon": float(self.epsilon),
            "seed": self.seed,
            "batch size": bs,
            **self._counts(),
            **data_digests(self.classifier, images, labels),
        }


@dataclass(frozen=True)
class EvaluationState:
    """A finished evaluation's state file, as RobustBench reads it.

    Attributes:
        attacks_to_run: the attacks.
        run_attacks: the same, since the evaluation is finished.
        robust_flags: (N,) float32, 1 for an image that no attack broke.
    """

    attacks_to_run: set[str]
    run_attacks: set[str]
    robust_flags: Tensor

    @classmethod
    def from_disk(cls, path: Path | str) -> EvaluationState:
        """Return the state in a file; raise IbrobustError if it cannot be read or the evaluation is not finished."""
        header, *steps = read_state(Path(path))
        last = steps[-1] if steps else {}
        if last.get("part") != "end":
            raise IbrobustError(f"The evaluation in {str(path)!r} is not finished: run it again with this state file.")
        attacks = set(header["settings"]["attacks"])
        return cls(attacks, attacks, torch.tensor(from_bits(last["robust"])).float())


def real_autoattack() -> str | None:
    """Return the file of an installed `autoattack` package, or None."""
    loaded = sys.modules.get(MODULE)
    if loaded is not None:
        return None if getattr(loaded, "AutoAttack", None) is AutoAttack else str(getattr(loaded, "__file__", MODULE))
    spec = importlib.util.find_spec(MODULE)
    # A folder without __init__.py, for example of results, has no origin: it is not a package.
    return spec.origin if spec is not None else None


def install() -> bool:
    """Make `import autoattack` give this adapter in this process; return False if a real one is used."""
    if real_autoattack() is not None:
        return False
    modules = {
        "": _module(MODULE, AutoAttack=AutoAttack),
        ".autoattack": _module(f"{MODULE}.autoattack", AutoAttack=AutoAttack),
        ".state": _module(f"{MODULE}.state", EvaluationState=EvaluationState),
    }
    for module in (autopgd_base, checks, fab_base, fab_projections, fab_pt, other_utils, square):
        modules["." + module.__name__.rpartition(".")[2]] = module
    for suffix, module in modules.items():
        sys.modules[MODULE + suffix] = module
        if suffix:
            setattr(modules[""], suffix[1:], module)
    modules[""].__path__ = []
    return True


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name, f"Stands in for {name}: {__name__} over pyautoattack.")
    module.__spec__ = ModuleSpec(name, loader=None, origin=__file__)
    vars(module).update(contents)
    return module


class _Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class _Log:
    """Messages to the terminal and to a file."""

    def __init__(self, owner: AutoAttack, path: str | Path | None) -> None:
        self._owner = owner
        self._path = Path(path) if path is not None else None

    def info(self, message: str) -> None:
        self._emit(message, shown=self._owner.verbose)

    def warning(self, message: str) -> None:
        self._emit(f"Warning: {message}", shown=True)

    def _emit(self, message: str, *, shown: bool) -> None:
        if shown:
            print(message, flush=True)  # `verbose` promises it, and RobustBench prints its own lines between ours
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(message + "\n")
