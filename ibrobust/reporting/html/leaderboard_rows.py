"""The rows of a report's leaderboard: the results of one cell with one decoder, and their display."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ibrobust.readable import per_cent
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import UNATTACKED, WORST_CASE
from ibrobust.reporting.figures.settings import OBJECTIVE_NAMES
from ibrobust.reporting.marks import DAGGER, UNATTACKED_SHARE, in_per_cent
from ibrobust.verdicts import Audited, Verdict, read_verdict, speak_against

# A model without an audit comes after those that are real or partly real, and before all others. If it was attacked by
# FGSM alone, little is known of it, and it comes just before those that are not real. If nothing of it is left in the
# worst case, it comes last. In any case it comes after a decoder of the same model that an audit speaks against.
NOT_AUDITED = (1, 9)
FGSM_ALONE = (3, 9)
NOTHING_LEFT = (4, 9)
# The accuracy without an attack: a model from elsewhere has no card with its test accuracy, only that of its sweep.
CLEAN = ("test_accuracy", "clean_accuracy")


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Attributes:
        key: unique, a word for style sheets and scripts.
        label: header of the column.
        unit: below the label: per cent, and the number of images.
        numeric: whether it sorts by number.
        falling: whether the first sort puts the largest on top.
        starts: whether it is the first column of an epsilon.
    """

    key: str
    label: str
    unit: str = ""
    numeric: bool = True
    falling: bool = False
    starts: bool = False


@dataclass(frozen=True)
class Entry:
    """One field of the leaderboard.

    Attributes:
        text: shown.
        sort: sort key of the field, as text; empty if there is no value, which always comes last.
        is_best: the best of its column.
        tone: a verdict's, see `Verdict.tone`, or "marked" for a figure that is no sign of robustness.
        is_bound: whether other attacks may break more images.
        is_marked: whether FGSM did not attack too many images; it has a dagger.
        images: number of images of a number; None if unknown.
    """

    text: str
    sort: str = ""
    is_best: bool = False
    tone: str = ""
    is_bound: bool = False
    is_marked: bool = False
    images: int | None = None


IN_L2 = f"{WORST_CASE}, L2"
DESCRIPTIONS = (
    Column("cell", "cell", numeric=False),
    Column("decoder", "decoder", numeric=False),
    Column("objective", "objective", numeric=False),
    Column("beta", "β"),
    Column("noise", "noise", numeric=False),
    Column("setting", "setting", "besides the defaults", numeric=False),
    Column("seed", "seed"),
    Column("dataset", "images", numeric=False),
)


@dataclass(frozen=True)
class Measure:
    """The content of a column of numbers: a quantity, perhaps under an attack and at an epsilon."""

    quantity: str
    attack: str = ""
    epsilon: float | None = None

    def of(self, records: Iterable[StudyRecord]) -> StudyRecord | None:
        """Return the record with the number, of several the one on the most images; None if there is no number.

        Without a test accuracy, the clean accuracy on the images of an evaluation is the number.
        """
        quantities = CLEAN if self.quantity == CLEAN[0] else (self.quantity,)
        found = [
            record
            for record in records
            if record.quantity in quantities
            and record.epsilon == self.epsilon
            and (record.attack == self.attack or not self.attack)
            and math.isfinite(record.value)
        ]
        return min(
            found, key=lambda record: (quantities.index(record.quantity), -(record.num_images or 0)), default=None
        )


