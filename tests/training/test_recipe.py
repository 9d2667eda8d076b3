from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from ibrobust.errors import IbrobustError
from ibrobust.home import recipes_dir
from ibrobust.training.recipe import Recipe, preset_names, read_fields


def test_the_defaults_are_those_of_the_best_preset_at_the_papers_width():
    best = Recipe.preset("knn_w16")
    assert Recipe(beta=best.beta, resfc_units=best.resfc_units) == best.model_copy(update={"width": 64})


def test_other_objectives_keep_the_plain_defaults():
    recipe = Recipe(objective="cross_entropy")
    assert (recipe.fixed_power, recipe.memory_size, recipe.num_neighbors, recipe.soft_share) == (False, 0, 3, 0.0)


def test_what_is_given_comes_before_what_the_objective_trains_best_with():
    recipe = Recipe.parse({"num_neighbors": 3, "soft_share": 0.0})
    assert (recipe.num_neighbors, recipe.soft_share, recipe.memory_size) == (3, 0.0, 2000)


@pytest.mark.parametrize("objective", ["knn_ib", "soft_ib"])
def test_a_sharpness_changes_nothing_else(objective):
    given = Recipe.parse({"objective": objective, "neighbor_sharpness": 4.0})
    assert given == Recipe(objective=objective).model_copy(update={"neighbor_sharpness": 4.0})


@pytest.mark.parametrize(
    ("dataset", "augment"),
    [
        ("cifar10", "crop_flip"),
        ("digits", "crop"),
        ("digits:channels=1", "crop"),
        ("svhn", "crop"),
        ("torchvision:EMNIST:split=letters", "crop"),
        ("torchvision:FashionMNIST", "crop_flip"),
        ("/data/digits", "crop_flip"),
    ],
)
def test_digits_and_signs_are_not_mirrored_unless_asked_for(dataset, augment):
    assert Recipe(dataset=dataset).augment == augment
    assert Recipe(dataset=dataset, augment="crop_flip").augment == "crop_flip"


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip"])
@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_a_recipes_text_is_a_call_that_gives_it(dataset, augment):
    recipe = Recipe(dataset=dataset, augment=augment, width=8)
    assert eval(repr(recipe), {"Recipe": Recipe}) == recipe


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().beta = 0.5


def test_a_recipe_survives_yaml(tmp_path):
    recipe = Recipe(beta=0.1 + 0.2, decoders=("resfc",), noise=False, learning_rate=1e-5, objective_options={"a": [1]})
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("beta", [-0.01, math.nan, math.inf])
def test_beta_outside_its_range_is_named(beta):
    with pytest.raises(IbrobustError, match=f"beta = {beta}"):
        Recipe.parse({"beta": beta})


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_beta_that_would_minimise_the_entropy_of_the_papers_objective_is_refused(beta):
    with pytest.raises(IbrobustError, match=f"beta {beta:g} of knn_ib is not below 1"):
        Recipe.parse({"beta": beta})


@pytest.mark.parametrize("objective", ["ceb", "dvib", "dib"])
def test_a_divergence_may_weigh_as_much_as_the_decoding(objective):
    assert Recipe.parse({"objective": objective, "beta": 1.0}).beta == 1.0


def test_an_unknown_field_is_named():
    said = "A recipe has no field 'betta': did you mean beta"
    with pytest.raises(IbrobustError, match=said):
        Recipe.parse({"betta": 0.1})
    with pytest.raises(IbrobustError, match=said):
        Recipe(betta=0.1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"beta": "0,03"}, "beta = '0,03' is not a number: write 0.03, with a point."),
        ({"epochs": 0}, "epochs = 0 is too small: give at least 1."),
        ({"optimizer": "sgdd"}, "optimizer = 'sgdd' is not known: choose one of adam, adamw, sgd."),
    ],
)
def test_a_wrong_value_is_answered_in_plain_english(fields, said):
    with pytest.raises(IbrobustError) as refused:
        Recipe(**fields)
    assert str(refused.value) == f"The recipe is invalid: {said}"


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"num_neighbors": 0},
        {"learning_rate": 0.0},
        {"optimizer": "adagrad"},
        {"decoders": ["svm"]},
        {"seed": -1},
        {"dropout": 1.0},
    ],
)
def test_a_value_out_of_range_is_named(fields):
    with pytest.raises(IbrobustError, match=next(iter(fields))):
        Recipe.parse(fields)


