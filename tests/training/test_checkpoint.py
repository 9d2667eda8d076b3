from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from ibrobust.errors import IbrobustError
from ibrobust.training.checkpoint import latest_checkpoint, new_checkpoint


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
