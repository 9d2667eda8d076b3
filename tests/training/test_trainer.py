from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ibrobust.data import Dataset, Split, to_unit_range
from ibrobust.errors import IbrobustError
from ibrobust.models import Encoder
from ibrobust.training import accelerator, trainer
from ibrobust.training.accelerator import build_accelerator
from ibrobust.training.checkpoint import latest_checkpoint
from ibrobust.training.schedule import LearningRateSchedule

# On the CPU: there a seed gives the same bits twice.
train_encoder = partial(trainer.train_encoder, device="cpu")


def weights(encoder: Encoder) -> dict[str, torch.Tensor]:
    return encoder.state_dict()


def assert_same_weights(first: Encoder, second: Encoder) -> None:
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))


class Stop(Exception):
    """Stands for a kill: nothing in the trainer catches it."""


def stop_in(epoch: int):
    def callback(progress) -> None:
        if progress.epoch == epoch:
            raise Stop

    return callback


def test_a_seed_gives_the_same_encoder_twice(tiny_recipe, digits, tmp_path):
    first = train_encoder(tiny_recipe, digits, tmp_path / "a")
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # the caller's random state must not matter
    second = train_encoder(tiny_recipe, digits, tmp_path / "b")
    assert_same_weights(first.encoder, second.encoder)


def test_accumulated_gradients_in_accelerates_environment_change_nothing(tiny_recipe, digits, tmp_path, monkeypatch):
    recipe = tiny_recipe.model_copy(update={"epochs": 1, "optimizer": "sgd"})  # Adam's steps hardly notice a factor
    first = train_encoder(recipe, digits, tmp_path / "a")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    assert_same_weights(first.encoder, train_encoder(recipe, digits, tmp_path / "b").encoder)


def test_another_seed_gives_another_encoder(tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    first = train_encoder(recipe, digits, tmp_path / "a")
    second = train_encoder(recipe.model_copy(update={"seed": 1}), digits, tmp_path / "b")
    assert not torch.equal(first.encoder.conv1.weight, second.encoder.conv1.weight)


@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
@pytest.mark.parametrize("epoch", [2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_recipe, digits, tmp_path, schedule, epoch):
    recipe = tiny_recipe.model_copy(update={"schedule": schedule})
    whole = train_encoder(recipe, digits, tmp_path / "whole")
    with pytest.raises(Stop):
        train_encoder(recipe, digits, tmp_path / "cut", on_progress=stop_in(epoch))
    resumed = train_encoder(recipe, digits, tmp_path / "cut", resume=True)
    assert_same_weights(whole.encoder, resumed.encoder)


def test_a_run_is_not_resumed_with_other_images(tiny_recipe, digits, tmp_path):
    with pytest.raises(Stop):
        train_encoder(tiny_recipe, digits, tmp_path / "cut", on_progress=stop_in(epoch=2))
    fewer = replace(digits, train=digits.train.subset(len(digits.train) - 10))
    with pytest.raises(IbrobustError, match="started with other images"):
        train_encoder(tiny_recipe, fewer, tmp_path / "cut", resume=True)


@pytest.mark.parametrize("record", [None, "{}", "[1]", '{"fingerprint": "00"}', "half a rec"])
def test_a_run_without_a_readable_record_is_refused_with_the_remedy(tiny_recipe, digits, tmp_path, record):
    run = tmp_path / "cut"
    with pytest.raises(Stop):
        train_encoder(tiny_recipe, digits, run, on_progress=stop_in(epoch=2))
    (run / "run.json").unlink() if record is None else (run / "run.json").write_text(record)
    with pytest.raises(IbrobustError) as refused:
        train_encoder(tiny_recipe, digits, run, resume=True)
    assert str(refused.value) == (
        f"The run in {str(run)!r} has no readable record (run.json): remove this folder, or start again with "
        "`overwrite=True`."
    )
    train_encoder(tiny_recipe, digits, run)  # anew
    assert "fingerprint" in (run / "run.json").read_text()


def test_a_resumed_run_with_fixed_power_a_memory_and_two_phases_equals_an_uninterrupted_one(
    tiny_recipe, digits, tmp_path
):
    recipe = tiny_recipe.model_copy(update={"fixed_power": True, "soft_share": 0.5, "memory_size": 150})
    whole = train_encoder(recipe, digits, tmp_path / "whole")
    with pytest.raises(Stop):
        train_encoder(recipe, digits, tmp_path / "cut", on_progress=stop_in(2))
    resumed = train_encoder(recipe, digits, tmp_path / "cut", resume=True)
    assert_same_weights(whole.encoder, resumed.encoder)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_memory_knows_the_image_of_each_latent(tiny_recipe, digits, tmp_path, balanced):
    recipe = tiny_recipe.model_copy(update={"memory_size": 300, "balanced_batches": balanced, "epochs": 1})
    memory = train_encoder(recipe, digits, tmp_path).objective.memory
    assert torch.equal(digits.train.labels[memory.images], memory.labels)
    assert balanced or len(memory.images.unique()) == 300  # balanced, small classes start again


def test_soft_neighbours_need_no_k_in_every_class(tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"objective": "soft_ib", "memory_size": 0, "batch_size": 20, "epochs": 1})
    train_encoder(recipe, digits, tmp_path)


def test_a_resumed_run_of_a_stochastic_head_equals_an_uninterrupted_one(tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"objective": "cross_entropy", "dropconnect": 0.5})
    whole = train_encoder(recipe, digits, tmp_path / "whole")
    with pytest.raises(Stop):
        train_encoder(recipe, digits, tmp_path / "cut", on_progress=stop_in(2))
    resumed = train_encoder(recipe, digits, tmp_path / "cut", resume=True)
    assert torch.equal(whole.objective.head.weight, resumed.objective.head.weight)


