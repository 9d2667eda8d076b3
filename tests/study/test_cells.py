"""The cells of a study against the product of its axes."""

from __future__ import annotations

import itertools

import pytest

from ibrobust.errors import IbrobustError
from ibrobust.records import COLUMNS
from ibrobust.registry.card import check_name
from ibrobust.study.cells import RECORDED, expand, field_words
from ibrobust.training.build import refuse_unused
from ibrobust.training.recipe import Recipe


def test_the_cells_are_the_product_of_the_axes(make_study):
    grid = {"objective": ["knn_ib"], "beta": [0.0, 0.03, 0.1], "noise": [True, False], "seed": [0, 1]}
    found = [(c.recipe.objective, c.recipe.beta, c.recipe.noise, c.recipe.seed) for c in expand(make_study(grid))]
    assert found == list(itertools.product(*grid.values()))


def test_several_grids_are_one_union_in_their_order(make_study):
    study = make_study({"beta": [0.1, 0.2]}, {"beta": [0.2, 0.3]})
    assert [cell.recipe.beta for cell in expand(study)] == [0.1, 0.2, 0.3]


def test_an_axis_comes_on_top_of_the_base(make_study):
    (cell,) = expand(make_study({"width": [3]}, base={"width": 2, "latent_dim": 4}))
    assert (cell.recipe.width, cell.recipe.latent_dim) == (3, 4)


def test_a_field_that_the_objective_does_not_use_makes_no_second_cell(make_study):
    study = make_study({"objective": ["knn_ib", "cross_entropy"], "beta": [0.0, 0.1], "noise": [True, False]})
    assert [cell.recipe.objective for cell in expand(study)] == ["knn_ib"] * 4 + ["cross_entropy"]


def test_a_field_without_effect_beside_the_others_makes_no_second_cell(make_study):
    study = make_study({"soft_share": [0.0, 0.5], "class_sharpness": [0.0, 0.5]}, base={"resfc_units": 16})
    cells = [cell.recipe for cell in expand(study)]
    assert [(cell.soft_share, cell.class_sharpness) for cell in cells] == [(0.0, 0.5), (0.5, 0.0), (0.5, 0.5)]
    for cell in cells:
        refuse_unused(cell)
        assert cell.resfc_units == 16, "the information plane uses them"


def test_cells_that_differ_in_dropconnect_alone_are_two(make_study):
    study = make_study({"objective": ["cross_entropy"], "dropconnect": [0.0, 0.5]})
    assert [cell.recipe.dropconnect for cell in expand(study)] == [0.0, 0.5]


def test_decoders_are_an_axis_like_any_other(make_study):
    study = make_study({"decoders": [["logistic"], ["gaussian_mixture", "logistic"]]})
    assert [cell.name for cell in expand(study)] == [
        "knn_ib-decoderslogistic",
        "knn_ib-decodersgaussian_mixture_logistic",
    ]


def test_a_name_tells_what_a_cell_differs_in_and_no_more(make_study):
    study = make_study(
        {"objective": ["knn_ib"], "beta": [0.0, 0.03], "noise": [True, False], "width": [2], "seed": [7]},
        {"objective": ["cross_entropy"], "dropconnect": [0.0, 0.5], "seed": [7]},
        {"objective": ["dvib"], "seed": [7]},
    )
    assert [cell.name for cell in expand(study)] == [
        "knn_ib-beta0-noise",
        "knn_ib-beta0-no_noise",
        "knn_ib-beta0.03-noise",
        "knn_ib-beta0.03-no_noise",
        "cross_entropy-dropconnect0",
        "cross_entropy-dropconnect0.5",
        "dvib",
    ]


def test_a_setting_says_in_words_what_records_have_no_column_for(make_study):
    study = make_study({"beta": [0.1, 0.2], "latent_dim": [8, 16], "fixed_power": [True, False], "seed": [0, 1]})
    assert list(dict.fromkeys(cell.setting for cell in expand(study))) == [
        "latent dim 8, fixed power",
        "latent dim 8, no fixed power",
        "latent dim 16, fixed power",
        "latent dim 16, no fixed power",
    ]
    assert {cell.setting for cell in expand(make_study({"beta": [0.1, 0.2], "seed": [0, 1]}))} == {""}


def test_a_field_without_a_value_is_called_so():
    assert [field_words("first_neighbors", value) for value in (None, 9)] == ["no first neighbors", "first neighbors 9"]


def test_the_columns_of_records_tell_every_cell_that_no_setting_tells():
    # The epsilon of a record is an attack's, that of a recipe is of adversarial training.
    assert (set(COLUMNS) & set(Recipe.model_fields)) - {"epsilon"} == RECORDED


def test_names_are_distinct_and_safe_for_models(make_study):
    study = make_study({"dataset": ["digits", "/a b/c:d"], "objective": ["knn_ib", "ceb"], "beta": [0.1, 0.2]})
    cells = expand(study)
    for cell in cells:
        check_name(cell.model)
        assert cell.model == f"tiny-{cell.name}"
    assert len({cell.name for cell in cells}) == len(cells) == 8


def test_values_that_a_name_cannot_tell_apart_are_refused(make_study):
    with pytest.raises(IbrobustError, match=r"would both be called 'knn_ib-beta0.1'.*change one"):
        expand(make_study({"beta": [0.1, 0.1 + 1e-9]}))


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"beta": [0.1, 1.5]}, "beta 1.5 is invalid"),
        ({"depth": [3]}, "no field 'depth'"),
        ({"objective": ["knnib"]}, "did you mean knn_ib"),
    ],
)
def test_a_wrong_cell_is_named(make_study, grid, said):
    with pytest.raises(IbrobustError, match=r"The cell of the study 'tiny' with") as refused:
        expand(make_study(grid))
    assert said in str(refused.value)
