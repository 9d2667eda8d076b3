"""The folder of a run: which recipe it belongs to."""

from __future__ import annotations

import shutil
from pathlib import Path

from ibrobust import processes
from ibrobust.errors import IbrobustError
from ibrobust.training.recipe import Recipe


def prepare_run_dir(run_dir: Path, recipe: Recipe, *, resume: bool) -> None:
    """Begin a folder anew, or leave it as it is where `resume` is set and it has this recipe.

    Raises:
        IbrobustError: it is to be resumed and has another recipe.
    """
    stored = run_dir / "recipe.yaml"
    found = resume and stored.is_file()
    if found:
        _refuse_difference(run_dir, Recipe.from_yaml(stored), recipe)
    processes.wait()  # every process has looked before the main one writes, and it has written before any reads
    if not found and processes.is_main():
        shutil.rmtree(run_dir, ignore_errors=True)
        recipe.to_yaml(stored)
    processes.wait()


def _refuse_difference(run_dir: Path, before: Recipe, recipe: Recipe) -> None:
    differing = [
        f"{name} = {getattr(before, name)!r}, now {getattr(recipe, name)!r}"
        for name in Recipe.model_fields
        if getattr(before, name) != getattr(recipe, name)
    ]
    if differing:
        raise IbrobustError(
            f"The run in {str(run_dir)!r} has another recipe ({'; '.join(differing)}): resume it with the recipe "
            "it began with, or give this one another name."
        )
