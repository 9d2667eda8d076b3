"""Results that people read: one line in a list, a small table when printed, and the same table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal


class Readable:
    """A result with a `__repr__` of one line, and a table as text and as HTML.

    A class says `_sentence`, what it is in one line, and may say `_rows`: the rows of its table, the header first.
    """

    def _sentence(self) -> str:
        raise NotImplementedError

    def _rows(self) -> Sequence[Sequence[str]]:
        return ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._sentence()}>"

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self._sentence(), *(f"  {line}".rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        parts = [f"<p>{html.escape(self._sentence())}</p>"]
        lines = []
        for number, row in enumerate(self._rows()):
            tag = "td" if number else "th"
            lines.append("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row))
        if lines:
            parts.append(f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>")
        return "".join(parts)


def percent(share: float) -> str:
    """Return a share in [0, 1] as 84.8%."""
    return f"{per_cent(share)}%"


def per_cent(share: float, digits: int = 1) -> str:
    """Return a share in [0, 1] in per cent with so many decimals, and a half rounded up: 31.7 for 0.3165.

    Python would round the nearest binary number, which lies below 31.65.
    """
    return str((100 * Decimal(str(float(share)))).quantize(Decimal(10) ** -digits, ROUND_HALF_UP))
