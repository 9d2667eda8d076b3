"""Studies and models that were registered from outside: they are measured on their own images, and never a training."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from ibrobust.data import Dataset, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.registry import ModelCard, list_models, model_card, register_model
from ibrobust.study import Study, expand, run_study
from ibrobust.study import measure as measure_module
from ibrobust.study import run as run_module
from ibrobust.study.results import RESULTS_FILE
from ibrobust.study.state import cell_folder
from ibrobust.study.summary import report_cells
from ibrobust.study.write_records import model_columns

SWEEP = {"sweep": {"eps": ["8/255"], "n_examples": 10}}


def linear(pixels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 10))


def register(name: str, data: Dataset, **options: object) -> ModelCard:
    pixels = data.test.images[0].numel()
    return register_model(name, linear(pixels), dataset=data, factory=linear, arguments={"pixels": pixels}, **options)


@pytest.mark.parametrize("is_of_this_name", [True, False])
def test_a_module_that_was_registered_with_a_recipe_is_no_training_of_it(make_study, is_of_this_name):
    study = make_study({"beta": [0.1]}, evaluations=SWEEP)
    (cell,) = expand(study)
    card = register(cell.model if is_of_this_name else "other", load_dataset(cell.recipe.dataset), recipe=cell.recipe)
    (state,) = run_study(study)
    if is_of_this_name:
        assert state.status == "failed"
        assert "was not trained by ibrobust" in state.error
    else:
        assert state.status == "done"
        assert model_card(cell.model).weights != card.weights
        assert model_card(cell.model).architecture is None
    assert list_models(cell.model) == [cell.model]


def write_digits(path: Path, *, inverted: bool = False) -> Dataset:
    """Write 200 grey digits to a file; return them as they are read from it."""
    digits = load_dataset("digits:channels=1")
    arrays = {}
    for name, split in (("train", digits.train), ("test", digits.test)):
        few = split.subset(100)
        arrays |= {f"{name}_images": 255 - few.images if inverted else few.images, f"{name}_labels": few.labels}
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})
    return load_dataset(str(path))


def study_of(model: str, evaluations: dict, **fields: object) -> Study:
    return Study.model_validate({"name": "given", "models": [model], "evaluations": evaluations, **fields})


def test_a_registered_model_is_measured_on_the_images_that_it_was_registered_with(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    data = write_digits(folder / "digits.npz")
    monkeypatch.chdir(folder)
    register("net", data)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_digits(elsewhere / "digits.npz", inverted=True)
    monkeypatch.chdir(elsewhere)
    study = study_of("net", SWEEP)
    (state,) = run_study(study)
    assert (state.status, state.error) == ("done", "")
    results = json.loads((cell_folder(study, "net") / RESULTS_FILE).read_text())
    assert results["dataset_fingerprint"] == data.fingerprint


def test_without_a_data_set_other_images_than_those_of_the_model_are_refused(tmp_path):
    path = tmp_path / "digits.npz"
    register("net", write_digits(path))
    write_digits(path, inverted=True)
    study = study_of("net", SWEEP)
    with pytest.raises(IbrobustError, match=r"digits\.npz' are not those that 'net' was trained on: restore them"):
        run_study(study)
    assert not study.folder.exists()
    assert [state.status for state in run_study(study_of("net", SWEEP, base={"dataset": str(path)}))] == ["done"]


ATTACKED = {"attacks": {"attacks": ["FGSM"], "eps": ["8/255"], "n_examples": 6}}


def test_a_model_of_grey_images_is_attacked_on_them_in_one_channel_and_has_pictures(monkeypatch):
    register("net", load_dataset("digits:channels=1"))
    study = study_of("net", ATTACKED, base={"dataset": "digits"})
    assert [(state.status, state.error) for state in run_study(study)] == [("done", "")]
    (cell,) = report_cells(study)
    picture = Image.open(io.BytesIO(base64.b64decode(cell["examples"]["image"])))
    assert (picture.mode, picture.size) == ("L", (6 * 32, 3 * 32))
    monkeypatch.setattr(run_module, "measure", None)
    assert [state.status for state in run_study(study)] == ["done"], "it is not measured again"


def test_a_picture_that_fails_does_not_fail_the_measurements(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise TypeError("no picture today")

    monkeypatch.setattr(measure_module, "adversarial_examples", fail)
    study = study_of("cross_entropy-digits", ATTACKED)
    with pytest.warns(UserWarning, match="no adversarial images of cross_entropy-digits: no picture today"):
        (state,) = run_study(study)
    assert (state.status, state.error) == ("done", "")


def test_a_registered_net_and_a_training_of_one_recipe_are_told_apart():
    trained = model_card("cross_entropy-digits")
    net = register("net", load_dataset("digits"), recipe=trained.recipe)
    columns = model_columns({"a": trained, "b": net})
    assert columns["a"]["setting"] == "architecture ResNet18"
    assert columns["b"]["setting"] == f"architecture {__name__}:linear pixels=3072"
