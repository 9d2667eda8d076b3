from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from ibrobust import fgsm_sweep, load_model, model_card
from ibrobust.estimators.latent_information import latent_information

TRAIN = ["train", "--dataset", "digits", "--width", "2", "--latent-dim", "8", "--epochs", "1", "--batch-size", "200"]


def test_importing_the_package_needs_neither_torch_nor_robustbench():
    code = "import sys, ibrobust; assert not {'torch', 'robustbench'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_train_list_show_and_attack_as_a_user_types_them(run):
    trained = run(*TRAIN, "--beta", "0.03", "--name", "first")
    assert trained.returncode == 0, trained.stderr
    assert "clean accuracy on 360 test images" in trained.stdout
    assert "first" in run("list").stdout
    assert "beta: 0.03" in run("show", "first", "--yaml").stdout
    attacked = run("attack", "--dataset", "digits", "--eps", "0.01,8/255", "--json", "out/results.json")
    assert attacked.returncode == 0, attacked.stderr
    assert "first" in attacked.stdout
    assert "n = 360 test images of digits" in attacked.stdout


def test_the_table_holds_the_numbers_of_the_json_file_and_of_the_library(run, mine, digits, tmp_path):
    result = run("attack", mine, "--eps", "0.01,8/255", "--n-examples", "100", "--json", "results.json")
    assert result.returncode == 0, result.stderr
    (sweep,) = json.loads((tmp_path / "elsewhere" / "results.json").read_text())["sweeps"]
    test = digits.test.subset(100)
    expected = fgsm_sweep(load_model(mine), test.images, test.labels, [0.01, 8 / 255])
    assert (sweep["correct"], sweep["clean_correct"]) == (list(expected.correct), expected.clean_correct)
    row = next(line for line in result.stdout.splitlines() if "mine" in line)
    assert re.findall(r"\d+\.\d", row)[:3] == [
        f"{100 * value:.1f}" for value in (expected.clean_accuracy, *expected.accuracy)
    ]


def test_the_entropies_are_those_of_the_library(run, mine, digits, tmp_path):
    result = run("entropy", mine, "--n-examples", "100", "--json", "entropies.json")
    assert result.returncode == 0, result.stderr
    assert "n = 100 test images of digits, k = 3, with zero-entropy noise" in " ".join(result.stdout.split())
    record = json.loads((tmp_path / "elsewhere" / "entropies.json").read_text())["models"]["mine"]
    assert record.pop("means_of_gaussians") is False
    test = digits.test.subset(100)
    with torch.no_grad():
        latents = load_model(mine).latents(test.images.float() / 255)
    expected = latent_information(latents, test.labels, digits.num_classes)
    assert record == pytest.approx(expected.to_dict(), rel=1e-4)
    assert f"{record['entropy']:.2f}" in result.stdout


def test_two_attacks_print_the_same(run, mine):
    arguments = ("attack", mine, "--eps", "8/255", "--n-examples", "60")
    assert run(*arguments).stdout == run(*arguments).stdout


def test_a_table_with_many_epsilons_loses_no_number(run, mine):
    epsilons = ",".join(f"{n}/255" for n in range(1, 21))
    result = run("attack", mine, "--eps", epsilons, "--n-examples", "20")
    row = next(line for line in result.stdout.splitlines() if "mine" in line)
    assert len(re.findall(r"\d+\.\d", row)) == 22


def test_attacks_by_name_print_one_table_with_the_worst_case(run, mine, tmp_path):
    arguments = ["attack", mine, "--eps", "2/255,8/255", "--n-examples", "40", "--attack", "FGSM"]
    arguments += ["--attack", "PGD:steps=3,loss=margin", "--json", "results.json", "--state", "state"]
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("Accuracy under attack, %") == 1
    assert first.stdout.count("PGD:loss=margin,steps=3") == 1
    records = json.loads((tmp_path / "elsewhere" / "results.json").read_text())["attacks"]
    assert len(records) == 6  # two attacks and the worst case, at two epsilons each
    worst = {r["epsilon"]: r["robust_accuracy"] for r in records if r["attack"].startswith("worst case")}
    for record in records:
        assert worst[record["epsilon"]] <= record["robust_accuracy"]
    assert run(*arguments).stdout == first.stdout  # from the state, with the same numbers


def test_a_surrogate_of_other_classes_has_its_own_remedy(run, mine):
    for chosen in (
        ("attack", mine, "--attack", "transfer:cross_entropy-w16-s0"),
        ("audit", mine, "--quick", "--surrogate", "cross_entropy-w16-s0"),
    ):
        finished = run(*chosen)
        assert finished.returncode == 2
        assert "'cross_entropy-w16-s0' was trained on the classes of cifar10-jpeg" in finished.stderr
        assert finished.stderr.rstrip().endswith("digits: choose a surrogate model of the same classes.")


