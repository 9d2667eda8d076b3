"""What is printed where the output has few letters, and files that are there before anything is printed."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from rich.table import Table

from ibrobust.cli.main import main
from ibrobust.cli.printing import print_table
from ibrobust.cli.streams import accept_any_text
from ibrobust.reporting.marks import BOUND, DAGGER


@pytest.fixture
def run_in(monkeypatch, tmp_path):
    """Run the command line with an output of some encoding; return its exit code and the bytes that it printed."""

    def run_in(encoding: str, *arguments: str) -> tuple[int, bytes]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["ibrobust", *arguments])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as stopped:
                main()
        for stream in streams:
            stream.flush()
        return int(stopped.value.code or 0), streams[0].buffer.getvalue()

    return run_in


@pytest.mark.parametrize(
    "arguments",
    [
        ("attack", "mine", "--eps", "2/255", "--n-examples", "20"),
        ("attack", "mine", "--eps", "2/255", "--n-examples", "20", "--attack", "FGSM"),
    ],
)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_command_ends_well_in_any_encoding_with_its_file_written(run_in, mine, tmp_path, encoding, arguments):
    code, printed = run_in(encoding, *arguments, "--json", str(tmp_path / "results.json"))
    assert code == 0
    text = printed.decode(encoding)
    assert "mine" in text
    assert "?" not in text
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize(("mark", "shown"), [(BOUND, "<"), (DAGGER, "+"), ("ε", "e")])
def test_marks_of_a_table_are_one_letter_in_any_encoding(monkeypatch, encoding, mark, shown):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    accept_any_text()
    stream.write(mark)
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) in (shown, mark)


def test_brackets_and_colons_in_names_are_no_markup(capsys):
    table = Table("model", title="images of [red]", caption="n = 9 of pets[old] and :fire:")
    table.add_row("my[bold]:model")
    print_table(table)
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("images of [red]", "pets[old] and :fire:", "my[bold]:model"):
        assert text in printed


def test_letters_that_an_encoding_lacks_are_replaced_and_columns_stay_in_line(run_in, mine):
    _, printed = run_in("latin-1", "attack", mine, "--eps", "2/255,8/255", "--n-examples", "20")
    lines = [line for line in printed.decode("latin-1").splitlines() if line.startswith("|")]
    assert any(line.replace("|", " ").split()[:2] == ["e", "e"] for line in lines)  # the header, above the numbers
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (("attack", "mine", "--json", "a.json", "--figure", "a.png"), {"a.json", "a.png"}),
        (("attack", "mine", "--json", "a.json", "--attack", "FGSM"), {"a.json"}),
        (("audit", "mine", "--json", "a.json", "--quick"), {"a.json"}),
    ],
)
def test_the_files_are_there_although_printing_fails(run, mine, tmp_path, monkeypatch, arguments, files):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no paper")

    monkeypatch.setattr("ibrobust.cli.printing.print_table", broken)
    monkeypatch.setattr(sys, "argv", ["ibrobust", *arguments, "--n-examples", "9"])
    with pytest.raises(RuntimeError, match="no paper"):
        main()
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == files


def test_the_table_is_printed_although_a_file_cannot_be_written(run, mine, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "results.json")

    monkeypatch.setattr("ibrobust.cli.attacking.write_attacked", full)
    finished = run("attack", mine, "--eps", "0", "--n-examples", "9", "--json", "results.json")
    assert finished.returncode == 2
    assert "mine (head)" in finished.stdout
    assert finished.stderr == (
        "Error: 'results.json' cannot be written (No space left on device): free space on that disk, or choose another."
        "\n"
    )


def test_too_little_memory_is_one_sentence(run, mine, monkeypatch):
    def huge(*_: object, **__: object) -> None:
        torch.empty(2**50)  # four pebibytes: more than a process can address

    monkeypatch.setattr("ibrobust.cli.printing.print_table", huge)
    finished = run("attack", mine, "--eps", "0", "--n-examples", "9")
    assert finished.returncode == 2
    assert finished.stderr.startswith("Error: Not enough memory (")
    assert finished.stderr.endswith("): choose a smaller network, batch size or number of images.\n")


def test_a_home_on_a_full_or_read_only_disk_names_its_variable(run, mine, home, monkeypatch):
    for number, said in ((28, "free space on that disk, or set IBROBUST_HOME"), (30, "set IBROBUST_HOME to a folder")):

        def broken(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number), str(home / "models" / "x.yaml"))

        monkeypatch.setattr("ibrobust.cli.attacking.write_attacked", broken)
        finished = run("attack", mine, "--eps", "0", "--n-examples", "9", "--json", "results.json")
        assert f"cannot be written ({os.strerror(number)}): {said}" in finished.stderr


def test_json_on_standard_output_has_the_table_on_standard_error(run, mine):
    for command in (
        ("attack", mine),
        ("audit", mine, "--quick", "--decoder", "all"),
        ("attack", mine, "--attack", "FGSM"),
    ):
        finished = run(*command, "--eps", "2/255", "--n-examples", "9", "--json", "-")
        assert json.loads(finished.stdout)["dataset"]["name"] == "digits"
        assert "digits" in finished.stderr
        assert not Path("-").exists()


def test_a_command_says_which_files_it_wrote(run, mine):
    finished = run("attack", mine, "--eps", "0", "--n-examples", "9", "--json", "new/a.json", "--figure", "a.png")
    assert "Wrote new/a.json\nWrote a.png\n" in finished.stderr


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_without_source_code(run, mine, monkeypatch):
    def warns(*_: object, **__: object) -> None:
        warnings.warn("beware", stacklevel=1)

    monkeypatch.setattr("ibrobust.cli.attacking.write_attacked", warns)
    finished = run("attack", mine, "--eps", "0", "--n-examples", "9", "--json", "a.json")
    assert "\nWarning: beware\n" in f"\n{finished.stderr}"
    assert ".py" not in finished.stderr


@pytest.mark.parametrize(
    ("state", "said"),
    [((), "--state FOLDER lets the next run resume."), (("--state", "kept"), "the same command resumes.")],
)
def test_an_interrupted_attack_says_how_to_resume(run, mine, monkeypatch, state, said):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ibrobust.cli.attacking.run_attacks", stopped)
    finished = run("attack", mine, "--eps", "0", "--n-examples", "9", "--attack", "FGSM", *state)
    assert finished.returncode == 130
    assert finished.stderr.strip() == f"Interrupted: {said}"


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")])
def test_a_figure_is_of_the_kind_that_its_name_says(run, mine, tmp_path, name, start):
    finished = run("attack", mine, "--eps", "0", "--n-examples", "9", "--figure", name)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "elsewhere" / name).read_bytes().startswith(start)


@pytest.fixture
def no_work(monkeypatch):
    """Let reading data or beginning an attack or a training fail the test: the refusal must come before."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    for name in (
        "ibrobust.cli.attacking.load_dataset",
        "ibrobust.integrations.robustbench.run_benchmark",
        "ibrobust.registry.train",
        "ibrobust.registry.export_model",
    ):
        monkeypatch.setattr(name, work, raising=False)  # a module that nothing has imported yet


