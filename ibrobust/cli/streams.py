"""Standard output and error that take any text, whatever letters their encoding has."""

from __future__ import annotations

import codecs
import io
import sys

# What is written in place of a letter that an encoding (ASCII, Latin-1, Windows' code pages) does not have. One letter
# for one where it stands in the columns of a table.
REPLACEMENTS = {"ε": "e", "†": "+", "±": "+/-", "×": "x", "…": "..."}
_HANDLER = "ibrobust.replace"


def accept_any_text() -> None:
    """Let stdout and stderr replace the letters that they cannot encode, in place of raising UnicodeEncodeError.

    rich draws its boxes in ASCII by itself where the encoding is none of Unicode's.
    """
    codecs.register_error(_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    return "".join(REPLACEMENTS.get(letter, "?") for letter in letters), error.end
