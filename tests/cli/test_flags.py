"""Messages name settings as Python has them; the command line says them as its flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from ibrobust.cli.flags import in_flags
from ibrobust.cli.main import app

PACKAGE = Path(__file__).parents[2] / "ibrobust"


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("replace it with `overwrite=True`.", "replace it with --overwrite."),
        ("choose another `name`, or", "choose another --name, or"),
        ("give it as `data_dir`.", "give it as --data-dir."),
        ("or `dataset='digits'`.", "or --dataset digits."),
        ("come from `epsilons`", "come from --eps"),
        ("a name with ` and `Capitals` and `two words`", "a name with ` and `Capitals` and `two words`"),
    ],
)
def test_a_setting_becomes_its_flag(message, printed):
    assert in_flags(message) == printed


def messages() -> list[str]:
    """Return what the errors say that files outside the command line raise, without the values in it."""
    said = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.relative_to(PACKAGE).parts[0] == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "IbrobustError":
                parts = [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
                said.append("".join(str(part.value) for part in parts))
    return said


def test_every_named_setting_is_a_flag():
    flags = set()
    commands = [get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        flags |= {option for parameter in command.params for option in parameter.opts}
    said = {found for text in messages() for found in re.findall(r"`[^`]*`", text)}
    assert len(said) > 5
    assert [name for name in said if in_flags(name).split()[0] not in flags] == []


def test_no_message_names_a_flag_without_its_command():
    whole_command = re.compile(r"(ibrobust|pip) [a-z]+[^,]* --[a-z]")
    assert [text for text in messages() if re.search(r"(^|[ (])--[a-z]", text) and not whole_command.search(text)] == []
