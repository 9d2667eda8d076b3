from __future__ import annotations

import json

from ibrobust.training.presets import presets
from ibrobust.training.recipe import Recipe, preset_names


def test_every_preset_is_listed_with_what_its_file_says(run):
    printed = " ".join(run("recipes").stdout.split())
    for preset in presets():
        assert preset.name in printed
        for word in (*preset.purpose.split(), *preset.accuracy.split(), *preset.time.split()):
            assert word in printed


def test_json_has_the_recipe_that_is_trained(run):
    listed = json.loads(run("recipes", "--json").stdout)
    assert sorted(listed) == preset_names()
    for name, entry in listed.items():
        assert Recipe.parse(entry["recipe"]) == Recipe.preset(name)


def test_a_preset_file_is_a_recipe_file(run, tmp_path):
    from ibrobust.home import recipes_dir

    assert Recipe.from_yaml(recipes_dir() / "paper.yaml") == Recipe.preset("paper")


def test_an_unknown_preset_is_answered_with_the_nearest(run):
    assert "did you mean paper?" in run("train", "--preset", "papre").stderr
