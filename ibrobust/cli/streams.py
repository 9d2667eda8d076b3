"""Standard output and error for any text, whatever characters their encoding has."""

from __future__ import annotations

import codecs
import io
import sys

# Replacements for characters that an encoding (ASCII, Latin-1, Windows' code pages) lacks. One character for those in
# the cells of a table, so that its columns stay aligned.
REPLACEMENTS = {"ε": "e", "†": "+", "±": "+/-", "×": "x", "≤": "<", "…": "..."}
_HANDLER = "ibrobust.replace"


def accept_any_text() -> None:
    """Let stdout and stderr replace characters that they cannot encode, instead of raising UnicodeEncodeError.

    rich draws its boxes in ASCII by itself if the encoding is not a Unicode one.
    """
    codecs.register_error(_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    return "".join(REPLACEMENTS.get(letter, "?") for letter in letters), error.end
