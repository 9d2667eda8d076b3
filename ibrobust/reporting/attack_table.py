"""The table of models under attack, the same for every attack."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ibrobust.epsilon import format_epsilon
from ibrobust.readable import percent
from ibrobust.reporting.attack_lines import AttackLine
from ibrobust.reporting.marks import BOUND, DAGGER, NO_SIGN, in_per_cent
from ibrobust.reporting.tables import TEXT_WIDTH, add_number_column, left_table, verdict_text


def attack_table(lines: Sequence[AttackLine], *, dataset: str, images: str = "test images", note: str = "") -> Table:
    """Return accuracies in per cent: one row per model and attack, one column per epsilon, the best of each marked.

    The audit's answer is the first column. A number that was not measured is a dash. Daggers mark a model with more
    than 1% of images that FGSM could not attack. Such a model cannot be the best under attack, nor can an upper bound.
    In L-infinity, neither can a model if an audit of one of its decoders says that its robustness is not real or that
    its gradient is not honest, nor one without an audit if others have one.

    Args:
        lines: at least one, those of a model one after the other; all with the same images.
        dataset: name for the caption.
        images: of the data set, for the caption: its test images, its training images or those of a split.
        note: for the caption, on the models' training data.
    """
    norms = {line.norm for line in lines}
    norm = norms.pop() if len(norms) == 1 else None
    epsilons = sorted({epsilon for line in lines for epsilon in line.accuracy})
    audits = [line.known.audited for line in lines]
    has_zero = any(line.zero_gradient is not None for line in lines)
    has_nonfinite = any(line.nonfinite_gradient for line in lines)
    table = left_table(
        title="Accuracy under attack, %", caption=_caption(lines, f"{images} of {dataset}", note), padding=0
    )
    answers = [verdict_text(audit.verdict, audit.epsilon) if audit else verdict_text(None) for audit in audits]
    attacks = [_attack(line, norm) for line in lines]
    if any(audits):
        _add_text_column(table, "audit", [answer.plain for answer in answers])
    _add_text_column(table, "model (decoder)", [line.model for line in lines])
    _add_text_column(table, "attack", attacks)
    add_number_column(table, "clean")
    for epsilon in epsilons:
        written = format_epsilon(epsilon, norm=norm or "Linf").replace(" (", "\n(")
        add_number_column(table, f"{'ε' if norm in ('Linf', None) else f'{norm} ε'}\n{written}")
    if has_zero:
        add_number_column(table, "zero\ngradient")
    if has_nonfinite:
        add_number_column(table, "NaN or inf\ngradient")
    for index, line in enumerate(lines):
        is_first = index == 0 or lines[index - 1].model != line.model
        if is_first and len({line.attack for line in lines}) > 1:
            table.add_section()
        cells: list[Padding | Text | str] = [_spaced(answers[index] if is_first else "")] if any(audits) else []
        cells += [_spaced(line.model if is_first else ""), _spaced(attacks[index]), _clean(line, lines)]
        cells += [_under_attack(line, epsilon, lines) for epsilon in epsilons]
        if has_zero:
            cells.append("-" if line.zero_gradient is None else percent(line.zero_gradient))
        if has_nonfinite:
            cells.append(percent(line.nonfinite_gradient))
        table.add_row(*cells, style="bold" if line.is_worst_case else "")
    return table


def _add_text_column(table: Table, header: str, cells: Sequence[str]) -> None:
    width = min(TEXT_WIDTH, max(map(len, (header, *cells))))
    table.add_column(_spaced(header), overflow="fold", min_width=width + 1)


def _spaced(cell: str | Text) -> Padding:
    """Return a cell of text with two spaces to the next column; numbers, which end at the right, need only one."""
    return Padding(cell if isinstance(cell, Text) else Text(cell), (0, 1, 0, 0))


def _attack(line: AttackLine, norm: str | None) -> str:
    """Return the attack's name, with its norm if the table has several."""
    return line.attack if norm is not None else f"{line.attack} ({line.norm})"


def _clean(line: AttackLine, lines: Sequence[AttackLine]) -> Text:
    several = len({other.model for other in lines}) > 1
    return _number(line.clean, is_best=several and line.clean == max(other.clean for other in lines))


def _under_attack(line: AttackLine, epsilon: float, lines: Sequence[AttackLine]) -> Text | str:
    if epsilon not in line.accuracy:
        return "-"
    rivals = [other for other in lines if (other.attack, other.norm) == (line.attack, line.norm)]
    audited = any(other.known.audited for other in lines)
    allowed = [rival for rival in rivals if rival.may_be_best(epsilon, others_audited=audited)]
    best = max((rival.accuracy[epsilon] for rival in allowed), default=None)
    is_best = len(rivals) > 1 and line in allowed and line.accuracy[epsilon] == best
    is_bound = epsilon in line.upper_bounds
    return _number(line.accuracy[epsilon], is_best=is_best, is_bound=is_bound, after=DAGGER if line.is_marked else "")


def _number(value: float, *, is_best: bool, is_bound: bool = False, after: str = "") -> Text:
    text = f"{'*' if is_best else ''}{in_per_cent(value, is_bound=is_bound)}{after}"
    return Text(text, style="bold" if is_best else "")


def _caption(lines: Sequence[AttackLine], images: str, note: str) -> str:
    total = lines[0].total
    half_width = 100 * 1.96 * math.sqrt(0.25 / total)  # of the widest 95% binomial interval, in percentage points
    parts = [f"n = {total:,} {images}", f"95% intervals within ±{half_width:.1f} points"]
    if len({line.model for line in lines}) > 1:
        best = "* best of its column" if len({line.attack for line in lines}) == 1 else "* best under this attack"
        left_out = []
        if any(line.is_refuted for line in lines):
            left_out.append("models that an audit calls not real or not honest")
        audits = [line.known.audited for line in lines]
        if any(audits) and not all(audits):
            left_out.append("those without an audit" if left_out else "models without an audit")
        if left_out:
            best += f"; in the columns under attack, {' and '.join(left_out)} are left out"
        parts.append(best)
    if any(line.is_worst_case for line in lines):
        parts.append("worst case: image by image")
    if note:
        parts.append(note)
    if any(line.counts_all_correct for line in lines):
        parts.append("an image that is wrong without the attack but right under FGSM counts as right")
    only_by_attack = max(line.only_by_attack for line in lines)
    if only_by_attack > 0:
        parts.append(
            f"images that only the attack makes right are not counted, up to {100 * only_by_attack:.1f} points"
        )
    caption = "; ".join(parts)
    if any(line.is_marked for line in lines):
        caption += f"\n{NO_SIGN}, because their gradient is zero or not finite"
    # Of a bound of 0, which has no sign in the table, there is nothing to warn.
    bounded = [line for line in lines if not line.upper_bounds or any(map(line.accuracy.get, line.upper_bounds))]
    warnings = dict.fromkeys(warning for line in bounded for warning in line.warnings)
    if warnings:
        caption += f"\n{BOUND} upper bound, other attacks may break more images: {' '.join(warnings)}"
    return caption