def test_a_compiled_encoder_trains_as_one_that_is_not(tiny_recipe, digits, tmp_path, monkeypatch):
    """With the backend that only traces: the default one rounds differently, and needs a C++ compiler on a CPU."""
    compiled = []
    compile_as_it_is = partial(torch.compile, backend="eager")

    def trace(function):
        compiled.append(function)
        return compile_as_it_is(function)

    monkeypatch.setattr(torch, "compile", trace)
    plain = train_encoder(tiny_recipe, digits, tmp_path / "plain")
    assert not compiled
    recipe = tiny_recipe.model_copy(update={"compile": True})
    with pytest.raises(Stop):
        train_encoder(recipe, digits, tmp_path / "compiled", on_progress=stop_in(2))
    traced = train_encoder(recipe, digits, tmp_path / "compiled", resume=True)
    assert len(compiled) == 2
    assert_same_weights(plain.encoder, traced.encoder)


@pytest.mark.slow  # a minute for the compiler, the first time
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles C++ on a CPU")
def test_a_compiled_encoder_has_the_same_loss_and_gradient(tiny_recipe, digits, tmp_path):
    """Of one step in float64: in float32 rounding alone moves the first gradients by a thousandth."""
    losses, gradients = [], []
    for compiled in (False, True):
        recipe = tiny_recipe.model_copy(update={"compile": compiled, "objective": "cross_entropy"})
        made = build_accelerator(recipe, tmp_path, device="cpu", log_with=None)
        bare, step, _, _ = trainer.build_step(recipe, digits, made)
        bare.double().train()
        total, _ = step(to_unit_range(digits.train.images[:100]).double(), digits.train.labels[:100])
        made.backward(total)
        losses.append(total.item())
        gradients.append(bare.encoder.conv1.weight.grad)
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9 * float(gradients[0].abs().max()))


@pytest.mark.parametrize("fixed_power", [False, True])
def test_noise_and_entropies_are_in_float32_under_autocast(tiny_recipe, digits, tmp_path, fixed_power):
    recipe = tiny_recipe.model_copy(update={"mixed_precision": "bf16", "fixed_power": fixed_power})
    bare, step, _, _ = trainer.build_step(
        recipe, digits, build_accelerator(recipe, tmp_path, device="cpu", log_with=None)
    )
    seen = []
    bare.noise.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    bare.objective.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    step.train()(to_unit_range(digits.train.images[:100]), digits.train.labels[:100])
    assert seen == [torch.float32, torch.float32]


