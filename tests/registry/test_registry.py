from __future__ import annotations

import math
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

import ibrobust
from ibrobust.card_results import with_result
from ibrobust.cli.matching import models_for
from ibrobust.data import Dataset, load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.full_precision import default_dtype
from ibrobust.home import models_dir, zoo_dir
from ibrobust.locking import locked
from ibrobust.models import Encoder, ImageClassifier, MLPHead, SampledClassifier, build_head
from ibrobust.models.resfc import ResFCDecoder
from ibrobust.records import AUDIT_VERSION, WORST_CASE_VERSION
from ibrobust.registry import (
    add_evaluation,
    copy_model,
    list_models,
    load_model,
    model_card,
    register_model,
    store,
    train,
    update_metrics,
)
from ibrobust.registry.card import read_card
from ibrobust.registry.catalog import weights_size
from ibrobust.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("few_digits")

TINY = Recipe(dataset="digits", width=2, latent_dim=8, batch_size=100, epochs=1, learning_rate=3e-3, num_neighbors=3)


@pytest.fixture
def digits(few_digits: None) -> Dataset:
    return load_dataset("digits")


def card_file(home, name: str):
    return home / "models" / f"{name}.yaml"


def weights_file(home, name: str):
    return home / "models" / model_card(name).weights.file


def test_a_trained_model_is_listed_and_loads_with_each_decoder():
    card = train(TINY, name="tiny")
    assert "tiny" in list_models()
    images = torch.rand(4, 3, 32, 32)
    for decoder in card.decoders:
        assert load_model("tiny", decoder=decoder)(images).shape == (4, 10)


def test_models_are_in_float32_whatever_torchs_default_dtype_is(tmp_path):
    with default_dtype(torch.float64):
        shipped = load_model("knn_ib-digits")
        card = train(TINY, name="tiny")
    assert {tensor.dtype for tensor in shipped.parameters()} == {torch.float32}
    for decoder in card.decoders:
        loaded = load_model("tiny", decoder=decoder)
        assert {tensor.dtype for tensor in loaded.parameters()} <= {torch.float32}
    assert train(TINY, name="same").clean_accuracy == card.clean_accuracy


def test_a_gaussian_encoders_prediction_can_be_averaged_over_samples():
    train(TINY.model_copy(update={"objective": "dvib", "fixed_power": False}), name="tiny")
    images = torch.rand(4, 3, 32, 32)
    model = load_model("tiny", num_samples=3)
    assert isinstance(model, SampledClassifier)
    assert len(model.draws) == 3
    assert torch.equal(model.latents(images), load_model("tiny").latents(images))


def test_a_point_encoder_has_nothing_to_sample():
    train(TINY, name="tiny")
    with pytest.raises(IbrobustError, match="gives points"):
        load_model("tiny", num_samples=3)


def test_a_warm_start_begins_with_the_other_models_encoder():
    train(TINY.model_copy(update={"objective": "cross_entropy"}), name="first")
    # With a learning rate of nearly 0 the weights stay what they were at the start.
    train(TINY.model_copy(update={"warm_start": "first", "learning_rate": 1e-12, "seed": 1}), name="second")
    first, second = (dict(load_model(name).encoder.named_parameters()) for name in ("first", "second"))
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_a_warm_start_may_change_whether_power_is_fixed(before, after):
    train(TINY.model_copy(update={"fixed_power": before}), name="first")
    card = train(TINY.model_copy(update={"warm_start": "first", "fixed_power": after}), name="second")
    assert card.fixed_power is after


def test_a_warm_start_from_an_encoder_of_another_width_is_refused():
    train(TINY, name="first")
    with pytest.raises(IbrobustError, match="width 2, not 4"):
        train(TINY.model_copy(update={"warm_start": "first", "width": 4}), name="second")


def test_a_warm_start_from_an_encoder_of_other_channels_is_refused():
    train(TINY.model_copy(update={"objective": "cross_entropy"}), name="first")
    grey = load_dataset("digits").in_channels(1)
    with pytest.raises(IbrobustError, match="'first' takes 3 channels, and the images of 'digits' have 1"):
        train(TINY.model_copy(update={"warm_start": "first"}), name="second", dataset=grey)


def test_the_cards_accuracy_is_that_of_the_loaded_model(digits):
    card = train(TINY, name="tiny")
    for decoder, record in card.clean_accuracy.items():
        model = load_model("tiny", decoder=decoder)
        with torch.no_grad():
            predictions = model(digits.test.images.float() / 255).argmax(1)
        assert record.correct == int((predictions == digits.test.labels).sum())
        assert record.total == 360


def test_the_card_says_how_the_model_was_made(digits):
    card = train(TINY, name="tiny")
    assert card.recipe == TINY
    assert card.dataset.fingerprint == digits.fingerprint
    assert card.training.epochs_run == 1
    assert card.training.precision in ("no", "bf16")
    assert card.training.versions["torch"] == torch.__version__.partition("+")[0]
    assert set(card.training.final_terms) == {"loss", "soft H[Z|Y]", "soft H[Z]", "H[Z|Y]", "H[Z]"}


