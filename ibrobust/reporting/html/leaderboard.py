"""The leaderboard of a study's report: one row per cell and decoder, the most reliable first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ibrobust.epsilon import format_epsilon
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import WORST_CASE, sweep_records
from ibrobust.reporting.html.leaderboard_rows import DESCRIPTIONS, IN_L2, Column, Entry, Measure, Row, audits_in

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
    not honest, or of a decoder without an audit if others of the data set have one.
    """
    # FGSM among other attacks, perhaps on fewer images, only counts in the worst case.
    swept = set(sweep_records(records))
    records = [record for record in records if record.attack != "FGSM" or record in swept]
    by_row: dict[tuple[str, str], list[StudyRecord]] = {}
    for record in records:
        if record.decoder:
            by_row.setdefault((record.cell, record.decoder), []).append(record)
    clean = "test_accuracy" if any(record.quantity == "test_accuracy" for record in records) else "clean_accuracy"
    swept_at = _epsilons(records, "accuracy", "FGSM")
    attacked_at = _few(_epsilons(records, "worst_case_accuracy", WORST_CASE))
    audited_at = _few(_epsilons(records, "audit_worst_case_accuracy", ""))
    beside = [epsilon for epsilon in swept_at if epsilon in {*attacked_at, *audited_at}]
    alone = _few([epsilon for epsilon in swept_at if epsilon not in beside], MOST_EPSILONS - len(beside) - bool(beside))
    measures = [
        Measure(clean),
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
        found = [measure.of(of_it) for measure in measures]
        if any(found):
            rows.append(Row(cell, decoder, of_it, found, (datasets or {}).get(cell, ""), audits.get(cell, ())))
    if any(any(row.found[1:]) for row in rows):
        # Decoders that were fitted only for another figure were never attacked and are not shown.
        rows = [row for row in rows if any(row.found[1:])]
    kept = [index for index in range(len(measures)) if any(row.found[index] for row in rows)]
    measures = [measures[index] for index in kept]
    rows = [replace(row, found=[row.found[index] for index in kept]) for row in rows]
    ranked = _ranked(measures)
    rows.sort(key=lambda row: row.rank(ranked))
    best = [_best(measure, [(row, row.found[index]) for row in rows]) for index, measure in enumerate(measures)]
    most = [_most_images([row.found[index] for row in rows]) for index in range(len(measures))]
    judged_at = sorted({epsilon for row in rows for epsilon in row.audits})
    shares = any(row.unattacked for row in rows)
    described = [row.description() for row in rows]
    # Columns with the same value in every row are left out, except for the names.
    told = [
        place for place in range(len(DESCRIPTIONS)) if place < 2 or len({entries[place] for entries in described}) > 1
    ]
    numbers = sorted(
        range(len(measures)), key=lambda index: (measures[index].attack == IN_L2, measures[index].epsilon or 0)
    )
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
            replace(
                _column(measures[index], [row.found[index] for row in rows]),
                starts=place == 0 or measures[index].epsilon != measures[numbers[place - 1]].epsilon,
            )
            for place, index in enumerate(numbers)
        ),
        *((Column("unattacked", "no gradient", "% of images", falling=True),) if shares else ()),
    )
    return Leaderboard(
        columns,
        tuple(
            (
                *(row.judgement(epsilon) for epsilon in judged_at),
                *(entries[place] for place in told),
                *(
                    row.number(measures[index], row.found[index], is_best=place in best[index], most=most[index])
                    for index in numbers
                ),
                *((row.share(),) if shares else ()),
            )
            for place, (row, entries) in enumerate(zip(rows, described, strict=True))
        ),
    )


def _ranked(measures: Sequence[Measure]) -> list[int]:
    """Return the columns in the order in which they rank rows: audit, worst case, FGSM, clean, L2."""
    kinds = ("audit_worst_case_accuracy", "worst_case_accuracy", "accuracy")

    def place(column: int) -> tuple[bool, int, float]:
        measure = measures[column]
        kind = kinds.index(measure.quantity) if measure.quantity in kinds else len(kinds)
        return measure.attack == IN_L2, kind, -(measure.epsilon or 0.0)

    return sorted(range(len(measures)), key=place)


def _most_images(found: Sequence[StudyRecord | None]) -> int:
    return max((record.num_images or 0 for record in found if record is not None), default=0)


def _best(measure: Measure, found: Sequence[tuple[Row, StudyRecord | None]]) -> set[int]:
    """Return the places of the best numbers of a column: of each data set, among those on the most images."""
    best: set[int] = set()
    for dataset in {row.dataset for row, _ in found}:
        audited = any(row.audits for row, _ in found if row.dataset == dataset)
        known = [(place, row, record) for place, (row, record) in enumerate(found) if row.dataset == dataset and record]
        most = _most_images([record for _, _, record in known])
        on_most = [(place, row, record) for place, row, record in known if (record.num_images or 0) == most]
        allowed = [(place, r) for place, row, r in on_most if row.may_win(measure, others_audited=audited)]
        contenders = [(place, record.value) for place, record in allowed if not record.upper_bound]
        if contenders and len(allowed) > 1:
            largest = max(value for _, value in contenders)
            best |= {place for place, value in contenders if value == largest}
    return best


def _column(measure: Measure, found: Sequence[StudyRecord | None]) -> Column:
    images = sorted({record.num_images for record in found if record is not None and record.num_images is not None})
    unit = "%"
    if images:
        unit += f", n = {images[-1]:,}"  # a number on fewer images says so
    names = {
        "test_accuracy": "clean",
        "clean_accuracy": "clean",
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
    return Column(key, label, unit, falling=True)


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
