"""The leaderboard of a study's report: one row a cell and decoder, the most trustworthy first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ibrobust.evaluation.epsilon import format_epsilon
from ibrobust.reporting.study_records import StudyRecord
from ibrobust.reporting.study_series import OBJECTIVE_NAMES, UNATTACKED, sweep_records
from ibrobust.reporting.unattacked import DAGGER, UNATTACKED_SHARE

# The audit's verdicts, the best first; a model without an audit comes between those that passed and those that failed.
VERDICTS = ("sound", "", "suspicious", "masked")
MOST_EPSILONS = 4


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        key: unique, a word for style sheets and scripts.
        label: what it says above the column.
        unit: below the label: per cent, and of how many images.
        numeric: whether it sorts by number.
        falling: whether the first sort puts the largest on top.
    """

    key: str
    label: str
    unit: str = ""
    numeric: bool = True
    falling: bool = False


@dataclass(frozen=True)
class Entry:
    """One field of the leaderboard.

    Attributes:
        text: shown.
        sort: what the field sorts by, as text; empty where there is nothing, which comes last either way.
        is_best: the best of its column.
        tone: the verdict, where the field is one, or "marked" for a figure that is no sign of robustness.
    """

    text: str
    sort: str = ""
    is_best: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """Columns, and rows of as many entries."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class _Measure:
    """What a column of numbers shows: a quantity, perhaps under an attack and at an epsilon."""

    quantity: str
    attack: str = ""
    epsilon: float | None = None

    def of(self, records: Iterable[StudyRecord]) -> StudyRecord | None:
        """Return the record that holds the number; None where there is none, or no number in it."""
        for record in records:
            if (
                record.quantity == self.quantity
                and record.epsilon == self.epsilon
                and (record.attack == self.attack or not self.attack)
                and math.isfinite(record.value)
            ):
                return record
        return None


def leaderboard(records: Sequence[StudyRecord]) -> Leaderboard:
    """Return the leaderboard: a row for each cell and decoder that was attacked, or that was scored where none was.

    Rows are in the order of the audit's verdict (sound, not audited, suspicious, masked), then of falling accuracy in
    the audit's worst case, in the attacks' worst case, under FGSM, each from the largest epsilon down, and at last on
    clean images. Where FGSM left more than 1% of the images as they were, its accuracies have a dagger and are never
    the best of their column; neither is any accuracy under attack of a model that an audit found masked.
    """
    # FGSM among other attacks, perhaps on fewer images, is left to the worst case.
    swept = set(sweep_records(records))
    records = [record for record in records if record.attack != "FGSM" or record in swept]
    by_row: dict[tuple[str, str], list[StudyRecord]] = {}
    for record in records:
        if record.decoder:
            by_row.setdefault((record.cell, record.decoder), []).append(record)
    clean = "test_accuracy" if any(record.quantity == "test_accuracy" for record in records) else "clean_accuracy"
    measures = [
        _Measure(clean),
        *(_Measure("accuracy", "FGSM", epsilon) for epsilon in _few(_epsilons(records, "accuracy", "FGSM"))),
        *(
            _Measure("worst_case_accuracy", "worst case", epsilon)
            for epsilon in _few(_epsilons(records, "worst_case_accuracy", "worst case"))
        ),
        *(
            _Measure("audit_worst_case_accuracy", "", epsilon)
            for epsilon in _few(_epsilons(records, "audit_worst_case_accuracy", ""))
        ),
    ]
    rows = []
    for (cell, decoder), of_it in by_row.items():
        found = [measure.of(of_it) for measure in measures]
        if any(found):
            rows.append(_Row(cell, decoder, of_it, found))
    if any(any(row.found[1:]) for row in rows):
        # Decoders that were fitted for another figure were never attacked: they would only be in the way.
        rows = [row for row in rows if any(row.found[1:])]
    kept = [index for index in range(len(measures)) if any(row.found[index] for row in rows)]
    measures = [measures[index] for index in kept]
    rows = [_Row(row.cell, row.decoder, row.records, [row.found[index] for index in kept]) for row in rows]
    rows.sort(key=_Row.rank)
    best = [_best(measure, [(row, row.found[index]) for row in rows]) for index, measure in enumerate(measures)]
    audits = sorted({row.audit.epsilon or 0.0 for row in rows if row.audit})
    where = format_epsilon(audits[0]) if len(audits) == 1 else ""
    shares = any(row.unattacked is not None for row in rows)
    described = [row.description() for row in rows]
    # Columns that say the same of every row are left out, but for the names.
    told = [
        place for place in range(len(_DESCRIPTIONS)) if place < 2 or len({entries[place] for entries in described}) > 1
    ]
    numbers = list(range(len(measures) - 1, -1, -1))
    columns = (
        *(_DESCRIPTIONS[place] for place in told),
        *((Column("verdict", f"audit {where}".strip(), "verdict"),) if audits else ()),
        *(_column(measures[index], [row.found[index] for row in rows]) for index in numbers),
        *((Column("unattacked", "no gradient", "% of images", falling=True),) if shares else ()),
    )
    return Leaderboard(
        columns,
        tuple(
            (
                *(entries[place] for place in told),
                *((row.judgement(with_epsilon=not where),) if audits else ()),
                *(row.number(measures[index], row.found[index], best[index]) for index in numbers),
                *((row.share(),) if shares else ()),
            )
            for row, entries in zip(rows, described, strict=True)
        ),
    )


_DESCRIPTIONS = (
    Column("cell", "cell", numeric=False),
    Column("decoder", "decoder", numeric=False),
    Column("objective", "objective", numeric=False),
    Column("beta", "β"),
    Column("noise", "noise", numeric=False),
    Column("setting", "setting", numeric=False),
    Column("seed", "seed"),
)


@dataclass(frozen=True)
class _Row:
    cell: str
    decoder: str
    records: Sequence[StudyRecord]
    found: Sequence[StudyRecord | None]

    @property
    def audit(self) -> StudyRecord | None:
        return next((record for record in self.records if record.verdict), None)

    @property
    def verdict(self) -> str:
        return self.audit.verdict if self.audit else ""

    @property
    def unattacked(self) -> float | None:
        shares = [record.value for record in self.records if record.quantity in UNATTACKED and record.attack == "FGSM"]
        return sum(shares) if shares else None

    def is_marked(self, measure: _Measure) -> bool:
        """Whether an FGSM figure says little, because FGSM did not attack."""
        return measure.attack == "FGSM" and self.unattacked is not None and self.unattacked > UNATTACKED_SHARE

    def rank(self) -> tuple[int, list[float], str]:
        trust = VERDICTS.index(self.verdict) if self.verdict in VERDICTS else len(VERDICTS)
        # From the right: the audit's worst case, the worst case, FGSM, clean.
        falling = [-record.value if record else 1.0 for record in reversed(self.found)]
        return trust, falling, self.cell

    def description(self) -> tuple[Entry, ...]:
        first = self.records[0]
        objective = OBJECTIVE_NAMES.get(first.objective, first.objective)
        for rate, name in ((first.dropout, "dropout"), (first.dropconnect, "DropConnect")):
            objective += f", {name} {rate:g}" if rate else ""
        noise = {True: "yes", False: "no", None: ""}[first.noise if first.beta is not None else None]
        return (
            Entry(self.cell, self.cell),
            Entry(self.decoder.replace("_", " "), self.decoder),
            Entry(objective, objective),
            Entry("–", "") if first.beta is None else Entry(f"{first.beta:g}", repr(first.beta)),
            Entry(noise or "–", noise),
            Entry(first.setting or "–", first.setting),
            Entry("–", "") if first.seed is None else Entry(str(first.seed), str(first.seed)),
        )

    def number(self, measure: _Measure, record: StudyRecord | None, best: float | None) -> Entry:
        if record is None:
            return Entry("–")
        text, marked = f"{100 * record.value:.1f}", self.is_marked(measure)
        is_best = record.value == best and _may_win(self, measure)
        return Entry(text + DAGGER if marked else text, repr(record.value), is_best, "marked" if marked else "")

    def judgement(self, *, with_epsilon: bool) -> Entry:
        audit = self.audit
        if audit is None:
            return Entry("not audited", str(VERDICTS.index("")))
        where = f" at {format_epsilon(audit.epsilon)}" if with_epsilon and audit.epsilon is not None else ""
        rank = VERDICTS.index(audit.verdict) if audit.verdict in VERDICTS else len(VERDICTS)
        return Entry(audit.verdict + where, str(rank), tone=audit.verdict if audit.verdict in VERDICTS else "")

    def share(self) -> Entry:
        if self.unattacked is None:
            return Entry("–")
        marked = self.unattacked > UNATTACKED_SHARE
        return Entry(f"{100 * self.unattacked:.1f}", repr(self.unattacked), tone="marked" if marked else "")


def _may_win(row: _Row, measure: _Measure) -> bool:
    if measure.epsilon is None:
        return True
    return row.verdict != "masked" and not row.is_marked(measure)


def _best(measure: _Measure, found: Sequence[tuple[_Row, StudyRecord | None]]) -> float | None:
    contenders = [record.value for row, record in found if record is not None and _may_win(row, measure)]
    return max(contenders) if len(contenders) > 1 else None


def _column(measure: _Measure, found: Sequence[StudyRecord | None]) -> Column:
    images = sorted({record.num_images for record in found if record is not None and record.num_images is not None})
    unit = "%"
    if images:
        unit += f", n = {' to '.join(f'{count:,}' for count in dict.fromkeys((images[0], images[-1])))}"
    names = {
        "test_accuracy": "clean",
        "clean_accuracy": "clean",
        "accuracy": "FGSM",
        "worst_case_accuracy": "worst case",
        "audit_worst_case_accuracy": "audit worst case",
    }
    label, key = names[measure.quantity], measure.quantity
    if measure.epsilon is not None:
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


def _few(epsilons: Sequence[float]) -> list[float]:
    """Return some of the epsilons, evenly spaced in their order, the largest always among them."""
    if len(epsilons) <= MOST_EPSILONS:
        return list(epsilons)
    step = len(epsilons) / MOST_EPSILONS
    return [epsilons[round((index + 1) * step) - 1] for index in range(MOST_EPSILONS)]