def test_a_cross_entropy_models_default_decoder_is_its_head():
    recipe = TINY.model_copy(update={"objective": "cross_entropy", "decoders": ("logistic",)})
    assert train(recipe, name="ce").decoders == ("head", "logistic")


def test_the_default_decoder_is_the_recipes_first():
    recipe = TINY.model_copy(update={"decoders": ("logistic", "gaussian_mixture")})
    assert train(recipe, name="tiny").decoders == ("logistic", "gaussian_mixture")


def test_an_unfinished_run_is_not_begun_again_by_accident():
    def stop(progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    recipe = TINY.model_copy(update={"epochs": 2})
    with pytest.raises(KeyboardInterrupt):
        train(recipe, name="tiny", on_progress=stop)
    with pytest.raises(IbrobustError, match="'tiny' has an unfinished run"):
        train(recipe, name="tiny")
    assert train(recipe, name="tiny", resume=True).training.epochs_run == 2


def test_a_resumed_run_needs_the_encoder_that_it_began_with_no_more(home):
    train(TINY, name="first")
    recipe = TINY.model_copy(update={"warm_start": "first", "epochs": 2})

    def stop(epoch, _):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, name="second", on_epoch=stop)
    (home / "models" / "first.yaml").unlink()
    assert train(recipe, name="second", resume=True).training.epochs_run == 2


