from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ibrobust.data import load_dataset, to_unit_range
from ibrobust.errors import IbrobustError
from ibrobust.home import models_dir
from ibrobust.integrations.huggingface import save_pretrained
from ibrobust.models import Encoder, ImageClassifier
from ibrobust.registry import export_model, load_model, model_card, register_model, train, update_metrics
from ibrobust.registry.card import read_card
from ibrobust.registry.export import MIXTURE_FACTORS, halved, portable_card
from ibrobust.registry.scoring import clean_accuracy, module_accuracy
from ibrobust.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("few_digits")

RECIPE = Recipe(
    dataset="digits",
    width=2,
    num_neighbors=3,
    latent_dim=8,
    batch_size=200,
    epochs=1,
    learning_rate=3e-3,
    decoders=("gaussian_mixture", "logistic", "resfc"),
    resfc_units=16,
)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """The card and the folder of a model exported in half precision, that folder being the registry's own."""
    train(RECIPE, name="tiny")
    update_metrics("tiny", "fgsm", {"accuracy": 0.5})
    card = export_model("tiny", tmp_path / "away" / "models", new_name="given", description="A gift.", half=True)
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "away"))
    return card, tmp_path / "away" / "models"


def test_an_exported_model_is_found_by_its_new_name_and_loads(exported):
    card = model_card("given")
    assert card == exported[0]
    assert card.description == "A gift."
    assert load_model("given", decoder="resfc")(torch.rand(2, 3, 32, 32)).dtype == torch.float32


def test_a_model_in_half_precision_keeps_its_results_if_it_is_exported_so_again(exported, tmp_path, monkeypatch):
    update_metrics("given", "fgsm", {"accuracy": 0.25})
    monkeypatch.setattr("ibrobust.registry.export.load_dataset", None)  # no images are needed
    again = export_model("given", tmp_path / "again", half=True)
    assert again == model_card("given")
    assert again.evaluations == {"fgsm": {"accuracy": 0.25}}


def test_layers_are_stored_in_half_precision_and_nothing_else(exported):
    tensors = load_file(exported[1] / exported[0].weights.file)
    assert {t.dtype for key, t in tensors.items() if key.startswith("decoders.gaussian_mixture")} == {torch.float32}
    assert tensors["encoder.bn1.running_var"].dtype == torch.float32
    assert tensors["encoder.conv1.weight"].dtype == torch.float16


@pytest.mark.parametrize(("scale", "dtype"), [(1.0, torch.float16), (1e6, torch.float32), (1e-7, torch.float32)])
def test_weights_beyond_the_range_of_half_precision_are_not_rounded(scale, dtype):
    weight = scale * torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    rounded = halved({"decoders.logistic.weight": weight})["decoders.logistic.weight"]
    assert rounded.dtype == dtype
    torch.testing.assert_close(rounded.float(), weight, rtol=2**-10, atol=scale * 1e-3)


def test_an_image_without_a_number_for_an_answer_is_not_right(digits):
    class Nothing(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 10), torch.nan)

    assert module_accuracy(Nothing(), digits).correct == 0
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    assert clean_accuracy(encoder, {"head": Nothing()}, 4, digits)["head"].correct == 0


def test_the_rounded_models_accuracy_is_measured_anew(exported, digits):
    for decoder, record in exported[0].clean_accuracy.items():
        with torch.no_grad():
            predictions = load_model("given", decoder=decoder)(to_unit_range(digits.test.images)).argmax(dim=1)
        assert record.correct == int((predictions == digits.test.labels).sum())


def test_the_rounded_model_keeps_no_earlier_evaluation(exported):
    assert exported[0].evaluations == {}


@pytest.fixture
def untrained():
    """The name of a stored model that costs no training."""
    model = ImageClassifier(Encoder(width=1, latent_dim=2), torch.nn.Linear(2, 10))
    return register_model("untrained", model, dataset=load_dataset("digits")).name


def test_a_file_that_is_no_card_is_not_replaced(untrained, tmp_path):
    (tmp_path / "settings.yaml").write_text("port: 80")
    with pytest.raises(IbrobustError, match="settings.yaml' exists and is no model card"):
        export_model(untrained, tmp_path, new_name="settings")
    assert (tmp_path / "settings.yaml").read_text() == "port: 80"
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_folder_may_be_given_as_text(untrained, tmp_path):
    card = export_model(untrained, str(tmp_path / "new" / "given"))
    assert export_model(untrained, str(tmp_path / "new" / "given")) == card  # which an export may replace
    assert read_card(tmp_path / "new" / "given" / "untrained.yaml") == card


