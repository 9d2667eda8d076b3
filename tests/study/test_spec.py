"""The study file: what is read, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ibrobust.errors import IbrobustError
from ibrobust.study import expand, load_study, prepare_study, shipped_studies, stored_study
from ibrobust.study.checks import check_study

SMALLEST = {"name": "mine", "base": {"dataset": "digits", "epochs": 2}, "grids": [{"beta": [0.1]}]}


@pytest.fixture
def write(tmp_path: Path):
    def write(**fields: object) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**SMALLEST, **fields}))
        return str(path)

    return write


def test_epsilons_are_written_as_fractions_or_decimals(write):
    study = load_study(write(evaluations={"sweep": {"eps": ["8/255", 0.1, 0, "0.5"]}}))
    assert study.evaluations.sweep.eps == (8 / 255, 0.1, 0.0, 0.5)


def test_a_study_is_the_same_after_it_was_written(write):
    study = load_study(write(evaluations={"sweep": {"eps": ["1/255", "7/255"]}, "audit": {"eps": "3/255"}}))
    prepare_study(study)
    assert stored_study("mine") == study


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grids": []}, "grids"),
        ({"grids": [{"beta": 0.1}]}, "grids.0.beta"),
        ({"grids": [{"beta": []}]}, "grids.0.beta"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"name": "a/b"}, "not a safe file name"),
        ({"figures": ["fig1"]}, "figures.0"),
        ({"evaluations": {"sweep": {"eps": ["8/0"]}}}, "not a number"),
        ({"evaluations": {"sweep": {"eps": [8]}}}, "outside [0, 1]"),
        ({"evaluations": {"sweep": {"eps": [[1]]}}}, "not a number"),
        ({"evaluations": {"sweep": {"eps": [True]}}}, "not a number"),
        ({"evaluations": {"sweep": {"eps": []}}}, "evaluations.sweep.eps is empty: give at least one value"),
        ({"evaluations": {"sweep": {"eps": [0.1], "decoders": ["gmm"]}}}, "evaluations.sweep.decoders.0"),
        ({"evaluations": {"sweep": {"eps": [0.1], "n_examples": 0}}}, "evaluations.sweep.n_examples"),
        ({"evaluations": {"attack": {}}}, "unknown field 'evaluations.attack' (did you mean attacks?)"),
        (
            {"evaluations": {"attacks": {"attacks": [{"attack": "PGD", "epss": [0.1]}]}}},
            "unknown field 'evaluations.attacks.attacks.0.epss' (did you mean eps?)",
        ),
        ({"slurm": {"minutes": 0}}, "slurm.minutes = 0 is too small: give at least 1"),
        ({"slurm": {"minutes": "5\nrm"}}, "slurm.minutes"),
        ({"slurm": {"partition": "cpu\ntouch planted"}}, "is not a name of a Slurm partition"),
        ({"slurm": {"partition": "cpu\n"}}, "is not a name of a Slurm partition"),
        ({"slurm": {"partition": "cpu;id"}}, "is not a name of a Slurm partition"),
        ({"slurm": {"partition": "--wrap=id"}}, "is not a name of a Slurm partition"),
        ({"slurm": {"partition": ""}}, "is not a name of a Slurm partition"),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(write, fields, said):
    with pytest.raises(IbrobustError) as refused:
        load_study(write(**fields))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_list_with_one_wrong_value_is_not_called_empty(write):
    with pytest.raises(IbrobustError) as refused:
        load_study(write(evaluations={"sweep": {"eps": [8]}}))
    assert "empty" not in str(refused.value)


@pytest.mark.parametrize("partition", ["cpu", "gpu_a100-80.short", "cpu,gpu", None])
def test_a_partition_as_clusters_name_them(write, partition):
    assert load_study(write(slurm={"partition": partition})).slurm.partition == partition


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"evaluations": {"attacks": {"attacks": ["PDG"], "eps": [0.1]}}}, "Unknown attack 'PDG'"),
        ({"grids": [{"objective": ["crossentropy"]}]}, "did you mean cross_entropy"),
        ({"evaluations": {"information_plane": {"epochs": [1, 3]}}}, "needs epoch 3"),
        (
            {"grids": [{"objective": ["dvib"]}], "evaluations": {"information_plane": {"epochs": [1]}}},
            "gives distributions",
        ),
        ({"figures": ["fgsm"]}, "needs the evaluation 'sweep'"),
        ({"figures": ["attacks"]}, "needs the evaluation 'attacks'"),
        ({"figures": ["information_plane"]}, "needs the evaluation 'information_plane'"),
        ({"grids": [{"beta": [2]}]}, "beta"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_trained(write, home, fields, said):
    with pytest.raises(IbrobustError) as refused:
        prepare_study(load_study(write(**fields)))
    assert said in str(refused.value)
    assert not (home / "studies").exists()


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_a_file_that_is_no_study(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(IbrobustError, match=r"odd\.yaml"):
        load_study(str(path))


def test_an_unknown_study_offers_those_there_are():
    with pytest.raises(IbrobustError, match=r"Unknown study 'figure9'.*figure1-demo"):
        load_study("figure9")


def test_another_data_set_and_name_take_the_place_of_the_files(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = load_study(write(), dataset="images", name="other")
    assert study.base["dataset"] == str(tmp_path / "images")
    assert study.name == "other"
    assert study.base["epochs"] == 2


def test_a_study_that_was_changed_is_refused(write):
    prepare_study(load_study(write()))
    with pytest.raises(IbrobustError, match=r"another study 'mine'.*epochs was 2 and is 3.*`name`"):
        prepare_study(load_study(write(base={**SMALLEST["base"], "epochs": 3})))
    with pytest.raises(IbrobustError, match=r"with other grids"):
        prepare_study(load_study(write(grids=[{"beta": [0.1, 0.2]}])))


@pytest.mark.parametrize(
    "changed",
    [
        {"title": "A title"},
        {"slurm": {"minutes": 240}},
        {"evaluations": {"sweep": {"eps": [0.1]}}, "figures": ["fgsm"]},
    ],
)
def test_what_no_result_depends_on_may_change_and_is_stored(write, changed):
    evaluations = changed.get("evaluations", {})
    prepare_study(load_study(write(evaluations=evaluations)))
    wanted = load_study(write(**changed))
    prepare_study(wanted)
    assert stored_study("mine") == wanted
    with pytest.raises(IbrobustError, match=r"another study 'mine' \(with other grids\)"):
        prepare_study(load_study(write(evaluations=evaluations, title="Another", grids=[{"beta": [0.2]}])))
    assert stored_study("mine") == wanted


def test_a_study_as_it_was_run_is_found_by_name_and_by_file(write):
    run = load_study(write(), dataset="elsewhere")
    prepare_study(run)
    assert stored_study("mine") == run
    assert stored_study(write()) == run


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_a_study_that_ships_can_be_run(name):
    study = load_study(name)
    assert study.name == name
    check_study(study)
    assert study.title
    assert study.figures


def test_each_figure_of_the_paper_ships_at_three_scales():
    figures = {f"figure{n}{scale}" for n in (1, 2, 3) for scale in ("", "-small", "-demo")}
    assert set(shipped_studies()) == figures | {"zoo", "zoo-lossless"}


@pytest.mark.parametrize(("scale", "dataset", "width"), [("", "cifar10", 64), ("-small", "cifar10", 16)])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_scale_of_a_study_is_what_its_name_says(number, scale, dataset, width):
    for cell in expand(load_study(f"figure{number}{scale}")):
        assert (cell.recipe.dataset, cell.recipe.width) == (dataset, width)


def test_another_data_set_does_not_silently_leave_those_of_a_grid(write, tmp_path, monkeypatch):
    file = write(grids=[{"dataset": ["digits", "images.npz"]}])
    with pytest.raises(IbrobustError, match="has its own data sets, and 'cifar10-jpeg' would not replace them"):
        load_study(file, dataset="cifar10-jpeg")
    monkeypatch.chdir(tmp_path)
    assert load_study(file).grids[0]["dataset"] == ["digits", str(tmp_path / "images.npz")]
