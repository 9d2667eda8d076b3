"""The progress of a long call: who sees it, in which form, and what is left of it."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from rich.console import Console

import ibrobust
from ibrobust import live_line
from ibrobust.live_line import LiveLine
from ibrobust.training.progress import TrainingProgress

MODEL = torch.nn.Flatten()  # images of two pixels: the brighter pixel is the class
IMAGES = torch.tensor([[0.2, 0.8], [0.55, 0.45]]).reshape(2, 1, 1, 2)
LABELS = [1, 0]
RECIPE = ibrobust.Recipe(dataset="digits", objective="cross_entropy", width=1, latent_dim=2, epochs=1, decoders=())


def sweep(**options):
    ibrobust.fgsm_sweep(MODEL, IMAGES, LABELS, [0.1], batch_size=1, **options)


def attacks(**options):
    ibrobust.run_attacks(MODEL, IMAGES, LABELS, attacks="FGSM", epsilons=[0.1], batch_size=1, **options)


def audit(**options):
    ibrobust.audit(MODEL, IMAGES, LABELS, epsilon=0.1, quick=True, **options)


def worst_case(**options):
    ibrobust.worst_case_attack(MODEL, IMAGES, LABELS, epsilon=0.1, **options)


def train(**options):
    ibrobust.train(RECIPE, name="small", overwrite=True, **options)


CALLS = {
    sweep: "FGSM, 2 of 2",
    attacks: "attacks, 2 of 2",
    audit: "audit: done, 13 of 13",
    worst_case: "worst case: untargeted, 2 images are left",
    train: "small: epoch 1/1",
}


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the output of a notebook's cell shows, in the order of time."""
    shown: list[str] = []

    def display(data: dict[str, str], *, display_id: bool, raw: bool) -> SimpleNamespace:
        shown.append(data["text/html"])
        return SimpleNamespace(update=lambda data, raw: shown.append(data["text/html"]))

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(live_line, "SECONDS_BETWEEN_UPDATES", 0.0)
    return shown


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_progress_goes_to_standard_error_if_it_is_asked_for(call, capsys):
    call(progress=True)
    printed = capsys.readouterr()
    assert CALLS[call] in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_nothing_is_printed_where_nobody_looks(call, capsys):
    call()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_by_default_it_is_shown_to_somebody_who_looks(call, capsys, monkeypatch):
    monkeypatch.setattr(live_line, "is_watched", lambda console: True)
    monkeypatch.setattr("ibrobust.registry.train_model.is_watched", lambda console: True)
    call()
    assert CALLS[call] in capsys.readouterr().err


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_it_can_be_switched_off(call, capsys, monkeypatch):
    monkeypatch.setattr(live_line, "is_watched", lambda console: True)
    monkeypatch.setattr("ibrobust.registry.train_model.is_watched", lambda console: True)
    call(progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_function_of_the_callers_own_takes_the_place_of_the_line(capsys, monkeypatch):
    monkeypatch.setattr(live_line, "is_watched", lambda console: True)
    called = []
    sweep(progress=lambda *state: called.append(state))
    worst_case(progress=lambda *state: called.append(state))
    assert called[:3] == [(1, 2), (2, 2), ("untargeted", 2, 2)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("console", "expected"),
    [
        (Console(file=io.StringIO()), False),
        (Console(file=io.StringIO(), force_terminal=True), True),
        (Console(file=io.StringIO(), force_jupyter=True), True),
    ],
    ids=["file", "terminal", "notebook"],
)
def test_a_file_is_not_watched(console, expected):
    assert live_line.is_watched(console) is expected


def test_a_notebook_shows_a_bar_and_keeps_none(notebook):
    with LiveLine("audit <of a model>", Console(force_jupyter=True)) as line:
        line.show(1, 4, "FGSM")
        line.show(0, None, "waiting")
    assert notebook == [
        "",
        '<progress value="1" max="4"></progress> audit &lt;of a model&gt;: FGSM',
        "<progress></progress> audit &lt;of a model&gt;: waiting",
        "",
    ]


def test_a_notebook_shows_a_training(notebook):
    with TrainingProgress(Console(file=io.StringIO(), force_jupyter=True), "m") as progress:
        progress.stage("reading digits")
    assert notebook == ["", '<progress value="0" max="1"></progress> m: reading digits', ""]


def test_a_terminal_is_empty_afterwards():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    with LiveLine("[m]", console) as line:
        line.show(1, 2, "half")
    assert "[m]: half" in console.file.getvalue()
    assert console.file.getvalue().endswith("\x1b[1A\x1b[2K")


def test_a_log_has_a_line_for_each_tenth():
    console = Console(file=io.StringIO())
    with LiveLine("m", console) as line:
        for done in range(101):
            line.show(done, 100)
    assert console.file.getvalue().splitlines() == [f"m, {done} of 100" for done in range(0, 101, 10)]
