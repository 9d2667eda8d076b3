"""Records in, rich tables out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from ibrobust.evaluation.epsilon import format_epsilon
from ibrobust.evaluation.sweep import SweepResult

DAGGER = "†"
# Above this share of images with an exactly zero gradient, FGSM's accuracy is marked: those images were not attacked.
UNATTACKED_SHARE = 0.01


@dataclass(frozen=True)
class SweepRow:
    """One model of an attack table.

    Attributes:
        model: its name.
        decoder: the decoder it was attacked with.
        result: the sweep.
        verdict: of an audit, where the model's card holds one.
    """

    model: str
    decoder: str
    result: SweepResult
    verdict: str | None = None


def sweep_table(rows: Sequence[SweepRow], *, dataset: str) -> Table:
    """Return accuracies in per cent: models down, epsilons across, the best of each column marked.

    Args:
        rows: at least one; all with the same epsilons and images.
        dataset: name for the caption.
    """
    first = rows[0].result
    marked = any(_unattacked(row.result) > UNATTACKED_SHARE for row in rows)
    caption = f"n = {first.total:,} test images of {dataset}; accuracy in % under attack, 95% within ±{_half_width(first.total):.1f}"
    if len(rows) > 1:
        caption += "; best of a column in bold and starred"
    if marked:
        caption += (
            f"\n{DAGGER} more than {UNATTACKED_SHARE:.0%} of the images have a zero or non-finite gradient: FGSM did not "
            "attack them, and the accuracy is no sign of robustness. See ibrobust audit."
        )
    table = Table(title="Accuracy under FGSM", caption=caption, caption_justify="left", title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("decoder")
    table.add_column("clean", justify="right")
    for epsilon in first.epsilons:
        table.add_column(f"ε {format_epsilon(epsilon)}", justify="right")
    table.add_column("zero gradient", justify="right")
    table.add_column("not finite", justify="right")
    audited = any(row.verdict for row in rows)
    if audited:
        table.add_column("audit")
    columns = [[row.result.clean_accuracy for row in rows]]
    columns += [[row.result.accuracy[index] for row in rows] for index in range(len(first.epsilons))]
    for index, row in enumerate(rows):
        dagger = DAGGER if _unattacked(row.result) > UNATTACKED_SHARE else ""
        cells: list[str | Text] = [row.model, row.decoder]
        for place, column in enumerate(columns):
            best = len(rows) > 1 and column[index] == max(column)
            text = f"{'*' if best else ''}{100 * column[index]:.1f}{dagger if place else ''}"
            cells.append(Text(text, style="bold" if best else ""))
        cells.append(f"{row.result.zero_gradient_share:.1%}")
        cells.append(f"{row.result.nonfinite_gradient_share:.1%}")
        if audited:
            cells.append(row.verdict or "-")
        table.add_row(*cells)
    return table


def accuracy_table(card: Any) -> Table:
    """Return the clean accuracy of a card's decoders."""
    table = Table(
        title=card.name,
        title_justify="left",
        caption=f"clean accuracy on {card.dataset.num_test:,} test images of {card.dataset.name}",
        caption_justify="left",
    )
    table.add_column("decoder")
    table.add_column("accuracy %", justify="right")
    for decoder, record in card.clean_accuracy.items():
        table.add_row(decoder, f"{100 * record.accuracy:.2f}")
    return table


def models_table(cards: Sequence[Any]) -> Table:
    """Return one row a card: what it is, how long it trained, how well it does on clean images."""
    table = Table(title="Models", title_justify="left")
    table.add_column("name", overflow="fold")
    table.add_column("objective")
    table.add_column("data set")
    table.add_column("width", justify="right")
    table.add_column("epochs", justify="right")
    table.add_column("decoder: clean accuracy %")
    for card in cards:
        scores = ", ".join(f"{kind}: {100 * record.accuracy:.1f}" for kind, record in card.clean_accuracy.items())
        table.add_row(
            card.name,
            card.recipe.objective if card.recipe else "-",
            card.dataset.name,
            str(card.width),
            str(card.training.epochs_run) if card.training else "-",
            scores,
        )
    return table


def _unattacked(result: SweepResult) -> float:
    return result.zero_gradient_share + result.nonfinite_gradient_share


def _half_width(total: int) -> float:
    """Half the width, in percentage points, of the widest 95% binomial interval for `total` images."""
    return 100 * 1.96 * math.sqrt(0.25 / total)
