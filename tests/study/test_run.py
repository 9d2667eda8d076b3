"""Studies with real cells on digits: run whole, killed, failed, changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.estimators import latent_information
from ibrobust.home import models_dir, runs_dir
from ibrobust.registry import copy_model, list_models, load_model, model_card
from ibrobust.study import Study, expand, gather_records, prepare_study, run_cell, run_study, study_states
from ibrobust.study import measure as measure_module
from ibrobust.study import run as run_module
from ibrobust.study.state import CellState, cell_folder, hold, write_state
from ibrobust.study.summary import report_cells

GRIDS = ({"objective": ["knn_ib"], "beta": [0.1], "noise": [True]}, {"objective": ["cross_entropy"]})
EVALUATIONS = {
    "sweep": {"eps": ["2/255", "8/255"], "n_examples": 40, "decoders": ["logistic"]},
    "attacks": {"attacks": ["FGSM", "PGD:steps=2"], "eps": ["8/255"], "n_examples": 20, "decoders": ["logistic"]},
    "audit": {"n_examples": 16, "decoders": ["logistic"]},
    "train_accuracy": True,
    "information_plane": {"epochs": [1, 3], "n_examples": 120},
}


@pytest.fixture(autouse=True)
def short_fits(monkeypatch) -> None:
    """How well the decoder of the information plane is fitted is tested elsewhere."""
    monkeypatch.setattr(latent_information, "DECODER_STEPS", 4)


@pytest.fixture
def trained_epochs(monkeypatch) -> list[tuple[str, int]]:
    """Every epoch that is trained from now on, with the folder of its cell."""
    seen: list[tuple[str, int]] = []
    take = run_module.snapshot_taker

    def counting(folder, epochs):
        snapshot = take(folder, epochs)

        def count(epoch, encoder):
            seen.append((folder.name, epoch))
            snapshot(epoch, encoder)

        return count

    monkeypatch.setattr(run_module, "snapshot_taker", counting)
    return seen


def numbers(path: Path) -> pd.DataFrame:
    """Return the records that do not depend on the time of day."""
    table = pd.read_csv(path)
    return table[table.quantity != "seconds_per_epoch"].reset_index(drop=True)


def status_of(study) -> list[str]:
    return [state.status for state in study_states(study)]


def test_a_study_measures_everything_it_names(make_study):
    study = make_study(*GRIDS, base={"epochs": 3}, evaluations=EVALUATIONS)
    assert [state.status for state in run_study(study)] == ["done", "done"]
    table = pd.read_csv(study.folder / "records.csv")

    for cell in expand(study):
        of_cell = table[table.cell == cell.name]
        counts = of_cell.quantity.value_counts().to_dict()
        decoders = len(model_card(cell.model).decoders)
        noisy = cell.recipe.objective == "knn_ib"
        assert counts == {
            "test_accuracy": decoders,
            "train_accuracy": decoders,
            "final_loss": 1,
            "seconds_per_epoch": 1,
            "clean_accuracy": 1 + 1,  # of the sweep's images, and of the attacks' fewer ones
            "zero_gradient_share": 1,
            "nonfinite_gradient_share": 1,
            "accuracy": 2 + 2,  # the sweep's epsilons, the attacks
            "robust_accuracy": 2,
            "worst_case_accuracy": 1,
            "audit_worst_case_accuracy": 1,
            "entropy": 2,
            "conditional_entropy": 2,
            "label_information": 2,
            **({"noise_floor": 2} if noisy else {}),
        }
        card = model_card(cell.model)
        test = of_cell[of_cell.quantity == "test_accuracy"].set_index("decoder").value
        assert {name: record.accuracy for name, record in card.clean_accuracy.items()} == test.to_dict()
        verdict = of_cell[of_cell.quantity == "audit_worst_case_accuracy"].verdict.item()
        assert card.evaluations["audit 0.0313725"]["logistic"]["verdict"] == verdict
        attacks = of_cell[of_cell.quantity == "robust_accuracy"].value
        assert of_cell[of_cell.quantity == "worst_case_accuracy"].value.item() <= attacks.min()
    # What the records were made from is gone, the models stay.
    assert sorted(path.name for path in cell_folder(study, expand(study)[0].name).iterdir()) == [
        "results.json",
        "state.json",
    ]
    load_model(expand(study)[0].model)


def test_a_finished_cell_is_not_touched_again(make_study, trained_epochs):
    study = make_study({"beta": [0.1]}, evaluations={"information_plane": {"epochs": [1], "n_examples": 120}})
    run_study(study)
    (cell,) = expand(study)
    records = cell_folder(study, cell.name) / "results.json"
    before = (records.stat().st_mtime_ns, records.stat().st_ino)
    assert trained_epochs == [(cell.name, 1)]
    run_study(study, retry_failed=True)
    run_cell(study, cell.name)
    assert trained_epochs == [(cell.name, 1)]
    assert (records.stat().st_mtime_ns, records.stat().st_ino) == before


@pytest.mark.parametrize("model_is_there", [True, False])
def test_a_finished_cell_is_not_trained_again_for_an_audit_by_older_rules(make_study, trained_epochs, model_is_there):
    plane = {"information_plane": {"epochs": [1], "n_examples": 120}}
    study = make_study({"beta": [0.1]}, evaluations={**plane, "audit": EVALUATIONS["audit"]})
    run_study(study)
    (cell,) = expand(study)
    path = cell_folder(study, cell.name) / "results.json"
    content = json.loads(path.read_text())
    (audit,) = content["decoders"]["logistic"]["audits"]
    path.write_text(json.dumps({**content, "decoders": {"logistic": {"audits": [{**audit, "audit_version": 0}]}}}))
    if not model_is_there:
        (models_dir() / f"{cell.model}.yaml").unlink()
    run_study(study)
    assert trained_epochs == [(cell.name, 1)]
    assert status_of(study) == ["done"]
    after = json.loads(path.read_text())
    assert after["information_plane"] == content["information_plane"]
    assert (after["decoders"]["logistic"]["audits"] == [audit]) is model_is_there


@pytest.fixture
def trained_models(monkeypatch) -> list[str]:
    """The name of every model that is trained from now on."""
    names: list[str] = []
    train = run_module.train

    def counting(recipe, *, name, **options):
        names.append(name)
        return train(recipe, name=name, **options)

    monkeypatch.setattr(run_module, "train", counting)
    return names


SWEEP = {"sweep": {"eps": ["8/255"], "n_examples": 40}}


def test_the_curves_of_a_report_are_those_of_the_models_own_training(make_study):
    study = make_study({"seed": [0]})
    run_study(study)
    (cell,) = report_cells(study)
    assert [set(terms) for terms in cell["training"]] == [set(model_card("tiny-knn_ib").training.final_terms)]
    path = runs_dir() / "tiny-knn_ib" / "metrics.jsonl"
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, "loss": line["loss"] + 1.0}) + "\n")  # of another training of this name
    (cell,) = report_cells(study)
    assert cell["training"] == []


def test_a_model_of_the_same_recipe_is_taken_over(make_study, trained_models):
    first = make_study({"seed": [0, 1]}, evaluations=SWEEP)
    second = make_study({"seed": [1, 2]}, evaluations=SWEEP, name="second")
    run_study(first)
    assert [state.status for state in run_study(second)] == ["done", "done"]
    cells = [cell.model for study in (first, second) for cell in expand(study)]
    assert trained_models == [cells[0], cells[1], cells[3]]
    tables = [numbers(study.folder / "records.csv") for study in (first, second)]
    of_the_seed = [table[table.seed == 1].drop(columns=["study", "model"]).reset_index(drop=True) for table in tables]
    pd.testing.assert_frame_equal(*of_the_seed)
    assert model_card(cells[2]).weights.sha256 == model_card(cells[1]).weights.sha256


def test_a_model_of_other_images_is_not_taken_over(make_study, trained_models, tmp_path):
    folder = tmp_path / "images"
    write_images(folder, shade=0)
    base = {"dataset": str(folder), "batch_size": 20, "memory_size": 0}
    run_study(make_study({"seed": [0]}, base=base, evaluations=SWEEP))
    write_images(folder, shade=1)
    run_study(make_study({"seed": [0]}, base=base, evaluations=SWEEP, name="second"))
    assert len(trained_models) == 2


def test_a_model_that_started_from_another_is_not_taken_over(make_study, trained_models):
    run_study(make_study({"seed": [5]}, base={"objective": "cross_entropy"}, name="start"))
    (start,) = trained_models
    base = {"objective": "cross_entropy", "warm_start": start}
    run_study(make_study({"seed": [0]}, base=base))
    # The other model is replaced by one of the same form, so that this is another training.
    path = models_dir() / f"{start}.yaml"
    path.rename(path.with_suffix(".old"))
    run_study(make_study({"seed": [6]}, base={"objective": "cross_entropy"}, name="restart"))
    copy_model(trained_models[-1], start)
    run_study(make_study({"seed": [0]}, base=base, name="second"))
    assert [name.partition("-")[0] for name in trained_models] == ["start", "tiny", "restart", "second"]
    first, second = (model_card(trained_models[place]).weights.sha256 for place in (1, 3))
    assert first != second


def write_images(folder: Path, *, shade: int) -> None:
    """Write ten small images of each of two classes for training and for testing."""
    for split in ("train", "test"):
        for label in range(2):
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(10):
                Image.new("RGB", (8, 8), (100 * label, 10 * number, shade)).save(place / f"{number}.png")


def run_until_killed(study: Study, folder: Path, patch: str) -> None:
    """Run a study in a process of its own, which `patch` makes kill itself with a signal that nothing can handle."""
    program = textwrap.dedent(
        """
        import os, signal, sys
        from ibrobust.estimators import latent_information
        from ibrobust.study import load_study, measure, run, run_study

        latent_information.DECODER_STEPS = 4

        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    program += textwrap.dedent(patch) + "\nrun_study(load_study(sys.argv[1]))\n"
    file = folder / "study.yaml"
    file.write_text(study.to_text())
    finished = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr


