"""The first lines of a study's report: its progress, the audits' verdicts, and the most robust model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ibrobust.epsilon import format_epsilon
from ibrobust.readable import percent
from ibrobust.records import StudyRecord
from ibrobust.reporting.figures.series import WORST_CASE
from ibrobust.reporting.html.leaderboard_rows import audits_in
from ibrobust.verdicts import Verdict, doubts, read_verdict, speak_against

MOST_NAMED = 3  # models with the same accuracy
STATUSES = ("done", "failed", "interrupted", "running", "waiting")


def summary(records: Sequence[StudyRecord], cells: Sequence[Mapping[str, Any]], *, unit: str = "cell") -> list[str]:
    """Return a few sentences; those without content are left out. A report is about cells, or about models."""
    datasets = {str(cell["name"]): str(cell.get("dataset") or "") for cell in cells}
    sentences = (
        _progress(cells, unit),
        *_audits(records, unit),
        *_most_robust(records, datasets),
        _overstated(records),
    )
    return [sentence for sentence in sentences if sentence]


def _progress(cells: Sequence[Mapping[str, Any]], unit: str) -> str:
    if not cells:
        return ""
    count = f"{len(cells)} {unit if len(cells) == 1 else f'{unit}s'}"
    if unit != "cell":
        return f"{count}."
    counts = Counter(cell["status"] for cell in cells)
    others = [status for status in counts if status not in STATUSES]
    listed = [f"{counts[status]} {status}" for status in (*STATUSES, *others) if counts[status]]
    return f"{count}: {', '.join(listed)}."


def _audits(records: Sequence[StudyRecord], unit: str) -> list[str]:
    """Count the answers at each epsilon: an answer is about one epsilon, and may be another one at the next."""
    answers: dict[float, dict[tuple[str, str], Verdict]] = {}
    for record in records:
        if verdict := read_verdict(record.verdict):
            answers.setdefault(record.epsilon or 0.0, {})[record.cell, record.decoder] = verdict
    sentences = []
    for epsilon, found in sorted(answers.items()):
        counts = Counter(verdict.text for verdict in sorted(found.values(), key=lambda verdict: verdict.rank))
        where = f" at ε = {format_epsilon(epsilon)}" if epsilon else ""
        listed = "; ".join(f"{count} {text}" for text, count in counts.items())
        sentences.append(f"Audits{where}, one per {unit} and decoder: {listed}.")
    return sentences or ["No model was audited, so it is unknown whether these accuracies show robustness."]


def _most_robust(records: Sequence[StudyRecord], datasets: Mapping[str, str]) -> list[str]:
    """Name the highest worst case at the largest epsilon that was audited or else attacked, of models that may win.

    There is one sentence for each data set. Numbers on fewer images than others do not win.
    """
    names = list(dict.fromkeys(datasets.get(record.cell, "") for record in records))
    sentences = []
    for name in names:
        of_images = [record for record in records if datasets.get(record.cell, "") == name]
        where = f" on {name}" if len(names) > 1 and name else ""
        sentences.append(_most_robust_of(of_images, where))
    return sentences


def _most_robust_of(records: Sequence[StudyRecord], where: str) -> str:
    audits = audits_in(records)
    audited = {(cell, audit.decoder) for cell, of_cell in audits.items() for audit in of_cell}
    unknown = {(record.cell, record.decoder) for record in records} - audited if audited else set()
    by_audit, by_attacks = (
        _at_largest_epsilon(records, quantity) for quantity in ("audit_worst_case_accuracy", "worst_case_accuracy")
    )
    ranked = [(by_audit, "the audit's worst case"), (by_attacks, "the worst case over attacks")]
    # Of two numbers at one epsilon, as in the leaderboard, the one on more images.
    if by_audit and by_attacks and by_audit[0].epsilon == by_attacks[0].epsilon and _most(by_attacks) > _most(by_audit):
        ranked.reverse()
    for found, what in ranked:
        contenders = [
            record
            for record in found
            if (record.num_images or 0) == _most(found)
            and not speak_against(audits.get(record.cell, ()), record.epsilon or 0.0)
            and not ((record.cell, record.decoder) in unknown or record.upper_bound)
        ]
        if not contenders:
            continue
        among = ", without models that an audit calls not real or not honest" if audits else ""
        if any((record.cell, record.decoder) in unknown for record in found):
            among += " and those without an audit"
        if any(record.upper_bound for record in found):
            among += "; upper bounds (≤) are left out"
        best = max(contenders, key=lambda record: record.value)
        number = f"{percent(best.value)}{_interval(best)}"
        if best.value:
            who = f", {_named([record for record in contenders if record.value == best.value])}"
        else:
            who = f"; {'none of these models' if len(contenders) < len(found) else 'no model'} keeps any image"
        return f"Highest accuracy in {what}{where} at ε = {format_epsilon(best.epsilon or 0.0)}{among}: {number}{who}."
    return ""


def _at_largest_epsilon(records: Sequence[StudyRecord], quantity: str) -> list[StudyRecord]:
    """Return the worst case of each cell and decoder at the largest epsilon, of several the one on the most images."""
    found = [
        record
        for record in records
        if record.quantity == quantity and record.epsilon is not None and record.attack in ("", WORST_CASE)
    ]
    largest = max((record.epsilon or 0.0 for record in found), default=None)
    at_largest = [record for record in found if record.epsilon == largest]
    by_images = sorted(at_largest, key=lambda record: record.num_images or 0)
    return list({(record.cell, record.decoder): record for record in by_images}.values())


def _most(found: Sequence[StudyRecord]) -> int:
    return max((record.num_images or 0 for record in found), default=0)


def _named(equal: Sequence[StudyRecord]) -> str:
    """Return the names of some models with their decoders, or their number if there are many."""
    decoders: dict[str, list[str]] = {}
    for record in equal:
        decoders.setdefault(record.cell, []).append(record.decoder.replace("_", " "))
    if len(decoders) > MOST_NAMED:
        return f"{len(decoders)} models"
    *others, last = (f"{cell} ({', '.join(names)})" for cell, names in decoders.items())
    return f"{', '.join(others)} and {last}" if others else last


def _interval(record: StudyRecord) -> str:
    """Return Wilson's 95% interval in brackets; it has a positive width even for an accuracy of 0."""
    if not record.num_images:
        return ""
    n, share, z = record.num_images, record.value, 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f" (95% interval {abs(100 * (middle - half)):.1f} to {100 * (middle + half):.1f}, n = {n:,})"


def _overstated(records: Sequence[StudyRecord]) -> str:
    """Name the highest accuracy under FGSM that an audit of the model and decoder speaks against."""
    audits = audits_in(records)
    refuted = [
        (record, found[0])
        for record in records
        if record.attack == "FGSM" and record.quantity == "accuracy" and record.epsilon
        if (found := doubts([a for a in audits.get(record.cell, ()) if a.decoder == record.decoder], record.epsilon))
    ]
    if not refuted:
        return ""
    highest, audit = max(refuted, key=lambda pair: (pair[0].epsilon or 0.0, pair[0].value))
    at = "" if audit.epsilon in (None, highest.epsilon) else f" at {format_epsilon(audit.epsilon)}"
    return (
        f"Not a sign of robustness: {highest.cell} ({highest.decoder.replace('_', ' ')}) keeps "
        f"{percent(highest.value)} under FGSM at ε = {format_epsilon(highest.epsilon or 0.0)}, and its audit{at} "
        f"says: {audit.verdict.text}."
    )
