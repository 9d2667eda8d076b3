"""The leaderboard of a study's report: one row per cell and decoder, the most reliable first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ibrobust.epsilon import format_epsilon
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import WORST_CASE, sweep_records
from ibrobust.reporting.html.leaderboard_rows import CLEAN, DESCRIPTIONS, IN_L2, Column, Entry, Measure, Row, audits_in

MOST_EPSILONS = 4


@dataclass(frozen=True)
class Leaderboard:
    """Columns, and rows of as many entries."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]


def leaderboard(records: Sequence[StudyRecord], datasets: Mapping[str, str] | None = None) -> Leaderboard:
    """Return the leaderboard: one row per attacked cell and decoder, or per scored one if none was attacked.

    Of each epsilon, the accuracies under FGSM, in the attacks' worst case and in the audit's stand side by side.

    The audit's answers are the first columns, one for each epsilon. Rows are in the order of those at the largest
    epsilon (real, partly real, not audited, older audits, undecided, attacked by FGSM alone, not real, not audited but
    0% in the worst case at the largest epsilon; a decoder without an audit comes no earlier than one of the same model
    that an audit speaks against), then of
    falling accuracy in the audit's worst case, in the attacks' worst case, under FGSM, each from the largest epsilon
    down, then on clean images and in L2. Exact numbers come before upper bounds. The best of a column is among the
    numbers on the most images of a data set. If FGSM did not change more than 1% of the images, its accuracies have a
    dagger and are never the best of their column; neither is an upper bound, which is marked, nor any accuracy under
    attack of a model if an audit of one of its decoders says that its robustness is not real or that its gradient is
    not honest, or of a decoder without an audit if others of the data set have one. Since audits are in L-infinity, in
    L2 only a gradient that is not honest counts.
    """
    # FGSM among other attacks, perhaps on fewer images, only counts in the worst case.
    swept = set(sweep_records(records))
    records = [record for record in records if record.attack != "FGSM" or record in swept]
    by_row: dict[tuple[str, str], list[StudyRecord]] = {}
    for record in records:
        if record.decoder:
            by_row.setdefault((record.cell, record.decoder), []).append(record)
    swept_at = _epsilons(records, "accuracy", "FGSM")
    attacked_at = _few(_epsilons(records, "worst_case_accuracy", WORST_CASE))
    audited_at = _few(_epsilons(records, "audit_worst_case_accuracy", ""))
    beside = [epsilon for epsilon in swept_at if epsilon in {*attacked_at, *audited_at}]
    alone = _few([epsilon for epsilon in swept_at if epsilon not in beside], MOST_EPSILONS - len(beside) - bool(beside))
    measures = [
        Measure(CLEAN[0]),
        *(Measure("accuracy", "FGSM", epsilon) for epsilon in sorted({*beside, *alone})),
        *(Measure("worst_case_accuracy", WORST_CASE, epsilon) for epsilon in attacked_at),
        *(Measure("audit_worst_case_accuracy", "", epsilon) for epsilon in audited_at),
        *(
            Measure("worst_case_accuracy", IN_L2, epsilon)
            for epsilon in _few(_epsilons(records, "worst_case_accuracy", IN_L2))
        ),
    ]
    rows, audits = [], audits_in(records)
    for (cell, decoder), of_it in by_row.items():
        found = {measure: number for measure in measures if (number := measure.of(of_it))}
        if found:
            rows.append(Row(cell, decoder, of_it, found, (datasets or {}).get(cell, ""), audits.get(cell, ())))
    # Decoders that were fitted only for another figure were never attacked and are not shown.
    rows = [row for row in rows if row.found.keys() - measures[:1]] or rows
    measures = [measure for measure in measures if any(measure in row.found for row in rows)]
    ranked = sorted(measures, key=_place)
    rows.sort(key=lambda row: row.rank(ranked))
    best = {measure: _best(measure, rows) for measure in measures}
    most = {measure: _most_images(row.found.get(measure) for row in rows) for measure in measures}
    judged_at = sorted({epsilon for row in rows for epsilon in row.audits})
    shares = any(row.unattacked for row in rows)
    described = [row.description() for row in rows]
    # Columns with the same value in every row are left out, except for the names.
    told = [
        place for place in range(len(DESCRIPTIONS)) if place < 2 or len({entries[place] for entries in described}) > 1
    ]
    numbers = sorted(measures, key=lambda measure: (measure.attack == IN_L2, measure.epsilon or 0))
    columns = (
        *(
            Column(
                "verdict" if len(judged_at) == 1 else f"verdict-{255 * epsilon:.3g}",
                f"audit {format_epsilon(epsilon)}",
                "robustness, gradient",
            )
            for epsilon in judged_at
        ),
        *(DESCRIPTIONS[place] for place in told),
        *(
            _column(measure, most[measure], starts=before is None or measure.epsilon != before.epsilon)
            for before, measure in zip((None, *numbers), numbers, strict=False)
        ),
        *((Column("unattacked", "no gradient", "% of images", falling=True),) if shares else ()),
    )
    return Leaderboard(
        columns,
        tuple(
            (
                *(row.judgement(epsilon) for epsilon in judged_at),
                *(entries[place] for place in told),
                *(row.number(measure, is_best=row in best[measure], most=most[measure]) for measure in numbers),
                *((row.share(),) if shares else ()),
            )
            for row, entries in zip(rows, described, strict=True)
        ),
    )