@pytest.fixture
def study(make_study):
    """Two cells that are trained for three epochs, with what takes longest to measure."""
    evaluations = {
        "sweep": EVALUATIONS["sweep"],
        "audit": {"n_examples": 8},
        "information_plane": {"epochs": [1, 2, 3], "n_examples": 120},
    }
    return make_study({"beta": [0.1, 0.2]}, base={"epochs": 3}, evaluations=evaluations)


needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that nothing can handle")


@needs_sigkill
def test_an_attack_that_needs_more_classes_is_refused_before_any_cell_is_trained(make_study, monkeypatch):
    digits = load_dataset("digits")
    halves = [replace(split, labels=split.labels % 2) for split in (digits.train, digits.test)]
    binary = replace(digits, train=halves[0], test=halves[1], class_names=("even", "odd"))
    monkeypatch.setattr("ibrobust.study.checks.load_dataset", lambda *_, **__: binary)
    study = make_study({"beta": [0.1]}, evaluations={"attacks": {"attacks": ["FGSM", "APGDT"], "eps": [0.1]}})
    with pytest.raises(IbrobustError, match="APGDT needs 4 classes, but the model has 2"):
        run_study(study)
    assert not study.folder.exists()


def test_a_study_that_was_killed_in_training_goes_on_from_the_checkpoint(study, trained_epochs, tmp_path):
    _, second = expand(study)
    run_until_killed(
        study,
        tmp_path,
        f"""
        take = run.snapshot_taker
        def deadly(folder, epochs):
            def hook(epoch, encoder):
                take(folder, epochs)(epoch, encoder)
                if folder.name == {second.name!r} and epoch == 2:  # trained, and not in a checkpoint yet
                    die()
            return hook
        run.snapshot_taker = deadly
        """,
    )
    assert status_of(study) == ["done", "interrupted"]
    lines = (runs_dir() / second.model / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]

    assert [state.status for state in run_study(study)] == ["done", "done"]
    assert trained_epochs == [(second.name, 2), (second.name, 3)], "the first was not trained again, the second went on"
    assert model_card(second.model).training.epochs_run == 3

    whole = study.model_copy(update={"name": "whole"})
    run_cell(whole, second.name)
    found, expected = (numbers(gather_records(each)) for each in (study, whole))
    found = found[found.cell == second.name].reset_index(drop=True)
    varying = ["study", "model"]
    pd.testing.assert_frame_equal(found.drop(columns=varying), expected.drop(columns=varying), check_exact=True)


