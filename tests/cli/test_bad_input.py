"""One sentence with the remedy on stderr, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from ibrobust.cli.main import main

TRAIN = ["train", "--dataset", "digits", "--width", "2", "--latent-dim", "8", "--epochs", "1"]


def refused(run, arguments: list[str], *expected: str) -> None:
    finished = run(*arguments)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    message = " ".join(finished.stderr.replace("│", " ").split())
    for part in expected:
        assert part in message


@pytest.mark.parametrize("beta", ["-0.1", "1", "nan"])
def test_beta_outside_its_range(run, beta):
    refused(run, [*TRAIN, f"--beta={beta}"], "Error: The recipe is invalid: beta")


def test_a_batch_too_small_for_the_neighbours(run, home):
    few = [*TRAIN, "--batch-size", "20", "--num-neighbors", "3", "--memory-size", "0"]
    refused(run, few, "batch of 20", "raise the batch size to 40")
    assert not (home / "runs").exists()


def test_a_memory_too_small_for_the_neighbours(run, home):
    refused(run, [*TRAIN, "--memory-size", "200"], "memory of 200", "raise memory_size to 407")
    assert not (home / "runs").exists()


def test_an_option_that_the_objective_does_not_use(run, home):
    options = ["--preset", "soft_w16", "--objective", "cross_entropy", "--epsilon", "8/255"]
    refused(run, [*TRAIN, *options], "'cross_entropy' does not use epsilon", "choose adversarial")
    assert not (home / "runs").exists()


def test_a_device_that_is_not_there(run, home):
    refused(run, [*TRAIN, "--device", "cuda:7"], "device 'cuda:7' is not available: use cpu")
    assert not (home / "runs").exists()


def test_a_missing_data_folder(run):
    refused(run, ["train", "--dataset", "no/such/folder"], "no/such/folder", "a folder with train")


def test_an_unsafe_name(run):
    refused(run, [*TRAIN, "--name", "a/b"], "'a/b' is not a safe file name")


def test_the_letters_of_a_name(run):
    refused(run, [*TRAIN, "--name", "é"], "'é' is not a safe file name", "ASCII letters (a-z, A-Z)")


@pytest.mark.parametrize("name", ["NUL", "com1.x"])
def test_a_name_that_windows_reserves(run, name):
    refused(run, [*TRAIN, "--name", name], f"{name!r} is not a safe file name, because Windows reserves it")


def test_a_run_to_resume_that_does_not_exist(run, home):
    (home / "runs" / "begun" / "checkpoints" / "epoch-00001").mkdir(parents=True)
    (home / "runs" / "done").mkdir()
    resume = [*TRAIN, "--resume", "--name"]
    refused(
        run, [*resume, "bgun"], "no unfinished run 'bgun' (unfinished: begun): correct --name, or leave out --resume"
    )


def test_an_unknown_recipe_field(run):
    refused(run, [*TRAIN, "--set", "depth=3"], "no field 'depth'")


def test_an_assignment_without_value(run):
    refused(run, [*TRAIN, "--set", "depth"], "'depth' is not of the form FIELD=VALUE")


def test_a_setting_that_gives_a_key_twice(run):
    refused(run, [*TRAIN, "--set", "objective_options={a: 1, a: 2}"], "gives a key twice")


def test_a_preset_that_is_not_there(run):
    refused(run, ["train", "--preset", "papre"], "Unknown preset 'papre'", "paper")


def test_a_recipe_file_that_is_not_there(run):
    refused(run, ["train", "--recipe", "none.yaml"], "none.yaml' does not exist: correct the path")


def test_an_unknown_objective(run):
    refused(run, [*TRAIN, "--objective", "crossentropy"], "Unknown objective 'crossentropy'", "cross_entropy")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root may write to")
def test_a_home_without_write_permission(run, monkeypatch):
    monkeypatch.setenv("IBROBUST_HOME", "/sys/kernel/ibrobust")
    refused(run, TRAIN, "not permitted", "/sys/kernel/ibrobust")


def test_a_home_that_is_a_file(run, home):
    home.write_text("")
    refused(run, TRAIN, "Not a directory")


@pytest.mark.parametrize("eps", ["-0.1", "nan", "1.5", "x", "8/0", "0.1,,0.2", ""])
def test_a_wrong_epsilon(run, mine, eps):
    refused(run, ["attack", mine, f"--eps={eps}"], "epsilon")


def test_an_epsilon_of_whole_steps_says_what_was_meant(run, mine):
    refused(run, ["attack", mine, "--eps", "8"], "8 is outside [0, 1]", "fraction of 255", "8/255")


def test_an_unknown_model_offers_the_nearest(run, mine):
    refused(run, ["attack", "mien"], "Unknown model 'mien'", "did you mean mine")


def test_no_model_for_the_data_set(run, tmp_path):
    for folder in (tmp_path / "elsewhere" / "photos" / a / b for a in ("train", "test") for b in ("cat", "dog")):
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "a.png")
    refused(run, ["attack", "--dataset", "photos"], "No stored model was trained on photos", "ibrobust train")


def test_too_few_points_for_an_entropy(run, mine):
    refused(
        run,
        ["entropy", mine, "--n-examples", "20"],
        "too few for 3 neighbours: lower --num-neighbors, or give more points (images)",
    )


def test_an_unknown_decoder(run, mine):
    refused(run, ["attack", mine, "--decoder", "resfc"], "no decoder 'resfc'", "head")


def test_damaged_weights(run, mine, home):
    (weights,) = (home / "models").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(
        run, ["attack", mine], f"The weights file '{weights}' of 'mine' is damaged (its SHA-256 checksum is not the"
    )
    refused(run, ["attack", mine], "restore it from a copy, or add the model again")


def test_a_damaged_card_does_not_hide_the_other_models(run, mine, home):
    (home / "models" / "odd.yaml").write_text("a: [")
    finished = run("list")
    assert finished.returncode == 2
    assert "mine" in finished.stdout
    assert "odd.yaml" in finished.stderr


def test_a_json_file_that_cannot_be_written(run, mine, tmp_path):
    (tmp_path / "file").write_text("")
    finished = run(
        "attack", mine, "--eps", "0", "--n-examples", "10", "--json", str(tmp_path / "file" / "results.json")
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("Error: ")
    assert str(tmp_path / "file") in finished.stderr


def test_the_number_of_images_must_be_positive(run, mine):
    refused(run, ["attack", mine, "--n-examples", "0"], "Error: --n-examples 0 is too small: give at least 1.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--beta", "0,03"], "Error: --beta '0,03' is not a number: write 0.03, with a point."),
        (["train", "--epochs", "x"], "Error: --epochs 'x' is not a whole number: write one such as 3."),
        (["trian"], "Error: No such command 'trian'. Did you mean 'train'?"),
    ],
)
def test_what_no_command_takes(run, arguments, said):
    refused(run, arguments, said)


def test_no_command_shows_the_help(run):
    finished = run()
    assert "Usage" in finished.stdout + finished.stderr


def test_a_defect_of_ours_is_not_dressed_up_as_the_users_error(run, monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError("a defect")

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(broken)
    monkeypatch.setattr("ibrobust.cli.main.app", app)
    monkeypatch.setattr(sys, "argv", ["ibrobust"])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(ZeroDivisionError):
        main()


HUGE = "99999999999999999999999"


@pytest.mark.parametrize(
    "command",
    [
        ["attack", "mine", "--eps", "8/255", "--batch-size", HUGE],
        ["audit", "mine", "--batch-size", HUGE],
        ["benchmark", "mine", "--batch-size", HUGE],
        ["entropy", "mine", "--num-neighbors", HUGE],
        ["attack", "mine", "--eps", "8/255", "--resize", HUGE],
        ["attack", "mine", "--eps", "8/255", "--attack", f"PGD:steps={HUGE}"],
        ["attack", "mine", "--eps", "8/255", "--attack", f"AutoAttack:n_queries={HUGE}"],
        [*TRAIN, "--epochs", HUGE],
        [*TRAIN, "--latent-dim", "99999999999"],
        [*TRAIN, "--set", f"memory_size={HUGE}"],
        ["study", "run", "figure1-demo", "--jobs", HUGE],
    ],
)
def test_a_whole_number_that_torch_cannot_take(run, mine, home, command):
    refused(run, command, "at most 2147483647")  # the largest of 32 bits
    assert not (home / "runs").exists()


def test_a_huge_number_of_a_study(run, tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(f"name: s\nmodels: [x]\nevaluations: {{entropies: {{num_neighbors: {HUGE}}}}}\n")
    refused(run, ["study", "run", str(file)], "num_neighbors", "at most 2147483647")


def test_a_huge_number_of_images_means_all(run, mine):
    finished = run("attack", mine, "--dataset", "digits", "--eps", "8/255", "--n-examples", HUGE)
    assert finished.returncode == 0
    assert "n = 360" in finished.stdout


@pytest.mark.parametrize(
    "command",
    [
        [*TRAIN, "--objective", "cross_entropy"],
        ["study", "run", "figure1-demo"],
        ["add", "timm:resnet18", "--name", "x", "--dataset", "digits", "--weights", "w.safetensors"],
    ],
)
@pytest.mark.parametrize("place", ["a file", "/proc/nohome"])
def test_a_home_that_cannot_be_made(run, monkeypatch, tmp_path, command, place):
    if place == "/proc/nohome" and not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    (tmp_path / "a file").touch()
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / place))

    def read(*arguments: object, **options: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr("ibrobust.data.load.load_dataset", read)
    refused(run, command, "cannot be written (", "set IBROBUST_HOME to a folder that you can write to")


def test_a_recipe_that_is_no_text(run, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    refused(run, ["train", "--recipe", str(file)], "r.yaml' cannot be read: it is no text file, write it in UTF-8")


def test_labels_as_text(run, mine, tmp_path):
    file = tmp_path / "words.npz"
    np.savez(file, images=np.zeros((2, 16, 16, 3), np.uint8), labels=np.array(["cat", "dog"]))
    finished = run("attack", mine, "--dataset", str(file), "--eps", "8/255")
    assert "give whole numbers from 0" in finished.stderr
    assert "float64" not in finished.stderr  # torch lists the types that it takes


def test_a_module_without_the_function(run, mine, tmp_path, monkeypatch):
    (Path.cwd() / "an_attack_file.py").write_text("def darken(model, images, labels, **_):\n    return images\n")
    attack = ["attack", mine, "--dataset", "digits", "--eps", "8/255", "--attack"]
    refused(run, [*attack, "an_attack_file:nofun"], "has no 'nofun': it has darken.")