def test_a_run_is_resumed_in_the_precision_in_which_it_began(tiny_recipe, digits, tmp_path, monkeypatch):
    recipe = tiny_recipe.model_copy(update={"mixed_precision": "auto"})
    monkeypatch.setattr(accelerator, "precision_of", lambda *_, **__: "bf16")
    whole = train_encoder(recipe, digits, tmp_path / "whole")
    with pytest.raises(Stop):
        train_encoder(recipe, digits, tmp_path / "cut", on_progress=stop_in(2))
    monkeypatch.setattr(accelerator, "precision_of", lambda *_, **__: "no")  # as on another machine
    resumed = train_encoder(recipe, digits, tmp_path / "cut", resume=True)
    assert_same_weights(whole.encoder, resumed.encoder)
    assert (whole.precision, resumed.precision) == ("bf16", "bf16")
    assert train_encoder(recipe.model_copy(update={"epochs": 1}), digits, tmp_path / "cut").precision == "no"


def test_the_metrics_have_each_epoch_once_after_a_resumption(tiny_recipe, digits, tmp_path):
    with pytest.raises(Stop):
        train_encoder(tiny_recipe, digits, tmp_path, on_progress=stop_in(3))
    # As a kill between the metrics and the checkpoint of an epoch would leave it, with a line cut short.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "loss": 0.0}) + '\n{"epoch": 4, "lo')
    trained = train_encoder(tiny_recipe, digits, tmp_path, resume=True)
    assert [record["epoch"] for record in trained.history] == [1, 2, 3]
    assert trained.history[2]["loss"] != 0.0


def test_a_run_without_a_checkpoint_begins_its_metrics_anew(tiny_recipe, digits, tmp_path):
    """As a kill between the metrics and the first checkpoint leaves it, or a finished run that is done again."""
    with pytest.raises(Stop):
        train_encoder(tiny_recipe, digits, tmp_path, on_progress=stop_in(1))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "loss": 0.0}) + "\n")
    trained = train_encoder(tiny_recipe, digits, tmp_path, resume=True)
    assert [record["epoch"] for record in trained.history] == [1, 2, 3]
    assert trained.history[0]["loss"] != 0.0


def test_a_run_without_a_checkpoint_holds_no_other_run_back(tiny_recipe, digits, tmp_path):
    """As a kill in the first epoch leaves it: there is nothing to resume, in its precision or with its images."""
    with pytest.raises(Stop):
        train_encoder(
            tiny_recipe.model_copy(update={"mixed_precision": "bf16"}), digits, tmp_path, on_progress=stop_in(1)
        )
    fewer = replace(digits, train=digits.train.subset(300))
    recipe = tiny_recipe.model_copy(update={"mixed_precision": "no", "seed": 1, "epochs": 1})
    resumed = train_encoder(recipe, fewer, tmp_path, resume=True)
    whole = train_encoder(recipe, fewer, tmp_path / "whole")
    assert_same_weights(resumed.encoder, whole.encoder)


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tiny_recipe, digits, tmp_path, monkeypatch):
    with pytest.raises(Stop):
        train_encoder(tiny_recipe, digits, tmp_path, on_progress=stop_in(2))
    before = latest_checkpoint(tmp_path / "checkpoints")

    def full_disk(accelerator, folder, **kwargs):
        Path(folder, "model.safetensors").write_bytes(b"the first bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("accelerate.Accelerator.save_state", full_disk)
    with pytest.raises(IbrobustError, match="No space left"):
        train_encoder(tiny_recipe, digits, tmp_path, resume=True)
    assert latest_checkpoint(tmp_path / "checkpoints") == before
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == [before.name]


def test_each_epoch_shows_its_encoder_in_evaluation_mode(tiny_recipe, digits, tmp_path):
    seen = []
    train_encoder(tiny_recipe, digits, tmp_path, on_epoch=lambda epoch, encoder: seen.append((epoch, encoder.training)))
    assert seen == [(1, False), (2, False), (3, False)]


def test_a_look_at_the_encoder_changes_nothing(tiny_recipe, digits, tmp_path):
    def look(epoch: int, encoder: Encoder) -> None:
        encoder(torch.rand(4, 3, 32, 32))

    first = train_encoder(tiny_recipe, digits, tmp_path / "a")
    assert_same_weights(first.encoder, train_encoder(tiny_recipe, digits, tmp_path / "b", on_epoch=look).encoder)


def test_a_run_killed_in_its_look_at_an_epoch_looks_again(tiny_recipe, digits, tmp_path):
    seen = {}

    def stop_in_second(epoch: int, encoder: Encoder) -> None:
        if epoch == 2:
            seen["killed"] = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
            raise Stop

    def look(epoch: int, encoder: Encoder) -> None:
        seen[epoch] = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}

    with pytest.raises(Stop):
        train_encoder(tiny_recipe, digits, tmp_path, on_epoch=stop_in_second)
    train_encoder(tiny_recipe, digits, tmp_path, resume=True, on_epoch=look)
    assert [key for key in seen if key != "killed"] == [2, 3]
    assert all(torch.equal(seen["killed"][name], seen[2][name]) for name in seen[2])


