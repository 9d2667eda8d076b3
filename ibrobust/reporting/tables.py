"""rich tables of records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from ibrobust.epsilon import format_epsilon
from ibrobust.reporting.unattacked import DAGGER, UNATTACKED_SHARE
from ibrobust.verdicts import Verdict

if TYPE_CHECKING:
    from ibrobust.evaluation.attacks.result import AttackResult
    from ibrobust.evaluation.audit.report import AuditReport
    from ibrobust.evaluation.sweep import SweepResult


BOUND = "≤"


@dataclass(frozen=True)
class SweepRow:
    """One model of an attack table.

    Attributes:
        model: its name.
        decoder: the decoder it was attacked with.
        result: the sweep.
        verdict: of an audit, if the model's card holds one.
        audited_at: its epsilon.
        is_baseline: trained with plain cross-entropy; drawn in black.
    """

    model: str
    decoder: str
    result: SweepResult
    verdict: Verdict | None = None
    audited_at: float | None = None
    is_baseline: bool = False


def sweep_table(rows: Sequence[SweepRow], *, dataset: str, note: str = "") -> Table:
    """Return a table of accuracies in per cent: one row per model, one column per epsilon, the best of each marked.

    Args:
        rows: at least one; all with the same epsilons and images. A model with more than 1% of images that FGSM could
            not attack gets daggers, and cannot be the best under attack; neither can one whose audit says that its
            robustness is not real or that its gradient is not honest. The audit's answer is the first column.
        dataset: name for the caption.
        note: for the caption, on the models' training data.
    """
    first = rows[0].result
    some_nonfinite = any(row.result.nonfinite_gradient for row in rows)
    audited = any(row.verdict for row in rows)
    table = Table(
        title="Accuracy under FGSM, %",
        caption=_caption(rows, dataset, note),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    answers = [verdict_text(row.verdict, row.audited_at) for row in rows]
    if audited:
        table.add_column("audit", no_wrap=True, min_width=max(map(len, answers)))
    table.add_column("model (decoder)", overflow="fold", min_width=18)
    _add_number_column(table, "clean")
    for epsilon in first.epsilons:
        _add_number_column(table, f"ε {format_epsilon(epsilon)}".replace(" (", "\n("))
    _add_number_column(table, "zero\ngradient")
    if some_nonfinite:
        _add_number_column(table, "NaN or inf\ngradient")
    columns = [[row.result.clean_accuracy for row in rows]]
    columns += [[row.result.accuracy[index] for row in rows] for index in range(len(first.epsilons))]
    unattacked = [_unattacked(row.result) > UNATTACKED_SHARE for row in rows]
    barred = [
        out or (row.verdict is not None and not row.verdict.may_be_best)
        for row, out in zip(rows, unattacked, strict=True)
    ]
    for index, row in enumerate(rows):
        cells: list[str | Text] = [answers[index]] if audited else []
        cells.append(f"{row.model} ({row.decoder})")
        for place, column in enumerate(columns):
            # A model that was not attacked cannot be the best under attack, nor one that an audit speaks against.
            contenders = [value for value, out in zip(column, barred, strict=True) if place == 0 or not out]
            best = len(rows) > 1 and not (place > 0 and barred[index]) and column[index] == max(contenders)
            dagger = DAGGER if place > 0 and unattacked[index] else ""
            text = f"{'*' if best else ''}{100 * column[index]:.1f}{dagger}"
            cells.append(Text(text, style="bold" if best else ""))
        cells.append(f"{row.result.zero_gradient_share:.1%}")
        if some_nonfinite:
            cells.append(f"{row.result.nonfinite_gradient_share:.1%}")
        table.add_row(*cells)
    return table


# Of an audit's first answer.
TONES = {"real": "green", "partly": "yellow", "undecided": "yellow", "not": "bold red", "older": "dim"}


def verdict_text(verdict: Verdict | None, epsilon: float | None = None) -> Text:
    """Return an audit's answers, coloured by the first, with the epsilon they are about; a dash without an audit."""
    if verdict is None:
        return Text("-", style="dim")
    where = "" if epsilon is None else f" at {format_epsilon(epsilon)}"
    return Text(verdict.text + where, style=TONES[verdict.tone])


def _add_number_column(table: Table, header: str) -> None:
    # rich takes a header's longest word as the minimum width of a column, and cuts the header to it.
    table.add_column(header, justify="right", no_wrap=True, min_width=max(map(len, header.split("\n"))))


def _caption(rows: Sequence[SweepRow], dataset: str, note: str) -> str:
    total = rows[0].result.total
    caption = f"n = {total:,} test images of {dataset}; 95% intervals within ±{_half_width(total):.1f} points"
    if len(rows) > 1:
        caption += "; * best of its column"
        if any(row.verdict is not None and not row.verdict.may_be_best for row in rows):
            caption += " among models whose robustness an audit did not refute"
    if note:
        caption += f"; {note}"
    if any(_unattacked(row.result) > UNATTACKED_SHARE for row in rows):
        caption += (
            f"\n{DAGGER} not a sign of robustness: FGSM did not change more than {UNATTACKED_SHARE:.0%} of the images, "
            "because their gradient is zero or not finite"
        )
    return caption


@dataclass(frozen=True)
class AttackRow:
    """One model under any attacks.

    Attributes:
        model: its name.
        decoder: the decoder it was attacked with.
        results: one for each attack and epsilon, every attack at the same epsilons.
        worst: the worst case over attacks, image by image: one per epsilon, for each norm with several attacks.
        is_baseline: trained with plain cross-entropy; drawn in black.
    """

    model: str
    decoder: str
    results: tuple[AttackResult, ...]
    worst: tuple[AttackResult, ...]
    is_baseline: bool = False