@needs_sigkill
def test_a_study_that_was_killed_while_measuring_measures_the_rest(study, trained_epochs, monkeypatch, tmp_path):
    _, second = expand(study)
    run_until_killed(study, tmp_path, "measure.audit = lambda *a, **k: die()")
    assert status_of(study) == ["interrupted", "waiting"]

    swept = []
    sweep = measure_module.fgsm_sweep
    monkeypatch.setattr(measure_module, "fgsm_sweep", lambda *a, **k: swept.append(a) or sweep(*a, **k))
    assert [state.status for state in run_study(study)] == ["done", "done"]
    assert {name for name, _ in trained_epochs} == {second.name}, "the first cell's training was over"
    assert len(swept) == 1, "and so was its sweep"


def test_a_lost_snapshot_is_made_again_by_training(make_study, trained_epochs, monkeypatch):
    study = make_study(
        {"beta": [0.1]}, base={"epochs": 2}, evaluations={"information_plane": {"epochs": [1], "n_examples": 120}}
    )
    (cell,) = expand(study)
    prepare_study(study)

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_cell(study, cell.name)
    assert status_of(study) == ["interrupted"]
    weights = model_card(cell.model).weights
    (cell_folder(study, cell.name) / "snapshots" / "epoch-1.safetensors").unlink()

    run_study(study)
    assert status_of(study) == ["done"]
    assert trained_epochs == [(cell.name, 1), (cell.name, 2)] * 2
    assert model_card(cell.model).weights == weights, "the same training gives the same model"


