"""Tables of an audit and of a training on the terminal, and what all such tables share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from ibrobust.epsilon import format_epsilon
from ibrobust.readable import per_cent
from ibrobust.verdicts import Verdict

if TYPE_CHECKING:
    from ibrobust.evaluation.audit.report import AuditReport

# A column of text may be broken into lines down to this width, so that the numbers have room on 80 columns.
TEXT_WIDTH = 12

SURE, SURE_SHORT = "with 95% confidence", "(95%)"

# Of an audit's first answer.
TONES = {"real": "green", "partly": "yellow", "undecided": "yellow", "not": "bold red", "older": "dim"}


def left_table(**options: Any) -> Table:
    """Return a table with lines below its header alone, and its title and caption at the left."""
    return Table(**{"box": box.SIMPLE_HEAD, "title_justify": "left", "caption_justify": "left", **options})


def verdict_text(verdict: Verdict | None, epsilon: float | None = None) -> Text:
    """Return an audit's answers, coloured by the first, with the epsilon they are about; a dash without an audit."""
    if verdict is None:
        return Text("-", style="dim")
    where = "" if epsilon is None else f" at {format_epsilon(epsilon)}"
    return Text(verdict.text + where, style=TONES[verdict.tone])


def add_number_column(table: Table, header: str) -> None:
    """Add a column of numbers that is never narrower than its header."""
    # rich takes a header's longest word as the minimum width of a column, and cuts the header to it.
    table.add_column(header, justify="right", no_wrap=True, min_width=max(map(len, header.split("\n"))))


def audit_table(
    report: AuditReport, *, model: str, decoder: str, dataset: str, images: str = "test images", note: str = ""
) -> Table:
    """Return an audit's checks, one a row, and the headline above them all; `failures_table` says what failed.

    The caption names the images of the data set, such as its test images, and has the note, on the model's training
    data.
    """
    outcomes = [check.passed for check in report.checks]
    table = left_table(
        title=audit_title(report, model=model, decoder=decoder),
        caption=f"n = {report.n:,} {images} of {dataset}{' (quick)' if report.quick else ''}, seed {report.seed}; "
        f"{f'surrogate {report.surrogate}' if report.surrogate else 'no surrogate'}; "
        f"{report.cost.forward_images:,} images forward, {report.cost.backward_images:,} backward; "
        f"{SURE_SHORT}: {SURE}{'; -: does not apply here' if None in outcomes else ''}"
        f"{f'; {note}' if note else ''}",
        padding=(0, 1, 0, 0),
    )
    table.add_column("check", no_wrap=True, min_width=max(len(check.name) for check in report.checks))
    add_number_column(table, "value")
    table.add_column("threshold", overflow="fold")
    table.add_column("", no_wrap=True)
    for check in report.checks:
        words = {True: Text("pass"), False: Text("FAIL", style="bold red"), None: Text("-", style="dim")}
        threshold = check.threshold.replace(f", {SURE}", f" {SURE_SHORT}")  # a line per check on 80 columns
        table.add_row(check.name, check.shown, threshold, words[check.passed])
    return table


def audit_title(report: AuditReport, *, model: str, decoder: str) -> Text:
    """Return an audit's headline, its first answer coloured, with the counts behind it and the model's name."""
    return Text.assemble(
        (report.robustness, f"not italic {TONES[Verdict(report.robustness, report.gradient).tone]}"),
        f"{report.headline.removeprefix(report.robustness)}.\n{report.detail}\n{model} ({decoder})",
    )


def failures_table(report: AuditReport) -> Table:
    """Return a sentence and the reference for each failed check of an audit."""
    table = left_table(title="What failed", padding=(0, 1, 0, 0), show_header=False)
    table.add_column(overflow="fold", ratio=1)
    for check in report.failed:
        table.add_row(Text(f"{check.meaning} ({check.name}; {check.reference})"))
    return table


def accuracy_table(card: Any, *, images: str = "test images") -> Table:
    """Return the clean accuracy of a card's decoders, scored on these images of its data set."""
    table = left_table(
        title=card.name, caption=f"clean accuracy on {card.dataset.num_test:,} {images} of {card.dataset.name}"
    )
    table.add_column("decoder")
    table.add_column("accuracy %", justify="right")
    for decoder, record in card.clean_accuracy.items():
        table.add_row(decoder, per_cent(record.accuracy, 2))
    return table
