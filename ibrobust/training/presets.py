"""The recipes that ship with ibrobust, with their purpose and measured results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ibrobust.errors import IbrobustError
from ibrobust.home import recipes_dir
from ibrobust.mapping_files import read_mapping_file
from ibrobust.training.recipe import ABOUT, Recipe, preset_names


@dataclass(frozen=True)
class Preset:
    """A recipe that ships with ibrobust.

    Attributes:
        name: for `--preset` and `Recipe.preset`.
        purpose: in one sentence.
        accuracy: clean accuracy on CIFAR-10 re-encoded as JPEG, with how it was measured, or "not measured".
        time: of its training, with the device, or "not measured".
        recipe: every field.
    """

    name: str
    purpose: str
    accuracy: str
    time: str
    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """Return the preset for JSON."""
        return {**asdict(self), "recipe": self.recipe.model_dump(mode="json")}


def presets() -> list[Preset]:
    """Return every recipe that ships with ibrobust, by name; raise IbrobustError if a file is damaged."""
    return [_read(name) for name in preset_names()]


def _read(name: str) -> Preset:
    about = read_mapping_file(recipes_dir() / f"{name}.yaml", "recipe").get(ABOUT)
    if not isinstance(about, dict) or set(about) != {"purpose", "accuracy", "time"}:
        raise IbrobustError(
            f"The file of the preset {name!r} is damaged (its purpose is missing): install ibrobust again."
        )
    return Preset(name, **about, recipe=Recipe.preset(name))
