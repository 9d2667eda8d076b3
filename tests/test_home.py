"""Where ibrobust keeps its files, also for a user without a home directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from ibrobust.data import load_dataset
from ibrobust.errors import IbrobustError
from ibrobust.home import expanded, home, require_writable_folder
from ibrobust.integrations.doctor import run_checks
from ibrobust.integrations.doctor.quick import CHECKS


@pytest.fixture
def homeless(monkeypatch):
    """Be a user that the system does not know, with nothing in the environment, as in a container."""
    pwd = pytest.importorskip("pwd")

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for variable in ("HOME", "IBROBUST_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)


def test_the_variable_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IBROBUST_HOME", "~/mine")
    assert home() == tmp_path / "mine"


def test_a_relative_home_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IBROBUST_HOME", "mine")
    assert home() == tmp_path / "mine"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert home() == tmp_path / "mine"


def test_a_user_without_a_home_is_told_the_variable(homeless):
    with pytest.raises(IbrobustError, match="no home directory.*export IBROBUST_HOME=FOLDER"):
        home()


def test_a_user_without_a_home_may_set_the_variable(homeless, monkeypatch, tmp_path):
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path))
    assert home() == tmp_path


@pytest.mark.parametrize("path", ["~/images", "~nobody-of-this-name/images"])
def test_an_unknown_home_in_a_path_is_one_sentence(homeless, monkeypatch, tmp_path, path):
    with pytest.raises(IbrobustError, match="'~.*/images' starts with an unknown home directory"):
        expanded(path)
    with pytest.raises(IbrobustError, match="unknown home directory"):
        load_dataset("digits", data_dir=path)
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path))
    with pytest.raises(IbrobustError, match="unknown home directory"):
        load_dataset(path)


def test_the_doctor_names_the_variable_and_raises_nothing(homeless, monkeypatch):
    for name in set(CHECKS) - {"data", "models", "disk"}:
        monkeypatch.delitem(CHECKS, name)
    for check in run_checks():
        assert check.status == "problem"
        assert check.remedy.startswith("export IBROBUST_HOME=FOLDER")


def test_a_full_path_is_left_as_it_is(homeless):
    assert expanded("/a/~b") == Path("/a/~b")


def test_a_check_of_a_folder_leaves_nothing(tmp_path):
    require_writable_folder(tmp_path / "home" / "models")
    assert not list(tmp_path.iterdir())