def _place(measure: Measure) -> tuple[bool, int, float]:
    """Return the place of a column among those that rank rows: audit, worst case, FGSM, clean, L2."""
    kinds = ("audit_worst_case_accuracy", "worst_case_accuracy", "accuracy")
    kind = kinds.index(measure.quantity) if measure.quantity in kinds else len(kinds)
    return measure.attack == IN_L2, kind, -(measure.epsilon or 0.0)


def _most_images(found: Iterable[StudyRecord | None]) -> int:
    return max((record.num_images or 0 for record in found if record is not None), default=0)


def _best(measure: Measure, rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the best numbers of a column: of each data set, among those on the most images."""
    best: list[Row] = []
    for dataset in {row.dataset for row in rows}:
        of_images = [row for row in rows if row.dataset == dataset]
        audited = any(row.audits for row in of_images)
        known = [(row, row.found[measure]) for row in of_images if measure in row.found]
        most = _most_images(record for _, record in known)
        on_most = [(row, record) for row, record in known if (record.num_images or 0) == most]
        allowed = [(row, record) for row, record in on_most if row.may_win(measure, others_audited=audited)]
        contenders = [(row, record.value) for row, record in allowed if not record.upper_bound]
        if contenders and len(allowed) > 1:
            largest = max(value for _, value in contenders)
            best += [row for row, value in contenders if value == largest]
    return best


def _column(measure: Measure, most: int, *, starts: bool) -> Column:
    unit = f"%, n = {most:,}" if most else "%"  # a number on fewer images says so
    names = {
        "test_accuracy": "clean",
        "accuracy": "FGSM",
        "worst_case_accuracy": "worst case",
        "audit_worst_case_accuracy": "audit worst case",
    }
    label, key = names[measure.quantity], measure.quantity
    if measure.attack == IN_L2:
        label, key = f"{label} L2 {measure.epsilon:g}", f"{key}-L2-{measure.epsilon:g}"
    elif measure.epsilon is not None:
        label += f" {format_epsilon(measure.epsilon)}"
        key += f"-{255 * measure.epsilon:.3g}"
    return Column(key, label, unit, falling=True, starts=starts)


def _epsilons(records: Iterable[StudyRecord], quantity: str, attack: str) -> list[float]:
    return sorted(
        {
            record.epsilon
            for record in records
            if record.quantity == quantity and (record.attack == attack or not attack) and record.epsilon
        }
    )


def _few(epsilons: Sequence[float], most: int = MOST_EPSILONS) -> list[float]:
    """Return at most so many of the epsilons, evenly spaced in their order, the largest always among them."""
    if len(epsilons) <= most:
        return list(epsilons)
    step = len(epsilons) / max(most, 1)
    return [epsilons[round((index + 1) * step) - 1] for index in range(most)]
