"""Results that people read: one line in a list, a small table when printed, and the same table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal


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


def percent(share: float, *, is_bound: bool = False) -> str:
    """Return a share in [0, 1] as 84.8%, see `per_cent`."""
    return f"{per_cent(share, is_bound=is_bound)}%"


def per_cent(share: float, digits: int = 1, *, is_bound: bool = False) -> str:
    """Return a share in [0, 1] in per cent with so many decimals, and a half rounded up: 31.7 for 0.3165.

    Python would round the nearest binary number, which lies below 31.65. Only 0 is shown as 0.0 and only 1 as 100.0:
    0.0004 is <0.1. An upper bound is rounded up, since a smaller number may be false: 19.8 for 0.1974.
    """
    # Means have errors of floats, which a bound must not be rounded up for.
    exact, step = (100 * Decimal(str(float(share)))).quantize(Decimal("1e-9")), Decimal(10) ** -digits
    rounded = exact.quantize(step, ROUND_CEILING if is_bound else ROUND_HALF_UP)
    if exact > 0 and rounded == 0:
        return f"<{step}"
    if exact < 100 and rounded == 100 and not is_bound:
        return f">{100 - step}"
    return str(rounded)