def attack_table(rows: Sequence[AttackRow], *, dataset: str, note: str = "") -> Table:
    """Return robust accuracies in per cent: models and attacks down, epsilons across.

    An image counts if it is right before and under the attack. If an attack makes wrong images right, the caption
    says by how much the accuracy over all images is higher at most. A result with warnings is marked as an upper bound,
    and the caption gives them.

    Args:
        rows: at least one.
        dataset: name for the caption.
        note: for the caption, on the models' training data.
    """
    first = rows[0].results[0]
    epsilons = sorted({result.epsilon for result in rows[0].results})
    all_results = [result for row in rows for result in (*row.results, *row.worst)]
    righted = max(result.accuracy_under_attack - result.robust_accuracy for result in all_results)
    caption = (
        f"n = {first.total:,} test images of {dataset}; 95% intervals within ±{_half_width(first.total):.1f} points"
    )
    caption += "; worst case: image by image" if any(row.worst for row in rows) else ""
    if righted > 0:
        caption += f"; images that only the attack makes right are not counted, up to {100 * righted:.1f} points"
    caption += f"; {note}" if note else ""
    flags = dict.fromkeys(flag for result in all_results for flag in result.flags)
    if flags:
        caption += f"\n{BOUND} upper bound, other attacks would probably break more images: {' '.join(flags)}"
    table = Table(
        title="Robust accuracy (correct clean and under attack), %",
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("model (decoder)", overflow="fold", min_width=18)
    table.add_column("attack", overflow="fold", min_width=14)
    _add_number_column(table, "clean")
    norms = {result.norm for result in all_results}
    norm = norms.pop() if len(norms) == 1 else "Linf"
    for epsilon in epsilons:
        text = format_epsilon(epsilon, norm=norm)
        _add_number_column(table, f"ε {text}".replace(" (", "\n("))
    for row in rows:
        for attack in dict.fromkeys(result.attack for result in (*row.results, *row.worst)):
            found = {result.epsilon: result for result in (*row.results, *row.worst) if result.attack == attack}
            some = next(iter(found.values()))
            values = [found[epsilon] for epsilon in epsilons]
            is_worst = attack.startswith("worst case")
            label = f"worst case ({some.norm})" if is_worst else attack
            style = "bold" if is_worst else ""
            cells = [f"{100 * some.clean_accuracy:.1f}"]
            cells += [f"{BOUND if value.upper_bound else ''}{100 * value.robust_accuracy:.1f}" for value in values]
            table.add_row(f"{row.model} ({row.decoder})", label, *cells, style=style)
        table.add_section()
    return table


def audit_table(report: AuditReport, *, model: str, decoder: str, dataset: str, note: str = "") -> Table:
    """Return an audit's checks, one a row, and the headline above them all; `failures_table` says what failed.

    The note, on the model's training data, goes into the caption.
    """
    table = Table(
        title=audit_title(report, model=model, decoder=decoder),
        caption=f"n = {report.n:,} test images of {dataset}{' (quick)' if report.quick else ''}, seed {report.seed}; "
        f"{f'surrogate {report.surrogate}' if report.surrogate else 'no surrogate'}; "
        f"{report.cost.forward_images:,} images forward, {report.cost.backward_images:,} backward"
        f"{f'; {note}' if note else ''}",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("check", no_wrap=True, min_width=max(len(check.name) for check in report.checks))
    _add_number_column(table, "value")
    table.add_column("threshold", overflow="fold")
    table.add_column("", no_wrap=True)
    for check in report.checks:
        outcomes = {True: Text("pass"), False: Text("FAIL", style="bold red"), None: Text("-", style="dim")}
        table.add_row(check.name, check.shown, check.threshold, outcomes[check.passed])
    return table


def audit_title(report: AuditReport, *, model: str, decoder: str) -> Text:
    """Return an audit's headline, its first answer coloured, with the counts behind it and the model's name."""
    return Text.assemble(
        (report.robustness, f"not italic {TONES[Verdict(report.robustness, report.gradient).tone]}"),
        f"{report.headline.removeprefix(report.robustness)}.\n{report.detail}\n{model} ({decoder})",
    )


def failures_table(report: AuditReport) -> Table:
    """Return a sentence and the reference for each failed check of an audit."""
    table = Table(
        title="What failed", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False
    )
    table.add_column(overflow="fold", ratio=1)
    for check in report.failed:
        table.add_row(Text(f"{check.meaning} ({check.name}; {check.reference})"))
    return table


def accuracy_table(card: Any) -> Table:
    """Return the clean accuracy of a card's decoders."""
    table = Table(
        title=card.name,
        title_justify="left",
        caption=f"clean accuracy on {card.dataset.num_test:,} test images of {card.dataset.name}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("decoder")
    table.add_column("accuracy %", justify="right")
    for decoder, record in card.clean_accuracy.items():
        table.add_row(decoder, f"{100 * record.accuracy:.2f}")
    return table


def _unattacked(result: SweepResult) -> float:
    return result.zero_gradient_share + result.nonfinite_gradient_share


def _half_width(total: int) -> float:
    """Return half the width, in percentage points, of the widest 95% binomial interval for `total` images."""
    return 100 * 1.96 * math.sqrt(0.25 / total)
