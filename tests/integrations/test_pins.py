"""Requirements that the installation broke, on planted packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ibrobust.integrations import doctor
from ibrobust.integrations.doctor import pins, quick


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    requires: tuple[str, ...] = ()

    @property
    def metadata(self) -> dict[str, str]:
        return {"Name": self.name}


@pytest.fixture
def broken(monkeypatch) -> Callable[..., list[str]]:
    def pins_of(*requirements: str) -> list[str]:
        planted = [Package("attacks", "3.5", requirements), Package("Requests", "2.32")]
        monkeypatch.setattr(pins, "distributions", lambda: planted)
        return pins.broken_pins()

    return pins_of


@pytest.mark.parametrize(
    "requirement",
    ["requests", "requests>=2.25", "missing==1", "requests==2.25; extra == 'test'", "requests<2; python_version < '3'"],
)
def test_what_is_met_or_missing_or_does_not_apply_is_not_listed(broken, requirement):
    assert broken(requirement) == []


def test_another_version_than_is_wanted_is_listed_with_both(broken):
    assert broken("requests~=2.25.1") == ["attacks 3.5 wants requests~=2.25.1, 2.32 is there"]


def test_the_doctor_notes_them_and_goes_on(monkeypatch):
    monkeypatch.setattr(pins, "broken_pins", lambda: [f"a wants b=={n}, 9 is there" for n in range(5)])
    found = quick.check_pins()
    assert found.status == "note"
    assert found.detail.endswith("a wants b==2, 9 is there; and 2 more")


@pytest.mark.parametrize("name", ["torchattacks", "RobustBench"])
def test_a_package_that_is_not_needed_for_the_main_job_is_a_note(monkeypatch, name):
    def missing() -> doctor.Check:
        raise ModuleNotFoundError("No module named 'x'", name=name.lower())

    monkeypatch.setattr(doctor, "CHECKS", {name: missing})
    checks = doctor.run_checks()
    assert checks[0].status == "note"
    assert "alone" in checks[0].detail
    assert doctor.main_job_can_run(checks)
