"""The demo's recipes are those of the shipped digits models, and its last sentences follow from the numbers."""

from __future__ import annotations

import pytest

from ibrobust.cli.demo import RECIPES, meaning
from ibrobust.registry import copy_model, model_card
from ibrobust.training.recipe import Recipe


@pytest.mark.parametrize("objective", sorted(RECIPES))
def test_a_recipe_is_one_that_is_known_to_train_well(objective):
    card = model_card(f"{objective}-digits")
    assert Recipe.parse(RECIPES[objective]) == card.recipe
    assert min(record.accuracy for record in card.clean_accuracy.values()) > 0.97


def test_what_more_steps_break_is_said_to_be_no_robustness():
    said = meaning((0.36, 0.0), (0.1, 0.02))
    assert "FGSM leaves 36% of these images to the bottleneck model and 10% to cross-entropy" in said
    assert "leaves 0% and 2%" in said
    assert "is not robustness" in said


def test_what_more_steps_leave_is_not_called_real():
    said = meaning((0.36, 0.3), (0.1, 0.02))
    assert "is not robustness" not in said
    assert "audit" in said


def test_the_demo_ends_with_what_it_means_and_three_commands(run, monkeypatch, tmp_path):
    """With the shipped models in place of those that it trains, and less effort."""
    monkeypatch.setattr("ibrobust.registry.train", lambda _, *, name, **__: copy_model(f"{name[5:]}-digits", name))
    monkeypatch.setattr("ibrobust.cli.demo.IMAGES", 10)
    finished = run("demo", "--output", "out")
    assert finished.returncode == 0, finished.stderr
    answers = [line for line in finished.stdout.splitlines() if "in the worst case at 8/255" in line]
    assert len(answers) == 2
    assert finished.stdout.count(", on 10 of the 360 images") == 2
    assert all(line.startswith(("real:", "partly real:", "not real:", "undecided:")) for line in answers)
    assert (tmp_path / "elsewhere" / "out" / "fgsm.png").is_file()
    rows = [line for line in finished.stdout.splitlines() if line.strip().startswith("not real, ")]
    assert rows  # the table of FGSM carries the answers, and no star under attack for these
    assert all(row.count("*") <= 1 for row in rows)  # at most for the clean accuracy
    lines = finished.stdout.strip().splitlines()
    assert "more steps" in lines[-6] or "audit" in lines[-6]
    assert [line.split("ibrobust ")[1].split()[0] for line in lines[-3:]] == ["attack", "audit", "train"]
    # The next command's table knows the answers.
    assert model_card("demo-knn_ib").evaluations["audit 0.0313725"]["logistic"]["n"] == 10
