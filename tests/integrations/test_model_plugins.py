"""Models of other packages through entry points, without installing any."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ibrobust.registry import plugins
from ibrobust.registry.plugins import plugin_card_paths

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A function that installs a distribution with one entry point of the group ``ibrobust.models``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def add(name: str, function: Callable[[], object] | None) -> None:
        module = ModuleType(f"plugin_{name}")
        if function is not None:
            vars(module)["models"] = function
            monkeypatch.setitem(sys.modules, module.__name__, module)
        info = site / f"plugin_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin_{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINT_GROUP}]\n{name} = plugin_{name}:models\n")

    plugin_card_paths.cache_clear()
    yield add
    plugin_card_paths.cache_clear()


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    folder = tmp_path / "cards"
    folder.mkdir()
    for name in ("first", "second"):
        (folder / f"{name}.yaml").write_text("")
    return folder


def test_a_folder_of_cards(install: Install, cards: Path) -> None:
    install("folder", lambda: cards)
    assert plugin_card_paths() == {"first": cards / "first.yaml", "second": cards / "second.yaml"}


def test_a_list_of_cards(install: Install, cards: Path) -> None:
    install("files", lambda: [str(cards / "second.yaml")])
    assert plugin_card_paths() == {"second": cards / "second.yaml"}


def broken() -> object:
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'plugin_bad'"),
        (broken, "RuntimeError: out of order"),
        (lambda: 3, "it returned a int"),
        (lambda: "/no/such/folder", "the folder '/no/such/folder' does not exist"),
        (lambda: ["absent.yaml"], "'absent.yaml' is not a card file"),
    ],
)
def test_a_plugin_that_fails_is_named_and_the_rest_goes_on(
    install: Install, cards: Path, function: Callable[[], object] | None, reason: str
) -> None:
    install("bad", function)
    install("good", lambda: cards)
    with pytest.warns(UserWarning, match=f"The model plugin 'bad' .* was skipped: .*{reason}"):
        assert set(plugin_card_paths()) == {"first", "second"}


def test_a_second_model_of_a_name_is_skipped(install: Install, cards: Path) -> None:
    install("one", lambda: cards)
    install("two", lambda: [cards / "first.yaml"])
    with pytest.warns(UserWarning, match="its model 'first' is also in"):
        assert plugin_card_paths()["first"] == cards / "first.yaml"