def test_dropout_and_dropconnect_together_are_refused():
    with pytest.raises(IbrobustError, match="choose one"):
        Recipe.parse({"dropout": 0.1, "dropconnect": 0.1})


def test_a_decoder_named_twice_is_refused():
    with pytest.raises(IbrobustError, match="twice"):
        Recipe.parse({"decoders": ["resfc", "resfc"]})


def test_a_recipe_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(IbrobustError, match="none.yaml"):
        Recipe.from_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize("content", ["[1, 2]", "beta: [", "just text", ""])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(IbrobustError, match="recipe.yaml"):
        Recipe.from_yaml(tmp_path / "recipe.yaml")


def test_names_tell_recipes_apart():
    names = {
        recipe.default_name()
        for recipe in (
            Recipe(),
            Recipe(beta=0.1),
            Recipe(noise=False),
            Recipe(width=16),
            Recipe(seed=1),
            Recipe(dataset="digits"),
            Recipe(objective="cross_entropy"),
            Recipe(objective="cross_entropy", dropout=0.5),
            Recipe(objective="cross_entropy", dropconnect=0.5),
        )
    }
    assert len(names) == 9


@pytest.mark.parametrize("dataset", ["/some where/my data!/", "花", "données", "٣"])
def test_a_name_made_from_a_path_is_a_safe_file_name(dataset):
    from ibrobust.registry.card import check_name

    check_name(Recipe(dataset=dataset).default_name())


def test_a_plain_file_name_stays_in_the_name_as_it_is():
    assert Recipe(dataset="/a/my-data_2.0").default_name() == "knn_ib-beta0.03-my-data_2.0-w64-s0"


def test_the_radius_of_adversarial_training_may_be_a_fraction():
    assert Recipe.parse({"epsilon": "4/255"}).epsilon == 4 / 255


@pytest.mark.parametrize("text", ["0/255", "8", "eight"])
def test_a_radius_that_is_none_is_named(text):
    with pytest.raises(IbrobustError, match="epsilon"):
        Recipe.parse({"epsilon": text})


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_whole_recipe(name):
    left_out = {
        "seed",
        "head_units",
        "dropout",
        "dropconnect",
        "objective_options",
        "conditional",
        "num_samples",
        "epsilon",
        "compile",
        "augment",  # depends on the data set
    }
    assert set(read_fields(recipes_dir() / f"{name}.yaml")) >= set(Recipe.model_fields) - left_out


def test_the_papers_preset_is_the_papers_objective():
    recipe = Recipe.preset("paper")
    assert (recipe.objective, recipe.num_neighbors, recipe.average_neighbors) == ("knn_ib", 3, False)
    assert (recipe.soft_share, recipe.memory_size, recipe.fixed_power) == (0.0, 0, False)
    assert (recipe.optimizer, recipe.learning_rate, recipe.schedule, recipe.epochs) == ("adam", 5e-4, "plateau", 150)


def test_an_unknown_preset_is_answered_with_those_there_are():
    with pytest.raises(IbrobustError, match=r"Unknown preset 'papre'.*paper"):
        Recipe.preset("papre")


def test_an_estimator_that_would_never_be_used_is_refused():
    with pytest.raises(IbrobustError, match="soft_share 1 of knn_ib leaves no step for the estimator.*soft_ib"):
        Recipe.parse({"soft_share": 1.0})


def test_options_of_an_objective_are_as_they_are_read_back_from_a_file(tmp_path):
    recipe = Recipe(objective="mine", objective_options={"sizes": (1, 2), "at": {3: ("a", 0.5)}, "none": None})
    assert recipe.objective_options == {"sizes": [1, 2], "at": {"3": ["a", 0.5]}, "none": None}
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("value", [math.inf, math.nan, {1, 2}, object()])
def test_an_option_of_an_objective_that_cannot_be_stored_is_refused(value):
    with pytest.raises(IbrobustError, match="objective_options: a value cannot be stored .* give finite numbers"):
        Recipe(objective="mine", objective_options={"margin": value})
