from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from ibrobust.cli.main import main
from ibrobust.data import Dataset, load_dataset
from ibrobust.models import Encoder, ImageClassifier
from ibrobust.registry import register_model


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def mine(digits: Dataset) -> str:
    """The name of an untrained model in the registry."""
    torch.manual_seed(0)
    register_model("mine", ImageClassifier(Encoder(width=2, latent_dim=8), nn.Linear(8, 10)), dataset=digits)
    return "mine"


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Finished]:
    """Run the command line in this process, which is quick, in an empty folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["ibrobust", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        written = capsys.readouterr()
        return Finished(int(stopped.value.code or 0), written.out, written.err)

    return call
