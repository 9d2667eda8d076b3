from __future__ import annotations

import errno
import os
import stat

import pytest
import torch
from safetensors import SafetensorError, safe_open

from ibrobust.atomic import append_json_line, atomic_folder, atomic_path, require_writable, write_tensors, write_text
from ibrobust.errors import IbrobustError


def test_a_file_appears_whole(tmp_path):
    write_text(tmp_path / "new" / "file.txt", "content ψ")
    assert (tmp_path / "new" / "file.txt").read_text(encoding="utf-8") == "content ψ"


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("there.txt", "missing.txt"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "there.txt").write_text("old")
    for name in ("there.txt", "missing.txt"):
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "elsewhere" / name).read_text() == "new"
    assert len(list(tmp_path.rglob("*.txt"))) == 4


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
def test_the_folder_of_a_link_s_file_must_exist(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "nope" / "new" / "file.json")
    with pytest.raises(IbrobustError, match="nope' does not exist"):
        require_writable(tmp_path / "link.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file.txt", "old")]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "file.txt", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file.txt")]
    assert modes[0] == modes[1]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole(tmp_path):
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("all")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").read_text() == "all"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error (os error 28)")])
def test_a_full_disk_names_the_file_and_leaves_no_folder(tmp_path, monkeypatch, error):
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    target = tmp_path / "new" / "images.safetensors"
    with pytest.raises(OSError, match="No space left on device") as failed:
        write_tensors(target, {"x": torch.ones(2)})
    assert (failed.value.errno, failed.value.filename) == (28, str(target))
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_folder_is_not_made(tmp_path):
    with pytest.raises(IbrobustError, match=r"nope' does not exist: create it, or correct .*nope/new'"):
        require_writable(tmp_path / "nope" / "new" / "x.json")
    require_writable(tmp_path / "new" / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    require_writable(tmp_path / "file.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        IbrobustError, match="The folder '.*file' cannot be made .a file has this name.: choose another"
    ):
        require_writable(tmp_path / "file" / "results.json")


def test_tensors_that_cannot_be_written_are_an_os_error_and_leave_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_tensors_come_back_with_what_is_said_of_them(tmp_path):
    write_tensors(tmp_path / "weights.safetensors", {"a": torch.arange(3)}, metadata={"of": "me"})
    with safe_open(tmp_path / "weights.safetensors", framework="pt") as file:
        assert (file.get_tensor("a").tolist(), file.metadata()) == ([0, 1, 2], {"of": "me"})


def test_a_full_disk_names_the_file_that_a_line_is_appended_to(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        append_json_line(tmp_path / "metrics.jsonl", {"epoch": 1})
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
