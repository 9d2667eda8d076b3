"""Saved adversarial images, and what anyone can say of them."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ibrobust.registry import load_model, model_card


def test_saved_images_show_the_robust_accuracy_and_changed_ones_do_not(run, mine, tmp_path):
    arguments = ("attack", mine, "--eps", "8/255", "--n-examples", "60", "--attack", "PGD:norm=L2,steps=3")
    attacked = run(*arguments, "--save-images", "images.safetensors")
    assert attacked.returncode == 0, attacked.stderr
    path = tmp_path / "elsewhere" / "images.safetensors"

    # Three lines of PyTorch.
    saved, model = load_file(path), load_model(mine)
    size = (saved["adversarial"] - saved["images"]).flatten(1).norm(dim=1).max()
    robust = [model(saved[name]).argmax(dim=1) == saved["labels"] for name in ("images", "adversarial")]
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    record = json.loads(metadata["record"])
    assert 0 < size <= 8 / 255 + 1e-6
    assert (robust[0] & robust[1]).float().mean().item() == torch.tensor(record["robust_accuracy"]).item()
    assert record["norm"] == "L2"

    verified = run("verify", "images.safetensors", mine)
    assert verified.returncode == 0, verified.stderr
    assert ": confirmed" in verified.stdout

    record["attacked_correct"] = "0" * 60
    save_file({**saved, "adversarial": saved["images"] * 0.0}, path, metadata={"record": json.dumps(record)})
    refuted = run("verify", "images.safetensors", mine)
    assert refuted.returncode == 1
    assert "Not counted: " in refuted.stdout
    assert ": not confirmed" in refuted.stdout


def test_the_images_of_another_model_are_a_test_of_transfer(run, mine):
    run("attack", mine, "--eps", "0.9", "--n-examples", "30", "--attack", "FGSM", "--save-images", "i.safetensors")
    other = run("verify", "i.safetensors", "knn_ib-digits")
    assert other.returncode == 0, other.stdout
    assert "made for mine, so this is a test of transfer: knn_ib-digits still classifies" in other.stdout
    assert "of 30 images correctly." in other.stdout
    assert "confirmed" not in other.stdout
    own = run("verify", "i.safetensors", mine)
    assert ": confirmed" in own.stdout
    assert "at most 0.00%" not in own.stdout


def test_a_file_of_another_kind_is_told_plainly(run, mine, tmp_path):
    (tmp_path / "elsewhere" / "x.safetensors").write_bytes(b"no tensors at all")
    finished = run("verify", "x.safetensors", mine)
    assert finished.returncode == 2
    assert "'x.safetensors' holds no adversarial images with a record (it is no safetensors file)" in finished.stderr
    save_file({"weight": torch.zeros(2)}, tmp_path / "elsewhere" / "w.safetensors")
    assert "(it has other contents, such as the weights of a model)" in run("verify", "w.safetensors", mine).stderr


def test_what_cannot_be_saved_or_verified_is_said(run, mine, tmp_path):
    save = ("--attack", "FGSM", "--save-images", "images.safetensors")
    two = run("attack", mine, "--eps", "1/255,2/255", *save)
    assert two.returncode == 2
    assert "one epsilon" in two.stderr
    missing = run("verify", "nothing.safetensors", mine)
    assert missing.returncode == 2
    assert "--save-images" in missing.stderr


def saved_for(run, *arguments: str) -> None:
    finished = run("attack", *arguments, "--eps", "8/255", "--attack", "FGSM", "--n-examples", "40", *SAVE)
    assert finished.returncode == 0, finished.stderr


SAVE = ("--save-images", "i.safetensors")


def test_the_recorded_decoder_is_verified_and_another_one_is_named(run):
    decoders = model_card("knn_ib-digits").decoders
    assert len(decoders) > 1
    saved_for(run, "knn_ib-digits", "--decoder", decoders[1])
    own = run("verify", "i.safetensors", "knn_ib-digits")
    assert own.returncode == 0, own.stdout + own.stderr
    assert ": confirmed" in own.stdout
    other = run("verify", "i.safetensors", "knn_ib-digits", "--decoder", decoders[0])
    assert other.returncode == 0
    assert f"made for knn_ib-digits ({decoders[1]})" in other.stdout
    assert f"knn_ib-digits ({decoders[0]}) still classifies" in other.stdout


def test_old_files_without_the_decoder_are_verified(run, mine, tmp_path):
    saved_for(run, mine)
    path = tmp_path / "elsewhere" / "i.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["class_names"]) == [str(digit) for digit in range(10)]
    save_file(load_file(path), path, metadata={key: metadata[key] for key in ("model", "record")})
    assert ": confirmed" in run("verify", "i.safetensors", mine).stdout


def test_a_model_of_other_classes_is_refused(run, mine):
    saved_for(run, mine)
    finished = run("verify", "i.safetensors", "cross_entropy-w16-s0")
    assert finished.returncode == 2
    assert "was trained on the classes of cifar10-jpeg, which differ" in finished.stderr
    assert finished.stdout == ""