PGD = ("--attack", "PGD", "--eps", "0.1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("attack", "mine", "--json", "."), "'.' is a folder: give the name of a file"),
        (("attack", "mine", "--json", "/dev/null"), "'/dev/null' is no ordinary file"),
        (("attack", "mine", "--json", "images.npz"), "end the name 'images.npz' in .json"),
        (("report", "--out", "images.npz"), "end the name 'images.npz' in .html"),
        (("attack", "mine", "--figure", "folder.png"), "is a folder"),
        (("attack", "mine", "--figure", "a.xyz"), "end its name in .png, .pdf or .svg"),
        (("attack", "mine", "--figure", "a"), "end its name in .png, .pdf or .svg"),
        (("attack", "mine", "--json", "a.svg", "--figure", "./a.svg"), "both name 'a.svg'"),
        (
            ("attack", "mine", *PGD, "--json", "a.safetensors", "--save-images", "./a.safetensors"),
            "--save-images both name",
        ),
        (("benchmark", "mine", "--json", "a", "--state", "a"), "--json and --state both name 'a'"),
        (("attack", "mine", "--state", "progress"), "--state needs --attack: the FGSM sweep keeps no progress."),
        (("attack", "mine", "--seed", "0"), "--seed needs --attack"),
        (("attack", "mine", "--attack", "PGD", "--state", "file"), "file"),
        (("attack", "mine", "--json", "nope/new/a.json"), "create it, or correct 'nope/new'"),
        (("attack", "mine", "--figure", "-"), "end its name in .png"),
        (("attack", "mine", "--attack", "PGD", "--eps", "0", "--save-images", "a.npz"), "in .safetensors"),
        (("attack", "mine", "--attack", "PGD", "--eps", "0", "--save-images", "-"), "in .safetensors"),
        (("benchmark", "mine", "--state", "-"), "'-' is the standard output"),
        (("audit", "mine", "--json", "."), "is a folder"),
        (("entropy", "mine", "--json", "."), "is a folder"),
        (("benchmark", "mine", "--json", "."), "is a folder"),
        (("benchmark", "mine", "--state", "."), "is a folder"),
        (("demo", "--output", "file"), "file"),
        (("export", "mine", "file"), "file"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(run, mine, no_work, tmp_path, arguments, said):
    (tmp_path / "elsewhere" / "folder.png").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    finished = run(*arguments)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.startswith("Error: ")
    assert said in finished.stderr
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["file", "folder.png"]
