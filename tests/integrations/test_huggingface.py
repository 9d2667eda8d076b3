"""The Hugging Face form on local folders: there and back, and what must not be loaded."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ibrobust.atomic import write_text
from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.integrations.huggingface import HubModel, add_pretrained, hub_model, load_pretrained, save_pretrained
from ibrobust.models import Encoder, ImageClassifier
from ibrobust.registry import copy_model, list_models, load_model, model_card, register_model
from ibrobust.registry.card import AccuracyRecord
from ibrobust.registry.store import card_paths, read_weights


@pytest.fixture
def folder(registered: str, tmp_path: Path) -> Path:
    return save_pretrained(registered, tmp_path / "saved")


def edit(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_a_model_comes_back_bit_for_bit(folder: Path, registered: str, digits_images: tuple[Tensor, Tensor]) -> None:
    images, _ = digits_images
    loaded = load_pretrained(folder)
    assert torch.equal(loaded(images), load_model(registered)(images))
    assert not loaded.training


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_card_comes_back_as_it_was(registered: str, tmp_path: Path, ascii_only: bool) -> None:
    evaluations = {"small": {"epsilons": [1e-05, 0.1], "accuracy": [math.inf]}, "𝒵": "🙂"}
    card = model_card(registered).model_copy(update={"description": "𝒵 🙂 é", "evaluations": evaluations})
    HubModel(card, read_weights(card, card_paths()[registered])).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(fields, ensure_ascii=ascii_only), encoding="utf-8")  # as others may write it
    back = HubModel.from_pretrained(str(tmp_path)).record
    assert back == card.model_copy(update={"weights": back.weights})


def test_an_encoder_of_fixed_power_comes_back_as_one(
    home: Path, digits_images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        model = ImageClassifier(Encoder(width=2, latent_dim=8, fixed_power=True), nn.Linear(8, 10)).eval()
    register_model("fixed", model, dataset=load_dataset("digits"))
    loaded = load_pretrained(save_pretrained("fixed", tmp_path / "saved"))
    assert torch.equal(loaded(digits_images[0]), load_model("fixed")(digits_images[0]))


def test_the_folder_holds_what_the_hub_expects(folder: Path, registered: str) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: ibrobust\n")
    assert registered in readme
    assert json.loads((folder / "config.json").read_text())["name"] == registered


def test_a_folder_gets_the_readme_of_the_model_that_is_saved_to_it_unless_it_is_the_users_own(
    folder: Path, registered: str
) -> None:
    copy_model(registered, "another")
    save_pretrained("another", folder)
    text = (folder / "README.md").read_text()
    assert "# another\n" in text
    assert f"# {registered}\n" not in text
    (folder / "README.md").write_text("My own words.")
    save_pretrained(registered, folder)
    assert (folder / "README.md").read_text() == "My own words."


def test_a_failed_save_keeps_the_model_that_is_there(
    folder: Path, registered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            save_pretrained(registered, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"model_type": "vit"}', "config.json' exists and is no model card"),
        ("model.safetensors", "", "holds a model.safetensors without a config.json"),
    ],
)
def test_a_model_of_another_library_is_not_replaced(
    registered: str, tmp_path: Path, file: str, text: str, message: str
) -> None:
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / file).write_text(text)
    with pytest.raises(IbrobustError, match=message):
        save_pretrained(registered, tmp_path / "vit")
    assert [(found.name, found.read_text()) for found in (tmp_path / "vit").iterdir()] == [(file, text)]


def test_a_file_is_no_folder_to_save_to(registered: str, tmp_path: Path) -> None:
    (tmp_path / "saved").touch()
    with pytest.raises(IbrobustError, match="saved' cannot be made .a file has this name.: choose another folder"):
        save_pretrained(registered, tmp_path / "saved")


def test_a_readme_rounds_halves_up(registered: str) -> None:
    score = AccuracyRecord(correct=5, total=160)  # 3.125%
    card = model_card(registered).model_copy(update={"clean_accuracy": {"head": score}})
    assert "Clean accuracy: head 3.13% of 160 images." in str(HubModel(card, {}).generate_model_card())


def test_a_folder_that_was_moved_can_be_loaded_without_the_registry(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_images: tuple[Tensor, Tensor]
) -> None:
    expected = load_pretrained(folder)(digits_images[0])
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "empty"))
    assert torch.equal(load_pretrained(str(moved))(digits_images[0]), expected)
    assert list_models("Digits*") == []


def test_a_model_can_be_added_to_another_registry(
    folder: Path, registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_images: tuple[Tensor, Tensor]
) -> None:
    before, expected = model_card(registered), load_model(registered)(digits_images[0])
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "another"))
    add_pretrained(folder, name="pulled")
    assert torch.equal(load_model("pulled")(digits_images[0]), expected)
    assert model_card("pulled").clean_accuracy == before.clean_accuracy
    with pytest.raises(IbrobustError, match="The model 'pulled' already exists"):
        add_pretrained(folder, name="pulled")
    assert add_pretrained(folder, name="pulled", overwrite=True).name == "pulled"
    with pytest.raises(IbrobustError, match="not a safe file name"):
        add_pretrained(folder, name="../escaped")


def test_what_is_sent_to_the_hub_is_this_folder(registered: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {}

    class FakeApi:
        def __init__(self, token: str | None = None) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            sent.update({file.name: file.read_bytes() for file in folder_path.iterdir()})
            return repo_id

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    assert hub_model(registered).push_to_hub("someone/something") == "someone/something"
    assert sent == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_changed_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(IbrobustError, match="SHA-256"):
        load_pretrained(folder)


def test_a_config_cannot_point_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    outside = Path(shutil.move(folder / "model.safetensors", tmp_path / "model.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    edit(folder, weights={**config["weights"], "file": f"../{outside.name}"})
    with pytest.raises(IbrobustError, match="cannot be read"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema_version": 99}, "schema 99"),
        ({"_target_": "os.system"}, "damaged at _target_"),
        ({"record": {"a": 1}}, "damaged at record"),
        ({"tensors": [1]}, "damaged at tensors"),
        ({"width": 8}, "do not fit"),
        ({"decoders": ["resfc"], "clean_accuracy": {}}, "do not fit"),
    ],
)
def test_a_config_that_is_no_card_of_these_weights_is_refused(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    edit(folder, **fields)
    with pytest.raises(IbrobustError, match=message):
        load_pretrained(folder)


def test_pickled_weights_are_not_looked_at(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(IbrobustError, match="cannot be read"):
        load_pretrained(folder)


def test_an_unknown_decoder_is_refused(folder: Path) -> None:
    with pytest.raises(IbrobustError, match="has no decoder 'resfc'"):
        load_pretrained(folder, decoder="resfc")


def test_what_is_neither_folder_nor_repository_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for place, said in ((tmp_path / "no" / "such" / "folder", "is no model: give"), ("nobody/nothing", "is neither")):
        with pytest.raises(IbrobustError, match=f"{said} a folder with config.json"):
            load_pretrained(place)


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(IbrobustError, match="does not exist"):
        HubModel.from_pretrained(str(tmp_path))


def test_a_model_whose_weights_file_says_more_comes_back(registered: str, tmp_path: Path) -> None:
    card = model_card(registered)
    path = card_paths()[registered].parent / card.weights.file
    save_file(load_file(path), path, metadata={"format": "pt"})
    changed = card.weights.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    write_text(card_paths()[registered], card.model_copy(update={"weights": changed}).to_text())
    load_pretrained(save_pretrained(registered, tmp_path / "saved"))