def test_a_failed_cell_stays_failed_and_the_others_go_on(make_study, monkeypatch):
    study = make_study(
        {"beta": [0.2, 0.1]},
        evaluations={"information_plane": {"epochs": [1], "n_examples": 120}},
    )
    train = run_module.train

    def unreliable(recipe, **options):
        if recipe.beta == 0.2:
            raise IbrobustError("the loss is not finite")
        return train(recipe, **options)

    monkeypatch.setattr(run_module, "train", unreliable)
    bad, good = (cell.name for cell in expand(study))
    states = run_study(study)
    assert [state.status for state in states] == ["failed", "done"]
    assert states[0].error == "the loss is not finite"
    assert "Traceback" in (cell_folder(study, bad) / "error.txt").read_text()
    assert list(pd.read_csv(study.folder / "records.csv").cell.unique()) == [good]

    stamp = study_states(study)[0].updated, (cell_folder(study, bad) / "state.json").stat().st_mtime_ns
    run_study(study)
    assert (study_states(study)[0].updated, (cell_folder(study, bad) / "state.json").stat().st_mtime_ns) == stamp, (
        "nothing is retried silently"
    )


@pytest.mark.parametrize(
    ("grid", "evaluations", "said"),
    [
        ({"objective": ["knn_ib"], "dropconnect": [0.5]}, {}, "trains no linear head"),
        ({"num_neighbors": [60], "memory_size": [200]}, {}, "too few for 60 neighbours"),
        ({"beta": [0.1]}, {"sweep": {"eps": [0.1], "decoders": ["head"]}}, "'sweep' is for head"),
        ({"decoders": [[]]}, {}, "no decoder"),
        (
            {"beta": [0.1]},
            {"information_plane": {"epochs": [1], "n_examples": 20}},
            "plane' would have too few test images .* 3 neighbours .1.: raise",
        ),
        (
            {"beta": [0.1]},
            {"entropies": {"num_neighbors": 500}},
            "'entropies' would have too few test images .* 500 neighbours",
        ),
        ({"beta": [0.1]}, {"audit": {"surrogate": "nobody"}}, "Unknown model 'nobody'"),
        ({"beta": [0.1]}, {"audit": {"attacks": ["transfer:nobody"]}}, "Unknown model 'nobody'"),
        ({"beta": [0.1]}, {"audit": {"attacks": ["PGD:norm=L2"]}}, "is in L2, but the audit is in Linf"),
        ({"beta": [0.1]}, {"audit": {"attacks": ["PGDD"]}}, "PGDD"),
        (
            {"beta": [0.1]},
            {"attacks": {"attacks": ["BIM:alpha=0"], "eps": [0.1]}},
            "option alpha is 0: a number above 0",
        ),
    ],
)
def test_a_cell_that_could_not_be_made_or_measured_is_named_before_any_is_trained(make_study, grid, evaluations, said):
    study = make_study(grid, evaluations=evaluations)
    with pytest.raises(IbrobustError, match=said):
        run_study(study)
    assert not study.folder.exists()


