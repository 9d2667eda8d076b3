"""Files that are written completely or not at all: write beside, flush, rename."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

from ibrobust.errors import IbrobustError

# Standard output, where a command that writes JSON takes it for a file.
STDOUT = Path("-")


@contextmanager
def atomic_path(target: Path, *, through_links: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `target` for writing; rename it to `target` on success.

    If the block raises, nothing is left behind. The folder is created if missing.

    Args:
        target: file to write.
        through_links: if it is a link, replace the file that it points to, not the link.

    Raises:
        OSError: it cannot be written; the error names `target`.
    """
    file = target.resolve() if through_links and target.is_symlink() else target
    made = not file.parent.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush_to_disk(temporary)
        # mkstemp makes files that only their owner can read; a result is as readable as any other file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(file)
        flush_to_disk(file.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # something else is in it
                file.parent.rmdir()
        if isinstance(error, OSError) and error.errno and error.filename in (None, name):
            raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
        raise


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success, rename it to `target`, which must not exist."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            flush_to_disk(file)
        flush_to_disk(temporary)
        temporary.rename(target)
        flush_to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists. It is renamed first, so that a kill leaves nothing half removed under its name.

    Raises:
        IbrobustError: it cannot be removed.
    """
    if not folder.is_dir():
        return
    try:
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        folder.rename(aside / folder.name)
    except OSError as error:
        raise IbrobustError(f"The folder {str(folder)!r} cannot be removed ({error.strerror}): remove it.") from error
    shutil.rmtree(aside, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` in UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, content: object) -> None:
    """Write `content` to `target` as JSON, atomically; print it if `target` is `STDOUT`."""
    text = json.dumps(content, indent=2)
    if target == STDOUT:
        print(text)
    else:
        write_text(target, text + "\n")


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line of JSON; it is on the disk when this returns. A kill leaves at most an incomplete last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno and error.filename is None:  # a full disk is noticed after the file was opened
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def write_tensors(target: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to `target` in the safetensors format, atomically; raise OSError on failure."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(target) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata) if metadata else None)
        except SafetensorError as error:  # its own name for a full disk
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(target)) from error


def require_writable(target: Path, *, ending: str | None = None) -> None:
    """Raise if `target` could not be written, so that no hours of work are lost.

    Args:
        target: of which at most the last folder may be missing.
        ending: that the name needs; a file with another one may be an input of the same command. JSON may also go to
            `STDOUT`.

    Raises:
        IbrobustError: `target` exists and is not a file, since a folder or a device would be replaced; it has
            another ending; or its folder cannot be made or written.
    """
    if target == STDOUT:
        if ending == ".json":
            return
        raise IbrobustError("'-' is the standard output, which takes JSON only: give the name of a file to write.")
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "no ordinary file"
        raise IbrobustError(f"{str(target)!r} is {what}: give the name of a file to write.")
    if ending is not None and target.suffix.lower() != ending:
        raise IbrobustError(f"The file is written as {ending[1:].upper()}: end the name {str(target)!r} in {ending}.")
    target = target.resolve() if target.is_symlink() else target
    made = not target.parent.exists()
    require_folder(target.parent)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        raise IbrobustError(
            f"No file can be written in {str(target.parent)!r} ({error.strerror}): choose another folder."
        ) from error
    os.close(handle)
    Path(name).unlink()
    if made:
        target.parent.rmdir()


def require_folder(folder: Path, *, parents: bool = False) -> None:
    """Make a folder if it is missing.

    Args:
        folder: to make.
        parents: also make the folders above it.

    Raises:
        IbrobustError: it cannot be made; or the folder above it is missing, and so its name is probably mistyped.
    """
    above = folder.absolute().parent
    if not parents and not above.exists():
        raise IbrobustError(f"The folder {str(above)!r} does not exist: create it, or correct {str(folder)!r}.")
    try:
        folder.mkdir(parents=parents, exist_ok=True)
    except OSError as error:  # a file has its name, or the name of a folder above it; or permission is missing
        why = "a file has this name" if isinstance(error, FileExistsError) else error.strerror
        raise IbrobustError(f"The folder {str(folder)!r} cannot be made ({why}): choose another folder.") from error


def flush_to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