def test_resuming_with_another_recipe_names_the_difference(tiny_recipe, digits, tmp_path):
    with pytest.raises(Stop):
        train_encoder(tiny_recipe, digits, tmp_path, on_progress=stop_in(2))
    with pytest.raises(IbrobustError, match=r"beta = 0.03, now 0.1"):
        train_encoder(tiny_recipe.model_copy(update={"beta": 0.1}), digits, tmp_path, resume=True)


def test_the_callers_random_state_is_left_alone(tiny_recipe, digits, tmp_path):
    before = torch.get_rng_state()
    train_encoder(tiny_recipe.model_copy(update={"epochs": 1}), digits, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_training_images_are_used(tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    other = Dataset(
        digits.name,
        digits.class_names,
        digits.train,
        Split(digits.train.images[:50], digits.train.labels[:50]),
    )
    first = train_encoder(recipe, digits, tmp_path / "a")
    assert_same_weights(first.encoder, train_encoder(recipe, other, tmp_path / "b").encoder)


def test_the_noise_can_be_left_out(tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    first = train_encoder(recipe, digits, tmp_path / "a")
    second = train_encoder(recipe.model_copy(update={"noise": False}), digits, tmp_path / "b")
    assert not torch.equal(first.encoder.latent.weight, second.encoder.latent.weight)


def test_the_loss_terms_make_up_the_loss(tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"epochs": 1, "soft_share": 0.0})
    (record,) = train_encoder(recipe, digits, tmp_path).history
    assert record["loss"] == pytest.approx(record["H[Z|Y]"] + (0.03 - 1) * record["H[Z]"], rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tiny_recipe, digits, tmp_path, monkeypatch):
    calls = 0

    def poisoned(images):
        nonlocal calls
        calls += 1
        return torch.full(images.shape, float("nan")) if calls == 7 else images.float() / 255

    monkeypatch.setattr(trainer, "to_unit_range", poisoned)
    recipe = tiny_recipe.model_copy(update={"objective": "cross_entropy"})  # 4 steps an epoch
    with pytest.raises(IbrobustError, match="not finite in step 3 of epoch 2"):
        train_encoder(recipe, digits, tmp_path)


def test_without_noise_the_remedy_for_a_loss_that_is_not_finite_is_noise(tiny_recipe, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "to_unit_range", lambda images: torch.full(images.shape, float("nan")))
    with pytest.raises(IbrobustError, match="step 1 of epoch 1: without noise .* train with it, or lower beta"):
        train_encoder(tiny_recipe.model_copy(update={"noise": False}), digits, tmp_path)


def test_the_remedy_may_be_balanced_batches_if_classes_have_neighbours(tiny_recipe, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "to_unit_range", lambda images: torch.full(images.shape, float("nan")))
    recipe = tiny_recipe.model_copy(update={"balanced_batches": False})
    with pytest.raises(IbrobustError, match="too few images for 3 neighbours: set balanced_batches to true"):
        train_encoder(recipe, digits, tmp_path)


def test_a_batch_too_small_for_the_neighbours_is_refused_before_anything_is_written(tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"batch_size": 30, "memory_size": 0})
    with pytest.raises(IbrobustError, match=r"batch of 30 has 3 images .* raise the batch size to 40"):
        train_encoder(recipe, digits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_neighbours_are_not_looked_for_in_a_memory_that_the_objective_lacks(tiny_recipe, digits, tmp_path):
    fields = {"objective": "dib", "conditional": True, "batch_size": 30, "memory_size": 2000}
    with pytest.raises(IbrobustError, match="batch of 30 has 3 images"):
        train_encoder(tiny_recipe.model_copy(update=fields), digits, tmp_path)


@pytest.mark.parametrize("objective", ["dvib", "ceb"])
def test_the_power_of_learnt_standard_deviations_is_not_fixed(objective, tiny_recipe, digits, tmp_path):
    recipe = tiny_recipe.model_copy(update={"objective": objective, "fixed_power": True})
    with pytest.raises(IbrobustError, match=f"fix the standard deviations that the encoder of '{objective}' learns"):
        train_encoder(recipe, digits, tmp_path)


def test_a_plateau_is_looked_for_once_the_loss_is_no_longer_redefined(tiny_recipe, digits, tmp_path, monkeypatch):
    seen: list[bool] = []
    step = LearningRateSchedule.after_epoch

    def watched(schedule: LearningRateSchedule, mean_loss: float, *, is_comparable: bool = True) -> None:
        seen.append(is_comparable)
        step(schedule, mean_loss, is_comparable=is_comparable)

    monkeypatch.setattr(LearningRateSchedule, "after_epoch", watched)
    fields = {"schedule": "plateau", "soft_share": 0.5, "epochs": 4}
    train_encoder(tiny_recipe.model_copy(update=fields), digits, tmp_path)
    assert seen == [False, False, True, True]


def test_a_batch_larger_than_the_data_is_refused(tiny_recipe, digits, tmp_path):
    with pytest.raises(IbrobustError, match="2000 is larger than the training set of 400"):
        train_encoder(tiny_recipe.model_copy(update={"batch_size": 2000}), digits, tmp_path)


def test_dropout_without_a_head_is_refused(tiny_recipe, digits, tmp_path):
    with pytest.raises(IbrobustError, match="trains no linear head"):
        train_encoder(tiny_recipe.model_copy(update={"dropout": 0.5}), digits, tmp_path)


@pytest.mark.parametrize("device", ["cuda:9", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused(tiny_recipe, digits, tmp_path, device):
    with pytest.raises(IbrobustError, match=f"device '{device}'"):
        train_encoder(tiny_recipe, digits, tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(tiny_recipe, digits, tmp_path):
    with pytest.raises(IbrobustError, match="Unknown tracker 'notes'.*tensorboard"):
        train_encoder(tiny_recipe, digits, tmp_path, log_with="notes")


def test_an_unknown_objective_names_the_nearest(tiny_recipe, digits, tmp_path):
    with pytest.raises(IbrobustError, match="'knn_bi'.*knn_ib"):
        train_encoder(tiny_recipe.model_copy(update={"objective": "knn_bi"}), digits, tmp_path)


@pytest.mark.parametrize(("seconds", "reports"), [(0.0, "each"), (1e9, "the last")])
def test_progress_is_reported_between_looks_where_steps_are_slow(
    tiny_recipe, digits, tmp_path, monkeypatch, seconds, reports
):
    monkeypatch.setattr("ibrobust.training.trainer.SECONDS_BETWEEN_REPORTS", seconds)
    seen = []
    recipe = tiny_recipe.model_copy(update={"epochs": 1})
    train_encoder(recipe, digits, tmp_path, on_progress=lambda at: seen.append((at.step, at.steps)))
    steps = seen[-1][1]
    assert [step for step, _ in seen] == (list(range(1, steps + 1)) if reports == "each" else [steps])


def test_processes_wait_for_the_main_ones_callback_and_checkpoint_after_each_epoch(
    tiny_recipe, digits, tmp_path, monkeypatch
):
    events = []
    monkeypatch.setattr(trainer.processes, "wait", lambda: events.append(latest_checkpoint(tmp_path / "checkpoints")))
    recipe = tiny_recipe.model_copy(update={"epochs": 2})
    train_encoder(recipe, digits, tmp_path, on_epoch=lambda epoch, _: events.append(epoch))
    first, second = events[events.index(1) + 1], events[events.index(2) + 1]
    assert events[events.index(1) :][:4] == [1, first, 2, second]
    assert first != second
    assert second == latest_checkpoint(tmp_path / "checkpoints")
