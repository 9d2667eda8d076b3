"""Learning-rate schedules, stepped by batch or by epoch."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ibrobust.training.recipe import Recipe

PLATEAU_FACTOR = math.sqrt(0.1)
PLATEAU_PATIENCE = 10
ONE_CYCLE_WARM_UP = 0.2


class LearningRateSchedule:
    """One of PyTorch's schedulers, with a step for each batch and a step for each epoch; one of them does nothing."""

    def __init__(self, recipe: Recipe, optimizer: Optimizer, *, steps_per_epoch: int) -> None:
        total = recipe.epochs * steps_per_epoch
        self._plateau: ReduceLROnPlateau | None = None
        self._by_batch: LRScheduler | None = None
        if recipe.schedule == "plateau":
            # The kNN objective is a difference of entropies and may be negative. A relative threshold would then take a
            # small worsening for an improvement; hence an absolute one.
            self._plateau = ReduceLROnPlateau(
                optimizer,
                factor=PLATEAU_FACTOR,
                patience=PLATEAU_PATIENCE,
                threshold=0.0,
                threshold_mode="abs",
            )
        elif recipe.schedule == "one_cycle" and total > 1:  # its only step would be the last, which hardly trains
            # If the warm-up ends exactly with the first step, PyTorch divides by its length of 0.
            ends_at_once = ONE_CYCLE_WARM_UP * total == 1.0
            self._by_batch = OneCycleLR(
                optimizer,
                recipe.learning_rate,
                total_steps=total,
                pct_start=ONE_CYCLE_WARM_UP + 1e-6 * ends_at_once,
                cycle_momentum=False,
            )
        elif recipe.schedule == "cosine":
            self._by_batch = CosineAnnealingLR(optimizer, total)
        else:
            self._by_batch = ConstantLR(optimizer, factor=1.0, total_iters=0)

    def after_batch(self) -> None:
        """Advance the schedule by one batch."""
        if self._by_batch is not None:
            self._by_batch.step()

    def after_epoch(self, mean_loss: float, *, is_comparable: bool = True) -> None:
        """Advance the schedule by one epoch with the mean training loss `mean_loss`, in nats.

        If the loss will be redefined, it is not comparable, and a plateau is not looked for.
        """
        if self._plateau is not None and is_comparable:
            self._plateau.step(mean_loss)

    def state_dict(self) -> dict[str, Any]:
        return (self._plateau or self._by_batch).state_dict()  # type: ignore[union-attr]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        (self._plateau or self._by_batch).load_state_dict(state)  # type: ignore[union-attr]
