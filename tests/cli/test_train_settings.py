"""Recipe fields from --set, and the model's default name."""

from __future__ import annotations

import pytest
from typer.main import get_command

from ibrobust.cli.main import app
from ibrobust.cli.train import _assigned, _merged
from ibrobust.errors import IbrobustError
from ibrobust.training.recipe import Recipe


@pytest.mark.parametrize(
    ("fields", "texts", "expected"),
    [
        ({"width": 8}, ["width=16"], {"width": 16}),
        ({}, ["learning-rate=0.1"], {"learning_rate": 0.1}),
        ({}, ["objective_options.margin=2.0"], {"objective_options": {"margin": 2.0}}),
        ({}, ["objective_options.margin=1e-3"], {"objective_options": {"margin": 0.001}}),
        ({}, ["objective_options.sizes=[1e-3, '1e-3']"], {"objective_options": {"sizes": [0.001, "1e-3"]}}),
        ({}, ["objective-options={margin: 1e-3}"], {"objective_options": {"margin": 0.001}}),
        ({}, ["warm_start=1e3"], {"warm_start": "1e3"}),
        (
            {},
            ["objective-options.margin=2", "objective-options.power=3"],
            {"objective_options": {"margin": 2, "power": 3}},
        ),
        ({"objective_options": {"a": 1}}, ["objective_options.b=2"], {"objective_options": {"a": 1, "b": 2}}),
        ({"objective_options": {"a": 1}}, ["objective_options={b: 2}"], {"objective_options": {"b": 2}}),
    ],
)
def test_a_field_or_one_key_of_it_is_set(fields, texts, expected):
    given = dict(fields)
    assert _assigned(fields, texts) == expected
    assert fields == given


def test_a_field_without_keys_has_none_to_set():
    with pytest.raises(IbrobustError, match="'width.channels=2': this field is no mapping"):
        _assigned({"width": 8}, ["width.channels=2"])


@pytest.mark.parametrize("text", ["width=2001-13-45", "objective_options.day=2001-13-45"])
def test_a_date_that_does_not_exist_is_refused(text):
    with pytest.raises(IbrobustError, match="2001-13-45': the value is not YAML"):
        _assigned({}, [text])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"objective": "dib"}, True),
        ({"objective": "cross_entropy", "beta": 0.1}, False),
        ({"objective": "of_a_plugin"}, False),
        ({"objective": "of_a_plugin", "beta": 0.1}, True),
    ],
)
def test_a_default_name_has_no_beta_that_is_not_used(fields, named):
    assert ("beta" in Recipe(**fields).default_name()) is named


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("optimizer", "(adam, adamw, sgd; default: adamw)"),
        ("augment", "(none, crop, crop_flip; default: crop_flip)"),
        ("epsilon", "(default: 8/255)"),
    ],
)
def test_the_help_of_an_option_has_its_values_and_its_default(option, shown):
    (given,) = (parameter for parameter in get_command(app).commands["train"].params if parameter.name == option)
    assert shown in given.help


@pytest.mark.parametrize(
    ("preset", "given", "expected"),
    [
        ("paper", {}, {"num_neighbors": 3, "soft_share": 0.0, "memory_size": 0, "fixed_power": False, "width": 8}),
        (None, {"objective": "dvib"}, {"fixed_power": False, "memory_size": 0, "soft_share": 0.0, "width": 8}),
        (None, {}, {"fixed_power": True, "memory_size": 2000, "soft_share": 0.75, "width": 8}),
    ],
    ids=["over a preset", "with another objective", "alone"],
)
def test_a_recipe_file_sets_only_what_it_names(preset, given, expected, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("width: 8\nepochs: 2\n")
    recipe = _merged(preset, file, given, [])
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize(("dataset", "augment"), [("digits", "crop"), ("cifar10-jpeg", "crop_flip")])
def test_a_preset_mirrors_no_images_of_digits(dataset, augment):
    assert _merged("soft_w16", None, {"dataset": dataset}, []).augment == augment


@pytest.fixture
def full(tmp_path, monkeypatch) -> str:
    """A recipe file that ibrobust wrote, with fields that its objective does not use; a training is refused."""

    def refuse(*_: object, **__: object) -> None:
        raise IbrobustError("The training would begin.")

    monkeypatch.setattr("ibrobust.registry.train", refuse)
    recipe = Recipe.preset("soft_w16").model_copy(update={"objective": "cross_entropy", "dataset": "digits"})
    recipe.to_yaml(tmp_path / "full.yaml")
    return str(tmp_path / "full.yaml")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--epsilon", "4/255"], "does not use epsilon, so 4/255 would have no effect"),
        (["--set", "num_neighbors=7"], "does not use num_neighbors, so 7 would have no effect"),
        (["--no-noise"], "does not use noise, so False would have no effect"),
        (["--width", "2"], "The training would begin."),
        ([], "The training would begin."),
    ],
)
def test_beside_a_full_recipe_file_what_is_typed_must_have_an_effect(run, full, typed, message):
    done = run("train", "--recipe", full, *typed)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