@dataclass(frozen=True, eq=False)
class Row:
    cell: str
    decoder: str
    records: Sequence[StudyRecord]
    found: Mapping[Measure, StudyRecord]
    dataset: str = ""
    of_model: Sequence[Audited] = ()

    @property
    def audits(self) -> dict[float, Verdict]:
        """The verdicts of this decoder, by rising epsilon."""
        own = [audit for audit in self.of_model if audit.decoder == self.decoder]
        return {audit.epsilon or 0.0: audit.verdict for audit in sorted(own, key=lambda audit: audit.epsilon or 0.0)}

    @property
    def trust(self) -> tuple[int, int]:
        """The place of its verdict at the largest epsilon among the others, the best first."""
        if self.audits:
            return list(self.audits.values())[-1].rank
        against = [audit.verdict.rank for audit in self.of_model if not audit.verdict.may_be_best]
        return max([self._without_audit(), *against])

    def _without_audit(self) -> tuple[int, int]:
        searched = [record for record in self.records if record.quantity.endswith("worst_case_accuracy")]
        if not searched:
            return FGSM_ALONE
        widest = max(searched, key=lambda record: (record.attack != IN_L2, record.epsilon or 0.0))
        return NOT_AUDITED if widest.value > 0.0 else NOTHING_LEFT

    @property
    def unattacked(self) -> float | None:
        shares = [record.value for record in self.records if record.quantity in UNATTACKED and record.attack == "FGSM"]
        return sum(shares) if shares else None

    def is_marked(self, measure: Measure) -> bool:
        """Whether an accuracy under FGSM is unreliable, because FGSM did not attack."""
        return measure.attack == "FGSM" and self.unattacked is not None and self.unattacked > UNATTACKED_SHARE

    def may_win(self, measure: Measure, *, others_audited: bool) -> bool:
        """Whether a figure may be the best of its column.

        Under attack, that is none of a model that an audit speaks against; and in L-infinity, the norm of audits, none
        without an audit if others of the table have one.
        """
        if measure.epsilon is None:
            return True
        if measure.attack == IN_L2:
            return not speak_against(self.of_model, measure.epsilon, "L2")
        unknown = others_audited and not self.audits
        return not (unknown or self.is_marked(measure) or speak_against(self.of_model, measure.epsilon))

    def rank(self, columns: Sequence[Measure]) -> tuple[tuple[int, int], list[tuple[int, float]], str]:
        """Return the row's sort key: its verdict, then the numbers of some columns, exact ones before bounds."""
        return self.trust, [_falling(self.found.get(column)) for column in columns], self.cell

    def description(self) -> tuple[Entry, ...]:
        first = self.records[0]
        objective = OBJECTIVE_NAMES.get(first.objective, first.objective)
        for rate, name in ((first.dropout, "dropout"), (first.dropconnect, "DropConnect")):
            objective += f", {name} {rate:g}" if rate else ""
        noise = {True: "yes", False: "no", None: ""}[first.noise]
        return (
            Entry(self.cell, self.cell),
            Entry(self.decoder.replace("_", " "), self.decoder),
            Entry(objective, objective),
            Entry("–", "") if first.beta is None else Entry(f"{first.beta:g}", repr(first.beta)),
            Entry(noise or "–", noise),
            Entry(first.setting or "–", first.setting),
            Entry("–", "") if first.seed is None else Entry(str(first.seed), str(first.seed)),
            Entry(self.dataset or "–", self.dataset),
        )

    def number(self, measure: Measure, *, is_best: bool, most: int) -> Entry:
        """Return the field of a number; it says on how many images it is, if others of the column are on more."""
        record = self.found.get(measure)
        if record is None:
            return Entry("–")
        marked, bound = self.is_marked(measure), bool(record.upper_bound)
        text = in_per_cent(record.value, is_bound=bound) + (DAGGER if marked else "")
        if record.num_images is not None and record.num_images < most:
            text += f" (n = {record.num_images:,})"
        tone = "marked" if marked else ""
        return Entry(text, repr(record.value), is_best, tone, bound, marked, record.num_images)

    def judgement(self, epsilon: float) -> Entry:
        """Return the field of the audit at an epsilon."""
        if not self.audits:
            return Entry("not audited", _place(self.trust))
        verdict = self.audits.get(epsilon)
        return Entry(verdict.text, _place(verdict.rank), tone=verdict.tone) if verdict else Entry("–")

    def share(self) -> Entry:
        if self.unattacked is None:
            return Entry("–")
        marked = self.unattacked > UNATTACKED_SHARE
        return Entry(per_cent(self.unattacked), repr(self.unattacked), tone="marked" if marked else "")


def audits_in(records: Iterable[StudyRecord]) -> dict[str, list[Audited]]:
    """Return the audits of each cell, of all its decoders."""
    found: dict[str, list[Audited]] = {}
    for record in records:
        if verdict := read_verdict(record.verdict):
            found.setdefault(record.cell, []).append(Audited(record.decoder, record.epsilon, verdict))
    return found


def _falling(record: StudyRecord | None) -> tuple[int, float]:
    if record is None:
        return 2, 0.0
    return int(bool(record.upper_bound) and record.value > 0.0), -record.value


def _place(rank: tuple[int, int]) -> str:
    return str(10 * rank[0] + rank[1])
