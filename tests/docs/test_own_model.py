"""The script of "Bring your own" runs on a small folder of images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = (Path(__file__).parents[2] / "docs" / "own-model.md").read_text(encoding="utf-8")


# A network of timm's own tests in place of the page's, for less time.
NETWORK, SMALLER = "resnet18", "test_byobnet"


def files() -> dict[str, str]:
    """Return the Python files on the page by name, which is their first line."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def test_the_script_has_fewer_than_60_lines():
    assert set(files()) == {"my_attack.py", "study.py"}
    assert sum(len(text.splitlines()) + 1 for text in files().values()) < 60


@pytest.mark.slow
def test_the_script_runs(tmp_path: Path):
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 1)):
        for label in range(7):
            folder = tmp_path / "flowers" / split / f"kind {label}"
            folder.mkdir(parents=True)
            for index in range(count):
                noise = random.integers(0, 60, (64, 64, 3)) + 25 * np.array([label, 6 - label, 3])
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{index}.png")
    assert files()["study.py"].count(NETWORK) == 2
    exists = f"import timm\nassert timm.is_model({NETWORK!r})\n"
    for name, text in files().items():
        smaller = text.replace(NETWORK, SMALLER).replace("import timm\n", exists)
        (tmp_path / name).write_text(smaller, encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    finished = subprocess.run(
        [sys.executable, "study.py"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert any(line.startswith("foolbox:LinfPGD") for line in lines)
    assert any(line.startswith(("my_attack:corners", "corners")) for line in lines)
    assert any("worst case" in line.lower() for line in lines)
    assert "Added flower-net-copy" in finished.stdout
    assert lines[-2 if not lines[-1] else -1].startswith("[[")