def test_an_audit_transfers_from_the_model_that_the_study_names(make_study):
    run_study(make_study({"objective": ["cross_entropy"], "decoders": [[]]}, name="others"))
    (other,) = list_models("others-*")
    study = make_study(
        {"objective": ["cross_entropy"], "seed": [1]},
        evaluations={"audit": {"n_examples": 16, "surrogate": other, "decoders": ["head"]}},
    )
    run_study(study)
    (model,) = list_models("tiny-*")
    assert model_card(model).evaluations["audit 0.0313725"]["head"]["surrogate"] == other


def test_a_failed_cell_is_run_again_on_request(make_study, monkeypatch):
    study = make_study({"beta": [0.1]})
    broken = {"yes": True}
    train = run_module.train

    def unreliable(*arguments, **options):
        if broken["yes"]:
            raise RuntimeError("the disk\nis full")
        return train(*arguments, **options)

    monkeypatch.setattr(run_module, "train", unreliable)
    (state,) = run_study(study)
    assert (state.status, state.error) == ("failed", "RuntimeError: the disk is full")
    broken["yes"] = False
    assert [state.status for state in run_study(study)] == ["failed"]
    (state,) = run_study(study, retry_failed=True)
    assert (state.status, state.error) == ("done", "")


def test_a_cell_that_is_tried_again_does_not_keep_its_old_error(make_study):
    study = make_study({"beta": [0.1], "seed": [0, 1]})
    for cell in expand(study):
        write_state(study, CellState(cell.name, "failed", error="The disk is full."))
    at_launch = []
    run_study(study, launch=lambda study, cells: at_launch.extend(study_states(study)))
    assert at_launch == study_states(study)
    assert {(state.status, state.error) for state in at_launch} == {("failed", "The disk is full.")}
    at_launch.clear()
    run_study(study, retry_failed=True, launch=lambda study, cells: at_launch.extend(study_states(study)))
    assert {(state.status, state.error) for state in at_launch} == {("waiting", "")}


def test_two_processes_do_not_work_on_one_cell(make_study):
    study = make_study({"beta": [0.1]})
    prepare_study(study)
    (cell,) = expand(study)
    with hold(study, cell.name), pytest.raises(IbrobustError, match="another process"):
        run_cell(study, cell.name)
    assert status_of(study) == ["waiting"]


def test_a_cell_whose_process_is_gone_is_interrupted_and_not_running(make_study):
    study = make_study({"beta": [0.1]})
    (cell,) = expand(study)
    folder = cell_folder(study, cell.name)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"cell": cell.name, "status": "running", "epoch": 2, "epochs": 9}))
    with hold(study, cell.name):
        assert status_of(study) == ["running"]
    (state,) = study_states(study)
    assert (state.status, state.epoch, state.epochs) == ("interrupted", 2, 9)


def test_someone_elses_model_of_the_same_name_is_not_replaced(make_study):
    study = make_study({"beta": [0.1]})
    (cell,) = expand(study)
    run_study(make_study({"beta": [0.1]}, base={"seed": 5}))
    weights = sorted(models_dir().iterdir())
    for path in (study.folder / "study.yaml", cell_folder(study, cell.name) / "state.json"):
        path.unlink()
    (state,) = run_study(study)
    assert state.status == "failed"
    assert "another recipe, or was not trained by ibrobust" in state.error
    assert sorted(models_dir().iterdir()) == weights


def test_a_finished_cell_keeps_its_records_if_its_name_was_given_to_a_model_of_another_recipe(make_study):
    study = make_study({"beta": [0.1]})
    run_study(study)
    (cell,) = expand(study)
    before = (study.folder / "records.csv").read_text()
    (models_dir() / f"{cell.model}.yaml").unlink()
    copy_model("knn_ib-digits", cell.model)
    assert [(state.status, state.error) for state in run_study(study)] == [("done", "")]
    assert (study.folder / "records.csv").read_text() == before
    (shown,) = report_cells(study)
    assert shown["status"] == "done"
    assert shown["recipe"].items() <= cell.recipe.model_dump(mode="json").items()


def test_an_unknown_cell(make_study):
    with pytest.raises(IbrobustError, match="no cell 'nothing'"):
        run_cell(make_study({"beta": [0.1]}), "nothing")


def test_a_study_leaves_the_working_folder_alone(make_study, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_study(make_study({"beta": [0.1]}))
    assert os.listdir(elsewhere) == []  # noqa: PTH208
