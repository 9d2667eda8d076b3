"""The README's Python runs, and a second time too; its commands, and those of the page on studies, exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ibrobust.cli.main import app

DOCS = Path(__file__).parents[2] / "docs"
TEXTS = [(DOCS.parent / name).read_text(encoding="utf-8") for name in ("README.md", "docs/studies.md")]
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", "\n".join(TEXTS), flags=re.DOTALL | re.MULTILINE)
BLOCKS = [text for language, text in FENCES if language == "python"]
SHELL = "".join(text for language, text in FENCES if not language)
COMMANDS = re.findall(r"^(?:pip install .* && )?ibrobust (.*?)(?:\s+#.*)?$", SHELL, flags=re.MULTILINE)
# The same with a smaller network and fewer images, for less time.
SMALLER = [("width=8, epochs=10", "width=1, latent_dim=8, epochs=1"), (").test\n", ").test.subset(16)\n")]


def test_python_runs_a_second_time():
    code = "\n".join(BLOCKS)
    for given, smaller in SMALLER:
        assert given in code
        code = code.replace(given, smaller)
    for _ in range(2):
        names: dict[str, Any] = {}
        exec(compile(code, "README.md", "exec"), names)
    assert names["result"].total == 8
    for text in (TEXTS[0], (DOCS / "tutorial.md").read_text(encoding="utf-8")):
        assert f"runs {len(names['report'].checks)} checks" in text


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_the_options_that_are_given(line):
    command, words = command_of(shlex.split(line))
    command.make_context("ibrobust", words)


def test_commands_were_found():
    assert len(COMMANDS) > 20
