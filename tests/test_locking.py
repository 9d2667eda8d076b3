"""A lock keeps others out, and those who only ask do not stand in each other's way."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.locking import is_locked, locked

HOLDER = """
import sys
from pathlib import Path
from ibrobust.locking import locked
with locked(Path(sys.argv[1]), "refused"):
    print("held", flush=True)
    sys.stdin.read()
"""


NO_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "name.lock"


@pytest.fixture(params=["locks", "no locks"])
def holder_code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What another process runs to hold a lock, on a file system that has locks, and on one that has none."""
    if request.param == "locks":
        return HOLDER
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    return NO_LOCKS + HOLDER


def test_a_lock_is_seen_and_ends_with_its_block(path: Path, holder_code: str) -> None:
    assert not is_locked(path)
    with locked(path, "refused"):
        assert is_locked(path)
    assert not is_locked(path)


def test_nothing_is_left_of_a_lock(path: Path, holder_code: str) -> None:
    with locked(path, "refused"):
        pass
    assert not path.parent.exists()


def test_a_lock_that_was_removed_by_its_holder_is_not_taken_for_the_new_one(path: Path) -> None:
    with locked(path, "refused"):
        path.unlink()  # as a holder does that ends while another process has opened the file
        with locked(path, "refused"):
            assert is_locked(path)


def test_another_process_keeps_it_until_it_is_killed(path: Path, holder_code: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", holder_code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(IbrobustError, match="refused"), locked(path, "refused", seconds=0.0):
            pass
        assert is_locked(path)
        holder.kill()
        holder.wait()
    assert not is_locked(path)
    with locked(path, "refused"):
        pass


def test_two_that_ask_do_not_see_each_other(path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    path.parent.mkdir()
    with path.open("a") as asking:  # as `is_locked` does
        fcntl.flock(asking.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_locked(path)


def test_a_place_that_is_no_folder_is_one_sentence(path: Path) -> None:
    path.parent.write_text("a file")
    with pytest.raises(IbrobustError, match="name.lock.*cannot be created"), locked(path, "refused"):
        pass