def test_a_file_is_no_folder_to_export_to(untrained, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(IbrobustError, match="file' cannot be made .a file has this name.: choose another folder"):
        export_model(untrained, tmp_path / "file")


def test_an_exact_export_keeps_weights_and_evaluations(tmp_path):
    train(RECIPE, name="tiny")
    update_metrics("tiny", "fgsm", {"accuracy": 0.5})
    card = export_model("tiny", tmp_path / "away")
    assert card == model_card("tiny")
    assert yaml.safe_load((tmp_path / "away" / "tiny.yaml").read_text())["evaluations"] == {"fgsm": {"accuracy": 0.5}}


def test_the_mixtures_triangles_are_stored_without_zeros_and_lose_nothing(tmp_path, monkeypatch):
    train(RECIPE, name="tiny")
    original = load_model("tiny", decoder="gaussian_mixture").decoder.whitening
    card = export_model("tiny", tmp_path / "once" / "models", half=True)
    assert load_file(tmp_path / "once" / "models" / card.weights.file)[MIXTURE_FACTORS].shape == (10, 8 * 9 / 2)
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "once"))
    assert torch.equal(load_model("tiny", decoder="gaussian_mixture").decoder.whitening, original)
    again = export_model("tiny", tmp_path / "twice", half=True)
    assert again.weights == card.weights


def test_a_portable_card_has_no_path():
    train(RECIPE, name="tiny")
    card = model_card("tiny")
    assert card.recipe is not None
    local = card.model_copy(update={"recipe": card.recipe.model_copy(update={"dataset": "/home/me/images"})})
    portable = portable_card(local)
    assert portable.recipe is not None
    assert portable.recipe.dataset == "digits"


def test_an_exported_card_reads_the_same_images(tmp_path, classifier):
    grey = load_dataset("digits:channels=1")
    model = ImageClassifier(Encoder(width=2, latent_dim=8, mean=(0.5,), std=(0.25,)), torch.nn.Linear(8, 10))
    register_model("trained", model, dataset=grey, recipe=RECIPE)
    register_model("registered", model, dataset=grey)
    for name in ("trained", "registered"):
        export_model(name, tmp_path / "away")
        card = read_card(tmp_path / "away" / f"{name}.yaml")
        assert load_dataset(card.images).fingerprint == card.dataset.fingerprint


def test_a_model_without_a_recipe_is_rounded_and_scored_on_the_images_of_its_card(tmp_path, classifier, monkeypatch):
    digits = load_dataset("digits")
    register_model("mine", classifier, dataset=digits)
    scored = export_model("mine", tmp_path / "away" / "models", half=True).clean_accuracy["head"]
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "away"))
    with torch.no_grad():
        predictions = load_model("mine")(to_unit_range(digits.test.images)).argmax(dim=1)
    assert scored.correct == int((predictions == digits.test.labels).sum())


def test_a_model_of_images_in_memory_is_not_rounded(tmp_path, classifier, digits):
    register_model("mine", classifier, dataset=replace(digits, source=None, name="blobs"))
    with pytest.raises(IbrobustError, match="blobs.*export the model without `half`"):
        export_model("mine", tmp_path / "away", half=True)


@pytest.mark.parametrize("with_recipe", [True, False])
def test_an_exported_card_keeps_the_options_of_a_file_without_its_path(tmp_path, classifier, with_recipe):
    labels = np.arange(20) % 10
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    file = tmp_path / "pets.npz"
    np.savez(file, train_images=images, train_labels=labels, val_images=255 - images, val_labels=labels)
    data = load_dataset(f"{file}:test=val")
    register_model("mine", classifier, dataset=data, recipe=RECIPE if with_recipe else None)
    assert export_model("mine", tmp_path / "away").images == "pets:test=val"
    assert str(tmp_path) not in (tmp_path / "away" / "mine.yaml").read_text()
    assert str(tmp_path) not in (save_pretrained("mine", tmp_path / "hub") / "config.json").read_text()


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(IbrobustError, match="Unknown model 'nothing'"):
        export_model("nothing", tmp_path)


def test_a_path_that_only_the_models_code_can_read_stays_with_a_warning(tmp_path):
    train(RECIPE, name="mine")
    card = model_card("mine")
    recipe = card.recipe.model_copy(update={"objective_options": {"table": "/data/table.npy", "count": 3}})
    (models_dir() / "mine.yaml").write_text(card.model_copy(update={"recipe": recipe}).to_text())
    with pytest.warns(UserWarning, match="keeps the path '/data/table.npy', an option of the code"):
        export_model("mine", tmp_path / "out")


def test_the_folder_of_the_stored_models_is_no_place_for_an_export(home):
    with pytest.raises(IbrobustError, match="holds the stored models.*give another folder"):
        export_model("cross_entropy-digits", home / "models")
