from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ibrobust.atomic import remove_folder
from ibrobust.data import Dataset
from ibrobust.errors import IbrobustError
from ibrobust.training.checkpoint import latest_checkpoint, new_checkpoint
from ibrobust.training.recipe import Recipe
from ibrobust.training.trainer import train_encoder


def write_text() -> None:
    raise OSError(28, "No space left on device")


def save_weights() -> None:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def save_optimizer() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    torch.save({"state": torch.zeros(100_000)}, "/dev/full")


@pytest.mark.parametrize("write", [write_text, save_weights, save_optimizer])
def test_a_full_disk_is_one_sentence_and_leaves_the_older_checkpoint(tmp_path: Path, write: Callable[[], None]) -> None:
    with new_checkpoint(tmp_path, 1) as folder:
        (folder / "weights").write_text("whole")
    with (
        pytest.raises(IbrobustError, match=r"epoch-00002.*cannot be written \(.+\).*`resume=True`"),
        new_checkpoint(tmp_path, 2),
    ):
        write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["epoch-00001"]
    assert latest_checkpoint(tmp_path) == tmp_path / "epoch-00001"


def test_a_full_disk_at_the_first_checkpoint_leaves_nothing_to_resume(tmp_path: Path) -> None:
    with (
        pytest.raises(IbrobustError, match=r"free space on that disk, then train again\."),
        new_checkpoint(tmp_path, 1),
    ):
        write_text()
    assert latest_checkpoint(tmp_path) is None


def test_a_checkpoint_that_is_being_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_checkpoint(tmp_path, 1) as folder:
        (folder / "weights").write_text("whole")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed in the middle
    remove_folder(tmp_path / "epoch-00001")
    assert latest_checkpoint(tmp_path) is None


def test_a_folder_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(IbrobustError, match="cannot be removed .Operation not permitted.: remove it"):
        remove_folder(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "older"])
def test_a_damaged_checkpoint_is_one_sentence(
    tmp_path: Path, digits: Dataset, tiny_recipe: Recipe, damage: str
) -> None:
    def stop(epoch: int, _: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_encoder(tiny_recipe, digits, tmp_path / "run", on_epoch=stop)
    checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    if damage == "cut":
        (checkpoint / "position.json").write_text('{"epochs')
    else:
        weights = load_file(checkpoint / "model.safetensors")
        del weights["objective.memory.images"]
        save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(IbrobustError, match=r"epoch-00001' is damaged or of another version.*`overwrite=True`"):
        train_encoder(tiny_recipe, digits, tmp_path / "run", resume=True)


def test_a_new_run_takes_no_checkpoint_of_an_old_one(
    tmp_path: Path, digits: Dataset, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the old files cannot be deleted."""
    short, other = (tiny_recipe.model_copy(update={"epochs": 1, "seed": seed}) for seed in (0, 1))
    alone = train_encoder(other, digits, tmp_path / "alone").encoder.state_dict()
    train_encoder(short, digits, tmp_path / "run")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    after = train_encoder(other, digits, tmp_path / "run").encoder.state_dict()
    assert all(torch.equal(after[key], alone[key]) for key in alone)


def test_the_loss_of_an_epoch_is_of_one_objective(digits: Dataset, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The surrogate ends in the middle of the only epoch: its loss is not mixed with the estimator's."""
    recipe = tiny_recipe.model_copy(update={"epochs": 1, "soft_share": 0.5, "beta": 0.0})
    (record,) = train_encoder(recipe, digits, tmp_path / "run").history
    assert {"soft H[Z|Y]", "H[Z|Y]"} <= record.keys()
    assert record["loss"] == pytest.approx(record["H[Z|Y]"] - record["H[Z]"], abs=1e-4)
