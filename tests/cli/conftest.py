from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_digits import small_digits, write
from torch import nn

from ibrobust.cli.main import main
from ibrobust.data import Dataset, load_dataset
from ibrobust.estimators import latent_information
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


@pytest.fixture(scope="session")
def small_digits_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of 400 training and 200 test images of 16 x 16."""
    file = tmp_path_factory.mktemp("data") / "digits.npz"
    write(small_digits(), file)
    return str(file)


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well `entropy` fits its decoder is tested elsewhere."""
    monkeypatch.setattr(latent_information, "DECODER_STEPS", 4)


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
