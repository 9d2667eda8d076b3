"""The settings that a message names, as flags of the command line."""

from __future__ import annotations

import re

# Messages name a setting as Python has it, in backquotes: `name`, `overwrite=True` or `dataset='digits'`.
_SETTING = re.compile(r"`(?P<name>[a-z][a-z_]*)(?:=(?P<value>True|'[^']*'))?`")

# Flags that are not the setting's own name.
FLAGS = {"epsilons": "--eps", "learning_rate": "--lr", "decoders": "--decoder"}


def in_flags(message: str) -> str:
    """Return the message with the command line's flags: --name, --overwrite or --dataset digits."""

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        written = FLAGS.get(name, f"--{name.replace('_', '-')}")
        return written if value in (None, "True") else f"{written} {value[1:-1]}"

    return _SETTING.sub(flag, message)