def test_a_worst_case_names_its_surrogate_and_l2_takes_epsilons_above_one(run, mine):
    quick = ("attack", mine, "--n-examples", "4", "--attack")
    result = run(*quick, "worst_case:norm=L2,surrogate=knn_ib-digits", "--eps", "1.5")
    assert result.returncode == 0, result.stderr
    assert "surrogate=knn_ib-digits" in "".join(result.stdout.split())
    assert "L2 ε" in result.stdout
    assert " 1.5" in result.stdout
    refused = run(*quick, "worst_case", "--eps", "1.5")
    assert (refused.returncode, "outside [0, 1]" in refused.stderr) == (2, True)
    unknown = run(*quick, "worst_case:surrogate=nothing", "--eps", "0.1")
    assert (unknown.returncode, "'nothing'" in unknown.stderr) == (2, True)


def test_results_go_into_the_card_on_request(run, mine, tmp_path):
    quick = ("attack", mine, "--eps", "2/255", "--n-examples", "40", "--json", "results.json")
    run(*quick)
    assert "fgsm" not in run("show", mine, "--yaml").stdout
    run(*quick, "--store")
    sweep = json.loads((tmp_path / "elsewhere" / "results.json").read_text())["sweeps"][0]
    run(*quick, "--attack", "PGD:steps=2", "--store")
    attack = json.loads((tmp_path / "elsewhere" / "results.json").read_text())["attacks"][0]
    stored = yaml.safe_load(run("show", mine, "--yaml").stdout)["evaluations"]
    assert stored["fgsm"][sweep["decoder"]]["correct"] == sweep["correct"]
    assert stored["attacks"][attack["decoder"]]["results"][0]["robust_accuracy"] == attack["robust_accuracy"]


def test_an_unknown_attack_names_the_nearest(run, mine):
    finished = run("attack", mine, "--attack", "PGDD")
    assert finished.returncode == 2
    assert "Unknown attack 'PGDD'" in finished.stderr


def test_a_figure_is_a_png_file(run, mine, tmp_path):
    assert run("attack", mine, "--eps", "8/255", "--n-examples", "20", "--figure", "fgsm.png").returncode == 0
    assert (tmp_path / "elsewhere" / "fgsm.png").read_bytes().startswith(b"\x89PNG")


def test_a_recipe_file_with_an_option_on_top(run, tmp_path, small_digits_file):
    (tmp_path / "elsewhere" / "recipe.yaml").write_text(
        f"dataset: {small_digits_file}\nwidth: 2\nlatent_dim: 8\nbatch_size: 100\nepochs: 1\nbeta: 0.1\n"
        "num_neighbors: 3\n"
    )
    result = run("train", "--recipe", "recipe.yaml", "--beta", "0.2", "--name", "first")
    assert result.returncode == 0, result.stderr
    shown = run("show", "first", "--yaml").stdout
    assert "beta: 0.2" in shown
    assert "width: 2" in shown


def test_a_second_training_of_one_name_is_refused_unless_it_overwrites(run, mine, small_digits_file):
    train = [*TRAIN, "--name", mine, "--dataset", small_digits_file, "--num-neighbors", "3"]
    assert run(*train).returncode == 2
    assert run(*train, "--overwrite").returncode == 0


KILLED_IN_EPOCH_2 = """
import os, signal, sys
from ibrobust.cli.main import main
from ibrobust.training import trainer

write = trainer.append_json_line

def die(file, record):
    write(file, record)
    if record["epoch"] == 2:  # trained, and not in a checkpoint yet
        os.kill(os.getpid(), signal.SIGKILL)

trainer.append_json_line = die
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that nothing can handle")
def test_a_killed_training_goes_on_with_resume(run, small_digits_file):
    """kill -9 in the second epoch; the finished weights are those of a training that was left alone."""
    arguments = ["train", "--dataset", small_digits_file, "--width", "2", "--latent-dim", "8", "--epochs", "4"]
    arguments += ["--batch-size", "100", "--decoder", "logistic", "--num-neighbors", "3"]
    whole = run(*arguments, "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    cut = [sys.executable, "-c", KILLED_IN_EPOCH_2, *arguments, "--name", "cut"]
    killed = subprocess.run(cut, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run(*arguments, "--name", "cut", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1/4" not in resumed.stderr
    assert "epoch 4/4" in resumed.stderr
    assert model_card("cut").weights.sha256 == model_card("whole").weights.sha256


def test_a_checkout_has_a_launcher():
    launcher = Path(__file__).parents[2] / "cli.py"
    result = subprocess.run([sys.executable, launcher, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("ibrobust ")
