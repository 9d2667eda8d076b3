from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from torch import nn

import ibrobust
from ibrobust.errors import IbrobustError
from ibrobust.locking import locked
from ibrobust.models import Encoder, ImageClassifier, SampledClassifier
from ibrobust.registry import (
    add_evaluation,
    copy_model,
    list_models,
    load_model,
    model_card,
    register_model,
    storing,
    train,
    update_metrics,
)
from ibrobust.training.recipe import Recipe

TINY = Recipe(dataset="digits", width=2, latent_dim=8, batch_size=200, epochs=1, learning_rate=3e-3)


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


def test_a_gaussian_encoders_prediction_can_be_averaged_over_samples():
    train(TINY.model_copy(update={"objective": "dvib"}), name="tiny")
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
    assert card.training.versions["torch"] == torch.__version__.partition("+")[0]
    assert set(card.training.final_terms) == {"loss", "H[Z|Y]", "H[Z]"}


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
    with pytest.raises(IbrobustError, match="unfinished run of 'tiny'"):
        train(recipe, name="tiny")
    assert train(recipe, name="tiny", resume=True).training.epochs_run == 2


def test_a_finished_run_leaves_metrics_and_no_checkpoints(home):
    train(TINY, name="tiny")
    assert sorted(entry.name for entry in (home / "runs" / "tiny").iterdir()) == [
        "images.json",
        "metrics.jsonl",
        "recipe.yaml",
    ]


def test_a_name_that_another_process_trains_is_refused(home):
    with locked(home / "runs" / "tiny.lock", ""), pytest.raises(IbrobustError, match="trained by another process"):
        train(TINY, name="tiny")
    assert "tiny" not in list_models()


def test_a_model_without_any_decoder_is_refused_before_it_is_trained(home):
    with pytest.raises(IbrobustError, match="no decoder"):
        train(TINY.model_copy(update={"decoders": ()}), name="tiny")
    assert not (home / "runs" / "tiny").exists()


def test_a_registered_classifier_gives_the_same_logits_when_loaded(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(load_model("mine")(images), classifier(images), rtol=1e-4, atol=1e-5)


def test_a_gaussian_encoder_survives_the_registry(digits):
    model = ImageClassifier(Encoder(width=2, latent_dim=16), nn.Linear(8, 10), latent_dim=8).eval()
    register_model("gaussian", model, dataset=digits)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(load_model("gaussian")(images), model(images), rtol=1e-4, atol=1e-5)


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
    with pytest.raises(IbrobustError, match="already a model 'mine'"):
        copy_model("yours", "mine")


def test_a_name_is_taken_once(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    with pytest.raises(IbrobustError, match="already a model 'mine'"):
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

    monkeypatch.setattr(storing, "write_card", die)
    with torch.no_grad():
        classifier.decoder.bias += 1.0
    with pytest.raises(OSError, match="No space"):
        register_model("mine", classifier, dataset=digits, overwrite=True)
    assert torch.equal(load_model("mine").decoder.bias, old)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "con", "NUL.x", "a b", "x" * 101, "dot.", "a\nb"])
def test_an_unsafe_name_is_refused(name, classifier, digits):
    with pytest.raises(IbrobustError, match="safe file name"):
        register_model(name, classifier, dataset=digits)


def test_an_unknown_name_offers_the_nearest(classifier, digits):
    register_model("knn_ib-digits", classifier, dataset=digits)
    with pytest.raises(IbrobustError, match="did you mean knn_ib-digits"):
        load_model("knn-ib-digits")


def test_a_first_users_unknown_name_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.setattr("ibrobust.registry.store.zoo_dir", lambda: tmp_path / "no zoo")
    with pytest.raises(IbrobustError, match="ibrobust train makes one"):
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
    with pytest.raises(IbrobustError, match="weights of 'mine' cannot be read"):
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


def test_models_are_found_by_their_data_set(classifier, digits):
    register_model("mine", classifier, dataset=digits)
    assert list_models("mine", dataset_fingerprint=digits.fingerprint) == ["mine"]
    assert list_models("mine", dataset_fingerprint="0" * 64) == []


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


def test_the_public_names_are_all_there():
    for name in ibrobust.__all__:
        assert getattr(ibrobust, name) is not None
