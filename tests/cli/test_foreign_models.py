"""A model whose card came from elsewhere: no command imports what the card names until the user allows it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ibrobust import Dataset, register_model
from ibrobust.integrations.huggingface import save_pretrained
from ibrobust.registry import plugins
from ibrobust.registry.plugins import plugin_card_paths

NET = """
from pathlib import Path
from torch import nn

Path("imported").touch()

def build():
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""


@pytest.fixture
def foreign(run, tmp_path: Path, monkeypatch) -> str:
    """The name of a model whose card and weights were copied by hand from another machine.

    Its module lies in the current folder, from where it would be imported.
    """
    Path("foreign_net.py").write_text(NET)
    monkeypatch.delitem(sys.modules, "foreign_net", raising=False)
    monkeypatch.syspath_prepend(Path.cwd())
    import foreign_net

    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(10))
    data = Dataset.of((images, np.arange(10)), name="images")
    register_model("net", foreign_net.build().eval(), dataset=data, factory="foreign_net:build")
    assert run("export", "net", str(tmp_path / "given"), "--name", "foreign").returncode == 0
    save_pretrained("net", tmp_path / "hub")
    monkeypatch.setenv("IBROBUST_HOME", str(tmp_path / "another home"))
    (tmp_path / "another home").mkdir()
    shutil.copytree(tmp_path / "given", tmp_path / "another home" / "models")
    monkeypatch.delitem(sys.modules, "foreign_net")
    Path("imported").unlink()
    return "foreign"


DATA = ("--dataset", "images.npz")
REFUSED = "is built by foreign_net:build, which its card names and you have not allowed"


@pytest.mark.parametrize(
    "arguments",
    [
        ("attack", "foreign", *DATA),
        ("attack", "foreign", *DATA, "--attack", "PGD"),
        ("audit", "foreign", *DATA, "--quick"),
        ("audit", "other", "--surrogate", "foreign", *DATA, "--quick"),
        ("benchmark", "foreign", "--n-examples", "5", "--data-dir", "images"),
    ],
    ids=["sweep", "attack", "audit", "surrogate", "benchmark"],
)
def test_a_command_that_needs_the_model_is_refused(run, foreign, arguments):
    if "other" in arguments:
        import ibrobust

        own = ibrobust.ImageClassifier(ibrobust.Encoder(width=1, latent_dim=2), torch.nn.Linear(2, 10))
        register_model("other", own, dataset=ibrobust.load_dataset("images.npz"))
    if "benchmark" in arguments:
        from PIL import Image

        for half in ("train", "test"):
            for label in range(10):
                Path(f"images/{half}/{label}").mkdir(parents=True)
                Image.new("RGB", (32, 32)).save(f"images/{half}/{label}/0.png")
    finished = run(*arguments)
    assert finished.returncode == 2, finished.stderr
    assert REFUSED in finished.stderr
    assert "ibrobust add --trust" in finished.stderr
    assert not Path("imported").exists()


def test_commands_that_read_the_card_alone_work(run, foreign, tmp_path):
    assert "foreign" in run("list").stdout
    assert run("show", foreign).returncode == 0
    assert run("export", foreign, str(tmp_path / "again")).returncode == 0
    assert not Path("imported").exists()


def test_a_study_that_names_it(run, foreign):
    study = {
        "name": "s",
        "base": {"dataset": "images.npz"},
        "models": [foreign],
        "evaluations": {"sweep": {"eps": [0]}},
    }
    Path("study.yaml").write_text(yaml.safe_dump(study))
    finished = run("study", "run", "study.yaml")
    assert finished.returncode != 0
    assert not Path("imported").exists()


def test_every_form_in_which_a_model_is_given_needs_trust(run, foreign, tmp_path):
    for source in (tmp_path / "given" / "foreign.yaml", tmp_path / "hub"):
        finished = run("add", str(source), "--name", "mine")
        assert finished.returncode == 2
        assert REFUSED.removeprefix("is ") in finished.stderr
        assert not Path("imported").exists()
    assert run("add", str(tmp_path / "hub"), "--name", "mine", "--trust").returncode == 0
    assert Path("imported").exists()
    assert run("attack", "mine", *DATA).returncode == 0


def test_the_card_of_a_plugin_is_not_allowed_by_the_plugin(run, foreign, tmp_path, monkeypatch):
    # The package offers models, and no factory.
    info = tmp_path / "site" / "cards_of_others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cards_of_others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINT_GROUP}]\na = cards_of_others:models\n")
    (tmp_path / "site" / "cards_of_others.py").write_text(f"def models():\n    return {str(tmp_path / 'offered')!r}\n")
    shutil.copytree(tmp_path / "given", tmp_path / "offered")
    (tmp_path / "offered" / "foreign.yaml").rename(tmp_path / "offered" / "offered.yaml")
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugin_card_paths.cache_clear()
    try:
        finished = run("attack", "offered", *DATA)
    finally:
        plugin_card_paths.cache_clear()
    assert finished.returncode == 2
    assert "'offered' is built by foreign_net:build" in finished.stderr
    assert not Path("imported").exists()


def test_a_card_cannot_allow_itself(run, foreign, tmp_path):
    # The record of what is allowed lies in the user's home, not beside cards; a copy there has no effect.
    models = tmp_path / "another home" / "models"
    shutil.copytree(tmp_path / "home" / "factories", models / "factories")
    for record in (tmp_path / "home" / "factories").iterdir():
        shutil.copy(record, models)
    assert REFUSED in run("attack", foreign, *DATA).stderr
    assert not Path("imported").exists()
