from __future__ import annotations

import json
import math

import pytest
import torch

from ibrobust.training.recipe import Recipe
from ibrobust.training.schedule import LearningRateSchedule


def optimizer(rate: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rate(of: torch.optim.Optimizer) -> float:
    return of.param_groups[0]["lr"]


@pytest.mark.parametrize("loss", [2.0, -2.0])
def test_the_plateau_lowers_the_rate_after_more_than_ten_epochs_without_improvement(loss):
    adam = optimizer()
    schedule = LearningRateSchedule(Recipe(schedule="plateau", learning_rate=1.0), adam, steps_per_epoch=5)
    for _ in range(11):  # the first sets the mark, ten do not improve on it
        schedule.after_epoch(loss)
    assert rate(adam) == 1.0
    schedule.after_epoch(loss)
    assert math.isclose(rate(adam), math.sqrt(0.1))


def test_a_negative_loss_that_worsens_a_little_is_no_improvement():
    adam = optimizer()
    schedule = LearningRateSchedule(Recipe(schedule="plateau", learning_rate=1.0), adam, steps_per_epoch=5)
    for epoch in range(12):
        schedule.after_epoch(-100.0 + 1e-4 * epoch)
    assert rate(adam) < 1.0


def test_an_improving_loss_keeps_the_rate():
    adam = optimizer()
    schedule = LearningRateSchedule(Recipe(schedule="plateau", learning_rate=1.0), adam, steps_per_epoch=5)
    for epoch in range(40):
        schedule.after_epoch(1.0 - epoch)
    assert rate(adam) == 1.0


def test_losses_that_cannot_be_compared_set_no_mark():
    adam = optimizer()
    schedule = LearningRateSchedule(Recipe(schedule="plateau", learning_rate=1.0), adam, steps_per_epoch=5)
    for _ in range(30):
        schedule.after_epoch(-100.0, is_comparable=False)
    for epoch in range(30):
        schedule.after_epoch(-30.0 - epoch)
    assert rate(adam) == 1.0


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 6, 10])
def test_one_cycle_trains_however_few_steps_there_are(total):
    adam = optimizer()
    schedule = LearningRateSchedule(
        Recipe(schedule="one_cycle", learning_rate=1.0, epochs=total), adam, steps_per_epoch=1
    )
    rates = []
    for _ in range(total):
        rates.append(rate(adam))
        adam.step()
        schedule.after_batch()
    assert max(rates) > 0.6
    assert total == 1 or rates[-1] < 1e-4


def test_cosine_ends_at_zero():
    adam = optimizer()
    schedule = LearningRateSchedule(Recipe(schedule="cosine", learning_rate=1.0, epochs=2), adam, steps_per_epoch=5)
    for _ in range(10):
        adam.step()
        schedule.after_batch()
    assert abs(rate(adam)) < 1e-12


@pytest.mark.parametrize("kind", ["plateau", "one_cycle", "cosine", "constant"])
def test_a_schedule_restored_from_json_goes_on_as_it_would_have(kind):
    recipe = Recipe(schedule=kind, learning_rate=1.0, epochs=8)

    def step(schedule: LearningRateSchedule, adam: torch.optim.Optimizer) -> float:
        adam.step()
        schedule.after_batch()
        schedule.after_epoch(1.0)
        return rate(adam)

    adam = optimizer()
    schedule = LearningRateSchedule(recipe, adam, steps_per_epoch=5)
    for _ in range(7):
        step(schedule, adam)
    other = optimizer()
    restored = LearningRateSchedule(recipe, other, steps_per_epoch=5)
    restored.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    other.load_state_dict(adam.state_dict())
    expected = [step(schedule, adam) for _ in range(20)]
    assert [step(restored, other) for _ in range(20)] == expected
