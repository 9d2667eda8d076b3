"""The folder of a run, and its recipe."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ibrobust import processes
from ibrobust.atomic import remove_folder, write_text
from ibrobust.errors import IbrobustError
from ibrobust.home import runs_dir
from ibrobust.mapping_files import read_mapping_file
from ibrobust.training.checkpoint import latest_checkpoint
from ibrobust.training.recipe import Recipe

RECIPE = "recipe.yaml"
RECORD = "run.json"  # the fingerprint of the images, and the precision
PRECISION = "mixed_precision"


def unfinished_runs() -> list[str]:
    """Return the names of the runs that have a checkpoint: it is removed once the model is stored."""
    folders = sorted(runs_dir().iterdir()) if runs_dir().is_dir() else []
    visible = (folder for folder in folders if not folder.name.startswith("."))  # others are being removed
    return [folder.name for folder in visible if latest_checkpoint(folder / "checkpoints")]


def precision_before(run_dir: Path) -> str | None:
    """Return the precision with which the run in a folder began, or None if there is nothing to resume.

    On another device `auto` may mean another precision, but a run has one.
    """
    return _record(run_dir)[PRECISION] if _can_be_resumed(run_dir) else None


def _can_be_resumed(run_dir: Path) -> bool:
    # A finished run, or one that was interrupted in its first epoch, has no checkpoint: it starts anew.
    return (run_dir / RECIPE).is_file() and latest_checkpoint(run_dir / "checkpoints") is not None


def _record(run_dir: Path) -> dict[str, str]:
    """Return the record of the run in a folder; raise IbrobustError if it is missing, damaged or incomplete."""
    with suppress(IbrobustError):
        found = read_mapping_file(run_dir / RECORD, "record of the run")
        if isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("fingerprint", PRECISION)):
            return found
    raise IbrobustError(
        f"The run in {str(run_dir)!r} has no readable record ({RECORD}): remove this folder, or start again with "
        "`overwrite=True`."
    )


def prepare_run_dir(run_dir: Path, recipe: Recipe, fingerprint: str, *, precision: str, resume: bool) -> Path | None:
    """Start a new folder, or keep it if `resume` is set and it has a checkpoint of this recipe; return the checkpoint.

    Args:
        run_dir: the folder.
        recipe: of the run.
        fingerprint: of its images.
        precision: of the training: no, bf16 or fp16.
        resume: keep its content.

    Raises:
        IbrobustError: it should be resumed but has another recipe or other images, or no readable record; or an earlier
            run in the folder cannot be removed.
    """
    stored = run_dir / RECIPE
    found = resume and _can_be_resumed(run_dir)
    if found:
        _refuse_difference(run_dir, Recipe.from_yaml(stored), recipe)
        if _record(run_dir)["fingerprint"] != fingerprint:
            raise IbrobustError(
                f"The run in {str(run_dir)!r} started with other images: restore them, or start again with "
                "`overwrite=True`."
            )
    processes.wait()  # every process has looked before the main one writes, and it has written before any reads
    if not found and processes.is_main():
        remove_folder(run_dir)
        write_text(run_dir / RECORD, json.dumps({"fingerprint": fingerprint, PRECISION: precision}) + "\n")
        recipe.to_yaml(stored)  # last: it makes the folder one that can be resumed
    processes.wait()
    return latest_checkpoint(run_dir / "checkpoints") if found else None


def _refuse_difference(run_dir: Path, before: Recipe, recipe: Recipe) -> None:
    differing = [
        f"{name} = {getattr(before, name)!r}, now {getattr(recipe, name)!r}"
        for name in Recipe.model_fields
        if getattr(before, name) != getattr(recipe, name)
    ]
    if differing:
        raise IbrobustError(
            f"The run in {str(run_dir)!r} has another recipe ({'; '.join(differing)}): resume it with its own "
            "recipe, or give this run another name."
        )