def test_a_training_leaves_the_callers_random_numbers_alone_also_if_it_is_resumed():
    def stop(progress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    def states() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    recipe = TINY.model_copy(update={"objective": "cross_entropy", "epochs": 2, "decoders": ("logistic", "resfc")})
    with pytest.raises(KeyboardInterrupt):
        train(recipe, name="tiny", on_progress=stop)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = states()
    train(recipe, name="tiny", resume=True)
    assert states() == before


def test_a_finished_run_is_no_unfinished_one(digits):
    first = train(TINY, name="tiny")
    fewer = replace(digits, train=digits.train.subset(300), source=None)
    recipe = TINY.model_copy(update={"seed": 1})
    card = train(recipe, name="tiny", dataset=fewer, resume=True, overwrite=True)
    assert (card.recipe.seed, card.dataset.num_train) == (1, 300)
    assert card.weights != first.weights


def test_a_finished_run_leaves_metrics_and_no_checkpoints(home):
    train(TINY, name="tiny")
    assert sorted(entry.name for entry in (home / "runs" / "tiny").iterdir()) == [
        "metrics.jsonl",
        "recipe.yaml",
        "run.json",
    ]


def test_a_name_that_another_process_trains_is_refused(home):
    with locked(home / "runs" / "tiny.lock", ""), pytest.raises(IbrobustError, match="trained by another process"):
        train(TINY, name="tiny")
    assert "tiny" not in list_models()


def test_a_model_without_any_decoder_is_refused_before_it_is_trained(home):
    with pytest.raises(IbrobustError, match="no decoder"):
        train(TINY.model_copy(update={"decoders": ()}), name="tiny")
    assert not (home / "runs" / "tiny").exists()


def test_the_name_of_a_data_set_is_no_data_set(classifier, home):
    with pytest.raises(IbrobustError, match=r"The data set is a str: give ibrobust.load_dataset\(NAME\)"):
        register_model("mine", classifier, dataset="digits")
    assert "mine" not in list_models()


def test_a_registered_classifier_gives_the_same_logits_when_loaded(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(load_model("mine")(images), classifier(images), rtol=1e-4, atol=1e-5)


def test_the_recipe_of_a_registered_model_names_the_images_that_it_was_registered_with(classifier, digits):
    recipe = Recipe(objective="cross_entropy", width=2, latent_dim=8, seed=3)  # of CIFAR-10, the default
    card = register_model("mine", classifier, dataset=digits, recipe=recipe)
    assert load_dataset(card.images).fingerprint == card.dataset.fingerprint
    assert card.recipe == Recipe(**{**recipe.model_dump(), "dataset": "digits"})
    in_memory = register_model("other", classifier, dataset=replace(digits, source=None, name="blobs"), recipe=recipe)
    assert in_memory.images == "memory:blobs"


def test_registering_leaves_every_part_of_a_model_in_its_mode(digits):
    model = ImageClassifier(Encoder(width=2, latent_dim=8), ResFCDecoder(8, 10, units=4)).train()
    model.encoder.bn1.eval()  # frozen statistics
    modes = {name: part.training for name, part in model.named_modules()}
    register_model("mine", model, dataset=digits)
    assert {name: part.training for name, part in model.named_modules()} == modes


def test_a_gaussian_encoder_survives_the_registry(digits):
    model = ImageClassifier(Encoder(width=2, latent_dim=16), nn.Linear(8, 10), latent_dim=8).eval()
    register_model("gaussian", model, dataset=digits)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(load_model("gaussian")(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("latent_dim", "head"),
    [
        (None, lambda: nn.Linear(16, 10)),  # without a latent layer the latents are the 8 * width pooled features
        (8, lambda: nn.Linear(8, 10, bias=False)),
        (8, lambda: build_head(8, 10, dropconnect=0.5)),
        (8, lambda: build_head(8, 10, units=4, dropout=0.5)),
        (8, lambda: MLPHead([8, 4, 10])),
    ],
)
def test_classifiers_of_every_head_and_encoder_survive_the_registry(digits, latent_dim, head):
    torch.manual_seed(0)
    model = ImageClassifier(Encoder(width=2, latent_dim=latent_dim), head()).eval()
    register_model("mine", model, dataset=digits)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(load_model("mine")(images), model(images), rtol=1e-4, atol=1e-5)


def test_a_warm_start_from_an_encoder_without_a_latent_layer_is_refused(digits):
    register_model("first", ImageClassifier(Encoder(width=1, latent_dim=None), nn.Linear(8, 10)), dataset=digits)
    with pytest.raises(IbrobustError, match="latent layer False, not True"):
        train(TINY.model_copy(update={"warm_start": "first", "width": 1, "latent_dim": 8}), name="second")


def test_a_reference_in_place_of_a_name_is_told_what_loads_it():
    with pytest.raises(IbrobustError, match="'timm:resnet18' is no stored model.*load_reference gives a model"):
        load_model("timm:resnet18")


def test_a_loaded_model_is_in_evaluation_mode_and_can_be_trained_on(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    model = load_model("mine")
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_copy_has_the_weights_and_nothing_that_was_evaluated(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    update_metrics("mine", "fgsm", {"accuracy": 0.5})
    card = copy_model("mine", "yours")
    assert card == model_card("yours")
    assert (card.evaluations, card.clean_accuracy) == ({}, model_card("mine").clean_accuracy)
    assert torch.equal(load_model("yours").encoder.conv1.weight, classifier.encoder.conv1.weight)
    with pytest.raises(IbrobustError, match="The model 'mine' already exists"):
        copy_model("yours", "mine")


def test_a_name_is_taken_once(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    with pytest.raises(IbrobustError, match="The model 'mine' already exists"):
        register_model("mine", classifier, dataset=digits)


def test_overwriting_leaves_one_card_and_one_weights_file(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    with torch.no_grad():
        classifier.decoder.bias += 1.0
    register_model("mine", classifier, dataset=digits, overwrite=True)
    assert len(list((home / "models").iterdir())) == 2
    assert torch.equal(load_model("mine").decoder.bias, classifier.decoder.bias)


def test_an_overwriting_that_dies_before_the_card_leaves_the_old_model(classifier, digits, monkeypatch):
    register_model("mine", classifier, dataset=digits)
    old = classifier.decoder.bias.clone()

    def die(card):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_card", die)
    with torch.no_grad():
        classifier.decoder.bias += 1.0
    with pytest.raises(OSError, match="No space"):
        register_model("mine", classifier, dataset=digits, overwrite=True)
    assert torch.equal(load_model("mine").decoder.bias, old)


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", ".hidden", "con", "NUL.x", "a b", "x" * 101, "dot.", "a\nb", "x.lock", "x.LOCK"]
)
def test_an_unsafe_name_is_refused(name, classifier, digits):
    with pytest.raises(IbrobustError, match="safe file name"):
        register_model(name, classifier, dataset=digits)


def test_an_unknown_name_offers_the_nearest(classifier, digits):
    register_model("knn_ib-mine", classifier, dataset=digits)
    with pytest.raises(IbrobustError, match="did you mean knn_ib-mine"):
        load_model("knn-ib-mine")


def test_a_first_users_unknown_name_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.setattr("ibrobust.registry.store.zoo_dir", lambda: tmp_path / "no zoo")
    with pytest.raises(IbrobustError, match="train one with ibrobust train"):
        load_model("anything")


def test_an_unknown_decoder_names_those_there_are(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    with pytest.raises(IbrobustError, match="no decoder 'resfc'.*head"):
        load_model("mine", decoder="resfc")


def test_a_device_that_is_not_there_is_refused(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    with pytest.raises(IbrobustError, match="device 'gpu'"):
        load_model("mine", device="gpu")


def test_weights_cut_short_are_refused(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    file = weights_file(home, "mine")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(IbrobustError, match="SHA-256"):
        load_model("mine")


def test_weights_with_one_changed_bit_are_refused(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    file = weights_file(home, "mine")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(IbrobustError, match="SHA-256"):
        load_model("mine")


def test_missing_weights_are_named(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    weights_file(home, "mine").unlink()
    with pytest.raises(IbrobustError, match="of 'mine' cannot be read"):
        load_model("mine")


def test_a_model_whose_two_files_are_deleted_is_gone(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    register_model("mine-2", classifier, dataset=digits)
    for file in (weights_file(home, "mine"), card_file(home, "mine")):
        file.unlink()
    assert "mine" not in list_models()
    load_model("mine-2")
    register_model("mine", classifier, dataset=digits)
    load_model("mine")


def test_a_card_cannot_point_outside_its_folder(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    shutil.move(weights_file(home, "mine"), home / "elsewhere.safetensors")
    fields = yaml.safe_load(card_file(home, "mine").read_text())
    fields["weights"]["file"] = "../elsewhere.safetensors"
    card_file(home, "mine").write_text(yaml.safe_dump(fields))
    with pytest.raises(IbrobustError, match="cannot be read"):
        load_model("mine")


def test_a_card_of_a_newer_schema_says_to_upgrade(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    fields = {**yaml.safe_load(card_file(home, "mine").read_text()), "schema_version": 99, "novelty": 1}
    card_file(home, "mine").write_text(yaml.safe_dump(fields))
    with pytest.raises(IbrobustError, match=r"schema 99.*upgrade"):
        load_model("mine")


@pytest.mark.parametrize("content", ["", "[]", "name: x", "a: [", "!!python/object/apply:os.getcwd []"])
def test_a_file_that_is_no_card_is_named(home, content):
    card_file(home, "odd").parent.mkdir(parents=True)
    card_file(home, "odd").write_text(content)
    with pytest.raises(IbrobustError, match="odd.yaml"):
        load_model("odd")


def test_a_damaged_card_says_where(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    fields = yaml.safe_load(card_file(home, "mine").read_text())
    fields["latent_dim"] = "many"
    card_file(home, "mine").write_text(yaml.safe_dump(fields))
    with pytest.raises(IbrobustError, match="damaged at latent_dim"):
        model_card("mine")


def test_weights_of_another_shape_than_the_card_says_are_refused(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    fields = yaml.safe_load(card_file(home, "mine").read_text())
    fields["width"] = 3
    card_file(home, "mine").write_text(yaml.safe_dump(fields))
    with pytest.raises(IbrobustError, match="do not fit its card"):
        load_model("mine")


def test_a_card_of_a_newer_schema_hides_no_other_model(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    newer = yaml.safe_load(card_file(home, "mine").read_text()) | {"schema_version": 2, "name": "newer"}
    card_file(home, "newer").write_text(yaml.safe_dump(newer))
    with pytest.warns(UserWarning, match="'newer' was skipped: .* has schema 2"):
        assert models_for(digits) == ["mine"]


def test_models_are_found_by_pattern(classifier, digits):
    for name in ("a-1", "a-2", "b-1"):
        register_model(name, classifier, dataset=digits)
    assert list_models("a-*") == ["a-1", "a-2"]


def test_an_evaluation_is_kept_in_the_card(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    update_metrics("mine", "audit", {"verdict": "sound"})
    assert model_card("mine").evaluations == {"audit": {"verdict": "sound"}}
    load_model("mine")


def test_an_infinite_number_in_a_card_stays_one(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    update_metrics("mine", "entropy", {"nats": [-float("inf"), 1e-05]})
    assert model_card("mine").evaluations == {"entropy": {"nats": [-float("inf"), 1e-05]}}


def test_an_infinite_option_of_the_recipe_in_a_card_stays_one(tmp_path):
    card, options = model_card("cross_entropy-digits"), {"cap": math.inf, "sizes": [1, -math.inf]}
    recipe = card.recipe.model_copy(update={"objective_options": options})
    (tmp_path / "card.yaml").write_text(card.model_copy(update={"recipe": recipe}).to_text())
    assert read_card(tmp_path / "card.yaml").recipe.objective_options == options


def test_evaluations_of_two_decoders_stand_side_by_side_with_their_images(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    add_evaluation("mine", "audit", "head", {"verdict": "masked"}, digits)
    add_evaluation("mine", "audit", "logistic", {"verdict": "sound"}, digits)
    add_evaluation("mine", "audit", "head", {"verdict": "sound"}, digits)
    where = {"dataset": "digits", "dataset_fingerprint": digits.fingerprint}
    expected = {"verdict": "sound", **where}
    assert model_card("mine").evaluations == {"audit": {"head": expected, "logistic": expected}}


def test_a_module_of_another_kind_is_refused(digits):
    with pytest.raises(IbrobustError, match="Linear cannot be stored"):
        register_model("mine", nn.Linear(3, 3), dataset=digits)


class Rounding(ImageClassifier):
    """Logits of images on the grid of 8 bits are those of an ImageClassifier."""

    def forward(self, images):
        return super().forward((images * 255).round() / 255)


class StraightThrough(ImageClassifier):
    """The gradient is another one, the logits are not."""

    def forward(self, images):
        logits = super().forward(images)
        return logits.detach() + 0.5 * (logits - logits.detach())


class Noisy(ImageClassifier):
    def forward(self, images):
        return super().forward(images + 1e-4 * torch.randn_like(images))


class Detached(ImageClassifier):
    def forward(self, images):
        return super().forward(images).detach()


class Named(ImageClassifier):
    """Another class that computes the same."""


@pytest.mark.parametrize("kind", [Rounding, StraightThrough, Noisy, Detached])
def test_a_model_that_would_be_loaded_as_another_one_is_refused(kind, digits, home):
    model = kind(Encoder(width=2, latent_dim=8), nn.Linear(8, 10))
    with pytest.raises(IbrobustError, match=rf"{kind.__name__} cannot be stored"):
        register_model("mine", model, dataset=digits)
    assert not home.exists()


def test_an_average_over_samples_is_refused(digits):
    model = SampledClassifier(Encoder(width=2, latent_dim=16), nn.Linear(8, 10), num_samples=3)
    with pytest.raises(IbrobustError, match="SampledClassifier cannot be stored.*other logits"):
        register_model("mine", model, dataset=digits)


def test_what_an_encoder_has_beside_its_weights_is_compared_too(classifier, digits):
    classifier.encoder.bn1.eps = 0.1
    with pytest.raises(IbrobustError, match="other logits"):
        register_model("mine", classifier, dataset=digits)


def test_a_subclass_that_computes_the_same_is_stored_and_left_as_it_was(digits):
    model = Named(Encoder(width=2, latent_dim=8), nn.Linear(8, 10)).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    register_model("mine", model, dataset=digits)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_that_would_be_loaded_in_another_precision_is_refused(classifier, digits, dtype):
    with pytest.raises(IbrobustError, match=rf"model in {str(dtype)[6:]} cannot be stored"):
        register_model("mine", classifier.to(dtype), dataset=digits)


@pytest.mark.parametrize("classes", [1, 5])
def test_a_model_of_other_classes_than_the_data_set_is_refused(digits, classes):
    model = ImageClassifier(Encoder(width=2, latent_dim=8), nn.Linear(8, classes))
    with pytest.raises(IbrobustError, match=rf"The model has {classes} outputs?, but digits has 10 classes"):
        register_model("mine", model, dataset=digits)


def change(classifier, by: float = 1.0) -> ImageClassifier:
    with torch.no_grad():
        classifier.decoder.bias += by
    return classifier


def test_a_result_of_weights_that_were_overwritten_meanwhile_is_not_taken(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    load_model("mine")
    register_model("mine", change(classifier), dataset=digits, overwrite=True)
    for store_result in (
        lambda: add_evaluation("mine", "fgsm", "head", {"correct": [1]}, digits),
        lambda: update_metrics("mine", "fgsm", {"correct": [1]}),
    ):
        with pytest.raises(IbrobustError, match="'mine' was overwritten after it was loaded"):
            store_result()
    assert model_card("mine").evaluations == {}


def test_a_result_of_a_shipped_model_is_not_taken_for_a_model_that_took_its_name(classifier, digits):
    load_model("cross_entropy-digits")
    register_model("cross_entropy-digits", classifier, dataset=digits, overwrite=True)
    with pytest.raises(IbrobustError, match="was overwritten after it was loaded"):
        update_metrics("cross_entropy-digits", "fgsm", {"correct": [1]})


def test_a_result_is_taken_where_its_weights_are_the_stored_ones(classifier, digits):
    old = register_model("mine", classifier, dataset=digits).weights.sha256
    load_model("mine")
    new = register_model("mine", change(classifier), dataset=digits, overwrite=True).weights.sha256
    load_model("mine")
    add_evaluation("mine", "fgsm", "head", {"correct": [1]}, digits, weights=new)
    with pytest.raises(IbrobustError, match="overwritten"):
        add_evaluation("mine", "fgsm", "head", {"correct": [2]}, digits, weights=old)
    assert model_card("mine").evaluations["fgsm"]["head"]["correct"] == [1]


def test_a_card_that_was_copied_by_hand_is_a_model_of_its_own(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    update_metrics("mine", "fgsm", {"correct": [1]})
    shutil.copy(card_file(home, "mine"), card_file(home, "yours"))
    update_metrics("yours", "fgsm", {"correct": [2]})
    assert [model_card(name).evaluations["fgsm"]["correct"] for name in ("mine", "yours")] == [[1], [2]]
    assert model_card("yours").name == "yours"


@pytest.mark.parametrize("overwritten", ["mine", "yours"])
def test_weights_that_another_card_names_are_not_dropped(classifier, digits, home, overwritten):
    register_model("mine", classifier, dataset=digits)
    old = classifier.decoder.bias.clone()
    shutil.copy(card_file(home, "mine"), card_file(home, "yours"))
    register_model(overwritten, change(classifier), dataset=digits, overwrite=True)
    (other,) = {"mine", "yours"} - {overwritten}
    assert torch.equal(load_model(other).decoder.bias, old)
    assert torch.equal(load_model(overwritten).decoder.bias, classifier.decoder.bias)


def test_what_killed_processes_left_of_a_model_goes_when_it_is_overwritten(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    others = ["mine-2-0123456789ab.safetensors", ".mine-2.yaml.x.tmp", "mine-notes.txt"]
    for name in ["mine-0123456789ab.safetensors", ".mine-0123456789ab.safetensors.x.tmp", ".mine.yaml.x.tmp", *others]:
        (home / "models" / name).write_text("")
    register_model("mine", change(classifier), dataset=digits, overwrite=True)
    there = {path.name for path in (home / "models").iterdir()}
    assert there == {"mine.yaml", model_card("mine").weights.file, *others}


def test_a_model_that_is_overwritten_while_it_is_read_is_the_new_one(classifier, digits, monkeypatch):
    register_model("mine", classifier, dataset=digits)
    read_weights = store.read_weights

    def overwrite_first(card, path):
        monkeypatch.setattr(store, "read_weights", read_weights)
        register_model("mine", change(classifier), dataset=digits, overwrite=True)
        return read_weights(card, path)

    monkeypatch.setattr(store, "read_weights", overwrite_first)
    assert torch.equal(load_model("mine").decoder.bias, classifier.decoder.bias)


@pytest.mark.parametrize(
    "take",
    [lambda model, digits: copy_model("a", "new"), lambda model, digits: register_model("new", model, dataset=digits)],
    ids=["copy", "register"],
)
def test_of_two_that_take_a_new_name_at_once_one_gets_it(classifier, digits, monkeypatch, take):
    register_model("a", classifier, dataset=digits)
    register_model("b", change(classifier), dataset=digits)
    save = safetensors.torch.save

    def another_comes_first(tensors):
        monkeypatch.setattr("safetensors.torch.save", save)
        copy_model("b", "new")
        return save(tensors)

    monkeypatch.setattr("safetensors.torch.save", another_comes_first)
    with pytest.raises(IbrobustError, match="The model 'new' already exists"):
        take(change(classifier), digits)
    assert torch.equal(load_model("new").decoder.bias, load_model("b").decoder.bias)


def test_a_name_that_another_process_writes_is_refused(classifier, digits, home, monkeypatch):
    monkeypatch.setattr(store, "SECONDS_FOR_A_NAME", 0.0)
    with locked(home / "models" / "mine.lock", ""), pytest.raises(IbrobustError, match="'mine' is being written"):
        register_model("mine", classifier, dataset=digits)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_differs_in_case_alone_is_refused(classifier, digits, overwrite):
    register_model("Mine", classifier, dataset=digits)
    with pytest.raises(IbrobustError, match="'Mine' exists, and some file systems cannot tell it from 'mine'"):
        register_model("mine", classifier, dataset=digits, overwrite=overwrite)


def test_linked_cards_and_weights_are_read_and_never_written_through(classifier, digits, home, tmp_path):
    register_model("mine", classifier, dataset=digits)
    old = classifier.decoder.bias.clone()
    away = tmp_path / "away"
    away.mkdir()
    for file in (weights_file(home, "mine"), card_file(home, "mine")):
        shutil.move(file, away / file.name)
        file.symlink_to(away / file.name)
    before = {path.name: path.read_bytes() for path in away.iterdir()}
    assert torch.equal(load_model("mine").decoder.bias, old)
    update_metrics("mine", "fgsm", {"correct": [1]})
    register_model("mine", change(classifier), dataset=digits, overwrite=True)
    assert {path.name: path.read_bytes() for path in away.iterdir()} == before


@pytest.mark.parametrize("field", ["width", "latent_dim", "encoder_outputs"])
@pytest.mark.parametrize("value", [0, 10**12])
def test_sizes_that_no_model_has_are_one_sentence(classifier, digits, home, field, value):
    register_model("mine", classifier, dataset=digits)
    fields = yaml.safe_load(card_file(home, "mine").read_text())
    card_file(home, "mine").write_text(yaml.safe_dump({**fields, field: value}))
    with pytest.raises(IbrobustError, match=rf"damaged at {field}|do not fit its card"):
        load_model("mine")


@pytest.mark.parametrize("version", [0, True, "1", 1.0, None])
def test_a_schema_that_never_was_is_refused(classifier, digits, home, version):
    register_model("mine", classifier, dataset=digits)
    fields = {**yaml.safe_load(card_file(home, "mine").read_text()), "schema_version": version}
    card_file(home, "mine").write_text(yaml.safe_dump(fields))
    with pytest.raises(IbrobustError, match="not a model card"):
        model_card("mine")


def rewrite(home, **tensors) -> None:
    """Write the weights file of `mine` with other tensors (None: without), and its hash into the card."""
    card = model_card("mine")
    content = safetensors.torch.load_file(weights_file(home, "mine"))
    content = {key: tensor for key, tensor in {**content, **tensors}.items() if tensor is not None}
    weights, packed = store.pack_weights("mine", content)
    (home / "models" / weights.file).write_bytes(packed)
    store.write_card(card.model_copy(update={"weights": weights}))


@pytest.mark.parametrize(
    "tensors",
    [
        {"decoders.head.bias": None},
        {"decoders.head.novelty": torch.zeros(1)},
        {"decoders.head.bias": torch.zeros(10, dtype=torch.float64)},
        {"decoders.head.bias": torch.zeros(10, dtype=torch.int64)},
        {"decoders.head.bias": torch.zeros(10, 1)},
    ],
    ids=["missing", "extra", "float64", "int64", "shape"],
)
def test_weights_with_other_tensors_than_the_model_has_are_refused(classifier, digits, home, tensors):
    register_model("mine", classifier, dataset=digits)
    rewrite(home, **tensors)
    with pytest.raises(IbrobustError, match="do not fit its card"):
        load_model("mine")


def test_the_public_names_are_all_there():
    for name in ibrobust.__all__:
        assert getattr(ibrobust, name) is not None


SUMMARY = {"norm": "Linf", "total": 100, "clean_accuracy": 0.9, "accuracy_under_attack": 0.5, "robust_accuracy": 0.5}


def _stored(name: str, kind: str) -> dict:
    return {key: found for key, found in model_card(name).evaluations.items() if key.startswith(kind)}


def test_the_result_of_another_attack_epsilon_or_number_of_images_stands_beside_the_earlier_one(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    strong = {**SUMMARY, "attack": "WorstCase", "epsilon": 8 / 255}
    others = [{**strong, "attack": "PGD"}, {**strong, "epsilon": 4 / 255}, {**strong, "total": 10}]
    for result in (strong, *others, {**strong, "robust_accuracy": 0.4}):
        add_evaluation("mine", "attacks", "head", {"results": [result]}, digits)
    (found,) = _stored("mine", "attacks").values()
    assert found["head"]["results"] == [*others, {**strong, "robust_accuracy": 0.4}]


def test_a_worst_case_goes_with_the_older_result_that_it_was_over():
    place = {"norm": "Linf", "epsilon": 8 / 255, "total": 100, "robust_accuracy": 0.1}
    older = {**place, "attack": "PGD", "nonfinite_gradient": 30}
    over = {**place, "attack": "worst case of PGD, WorstCase", "attack_version": WORST_CASE_VERSION}
    others = [{**over, "epsilon": 4 / 255}, {**over, "attack": "worst case of FGSM, AutoAttack"}]
    new = {**place, "attack": "PGD", "robust_accuracy": 0.5}
    for known, kept in (([older, over, *others], [*others, new]), ([new, over], [over, new])):
        before = {"attacks": {"head": {"results": known}}}
        after = with_result(before, "attacks", "head", {"results": [new]}, "mine")
        assert after["attacks"]["head"]["results"] == kept


def test_the_result_on_other_images_does_not_replace_that_on_the_cards_own(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    result = {**SUMMARY, "attack": "WorstCase", "epsilon": 8 / 255}
    others = replace(digits, name="others", test=digits.test.subset(50))
    for images in (digits, others):
        add_evaluation("mine", "attacks", "head", {"results": [result]}, images)
    assert list(_stored("mine", "attacks")) == ["attacks", f"attacks on others {others.fingerprint[:12]}"]


def test_a_sweep_over_other_epsilons_on_the_same_images_is_added_to_the_earlier_one(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    sweep = {"total": 100, "clean_correct": 90, "zero_gradient": 0, "nonfinite_gradient": 0}
    for epsilons, correct in (([0.1, 0.2], [50, 40]), ([0.05, 0.2], [70, 41])):
        add_evaluation("mine", "fgsm", "head", {**sweep, "epsilons": epsilons, "correct": correct}, digits)
    stored = model_card("mine").evaluations["fgsm"]["head"]
    assert (stored["epsilons"], stored["correct"], stored["accuracy"]) == (
        [0.05, 0.1, 0.2],
        [70, 50, 41],
        [0.7, 0.5, 0.41],
    )


AUDIT = {"epsilon": 8 / 255, "n": 100, "quick": True, "verdict": "real, honest", "audit_version": AUDIT_VERSION}


@pytest.mark.parametrize(
    ("kind", "strong", "weak"),
    [
        ("audit", AUDIT, {**AUDIT, "n": 8}),
        ("audit", {**AUDIT, "quick": False}, AUDIT),
        ("fgsm", {"total": 100, "epsilons": [], "correct": []}, {"total": 10, "epsilons": [], "correct": []}),
    ],
    ids=["images", "quick", "sweep"],
)
def test_a_weaker_result_does_not_replace_a_stronger_one(classifier, digits, kind, strong, weak):
    register_model("mine", classifier, dataset=digits)
    add_evaluation("mine", kind, "head", strong, digits)
    before = model_card("mine").evaluations
    with pytest.raises(IbrobustError, match="already holds"):
        add_evaluation("mine", kind, "head", weak, digits)
    assert model_card("mine").evaluations == before


def test_audits_at_several_epsilons_stand_side_by_side(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    for epsilon in (8 / 255, 0.1 / 255):
        add_evaluation("mine", "audit", "head", {**AUDIT, "epsilon": epsilon}, digits)
    assert list(_stored("mine", "audit")) == ["audit 0.0313725", "audit 0.000392157"]


def test_an_audit_replaces_the_one_by_older_rules(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    where = {"dataset": digits.name, "dataset_fingerprint": digits.fingerprint}
    update_metrics("mine", "audit 0.0313725", {"head": {**AUDIT, "n": 1000, "audit_version": 1, **where}})
    add_evaluation("mine", "audit", "head", AUDIT, digits)
    assert _stored("mine", "audit") == {"audit 0.0313725": {"head": {**AUDIT, **where}}}


def test_a_new_result_does_not_change_the_evaluations_that_it_is_put_beside():
    before = {"audit 0.0313725": {"head": dict(AUDIT)}}
    after = with_result(before, "audit", "logistic", AUDIT, "mine")
    assert list(after["audit 0.0313725"]) == ["head", "logistic"]
    assert before == {"audit 0.0313725": {"head": AUDIT}}


SWEEP = {"total": 100, "clean_correct": 90, "zero_gradient": 0, "nonfinite_gradient": 0}
SWEEP |= {"epsilons": [0.1], "correct": [50]}


@pytest.mark.parametrize(
    ("kind", "known", "new"),
    [
        ("fgsm", {**SWEEP, "correct": []}, {**SWEEP, "epsilons": [0.2]}),
        ("fgsm", {**SWEEP, "correct": [500]}, {**SWEEP, "epsilons": [0.2]}),
        ("fgsm", {**SWEEP, "total": "many"}, SWEEP),
        ("fgsm", {**SWEEP, "total": math.nan}, SWEEP),
        ("attacks", {"results": [3]}, {"results": []}),
        ("attacks", "gone", {"results": []}),
        ("audit", {**AUDIT, "audit_version": "new"}, AUDIT),
    ],
)
def test_a_damaged_result_is_replaced_by_a_new_one(kind, known, new):
    key = "audit 0.0313725" if kind == "audit" else kind
    after = with_result({key: {"head": known}}, kind, "head", new, "mine")
    assert after == {key: {"head": new}}


def test_a_damaged_result_elsewhere_in_a_card_stays_as_it_is():
    before = {"audit": {"head": {**AUDIT, "epsilon": "8/255"}}, "fgsm": [1]}
    none = {"results": []}
    assert with_result(before, "attacks", "head", none, "mine") == {**before, "attacks": {"head": none}}
    damaged = {"attack": "PGD"}
    after = with_result({"attacks": {"head": {"results": [damaged]}}}, "attacks", "head", {"results": []}, "mine")
    assert after["attacks"]["head"]["results"] == [damaged]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            "clean_accuracy",
            {"head": {"correct": 200, "total": 100}},
            "clean_accuracy.head: 200 of 100 images cannot be",
        ),
        ("clean_accuracy", {"resfc": {"correct": 1, "total": 100}}, "of resfc, which is not among the decoders"),
        ("decoders", ["head", "head"], "the decoders head, head are not all different"),
        ("training", {"final_terms": {}}, "the final terms have no loss"),
        ("training", {"epochs_run": 0}, "training.epochs_run"),
        ("training", {"seconds": math.nan}, "training.seconds"),
    ],
)
def test_numbers_that_no_model_has_are_one_sentence(digits, home, place, value, said):
    card_file(home, "mine").parent.mkdir(parents=True)
    fields = yaml.safe_load((zoo_dir() / "cross_entropy-digits.yaml").read_text())
    fields[place] = {**fields[place], **value} if place == "training" else value
    card_file(home, "mine").write_text(yaml.safe_dump({**fields, "name": "mine"}))
    with pytest.raises(IbrobustError, match=rf"is damaged.*{said}.*Restore it"):
        model_card("mine")


def test_an_empty_evaluation_in_a_card_is_no_obstacle(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    path = models_dir() / "mine.yaml"
    path.write_text(path.read_text().replace("evaluations: {}", "evaluations: {fgsm: null, audit 0.0313725: null}"))
    add_evaluation("mine", "audit", "head", AUDIT, digits)
    assert list(_stored("mine", "audit")) == ["audit 0.0313725"]


def test_the_blocks_of_a_resfc_decoder_are_counted(digits):
    encoder = Encoder(width=2, latent_dim=8)
    model = ImageClassifier(encoder, ResFCDecoder(8, 10, units=16, num_blocks=2))
    register_model("short", model, dataset=digits)
    assert len(load_model("short").decoder.blocks) == 2


@pytest.mark.parametrize("arguments", ["{day: 2020-01-01}", "{x: {1: a, b: 2}}", "{x: {1: a}}"])
def test_a_card_whose_arguments_are_no_plain_data_is_refused(classifier, digits, home, arguments):
    register_model("mine", classifier, dataset=digits)
    path = home / "models" / "mine.yaml"
    architecture = f"architecture: {{factory: 'a:b', channels: 3, image_size: [8, 8], arguments: {arguments}}}"
    path.write_text(f"{path.read_text()}{architecture}\n")
    with pytest.raises(IbrobustError, match="architecture.arguments.*none of: a number, text"):
        model_card("mine")


def test_a_card_cannot_ask_for_the_size_of_another_file(classifier, digits, home):
    register_model("mine", classifier, dataset=digits)
    card = model_card("mine")
    outside = card.model_copy(
        update={"weights": card.weights.model_copy(update={"file": str(home / "models/mine.yaml")})}
    )
    size = (home / "models/mine.yaml").stat().st_size
    assert weights_size(outside) == size  # of the file of that name beside the card
    outside = card.model_copy(update={"weights": card.weights.model_copy(update={"file": __file__})})
    assert weights_size(outside) is None
