"""Tables of model cards: the list of models, and one whole card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from rich.table import Table

from ibrobust.epsilon import format_epsilon
from ibrobust.reporting.marks import BOUND, DAGGER, NO_SIGN, bound_sign, in_per_cent
from ibrobust.reporting.model_rows import ModelRow, Withstood
from ibrobust.reporting.tables import TEXT_WIDTH, left_table, verdict_text
from ibrobust.verdicts import read_verdict

# More epsilons make a table wider than a terminal.
MOST_EPSILONS = 5


def models_table(rows: Sequence[ModelRow]) -> Table:
    """Return a line for each model and decoder, by data set if there are several; at least one row, all of one epsilon.

    Accuracies on different images cannot be compared.
    """
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    rows = sorted(rows, key=lambda row: datasets.index(row.dataset))
    epsilon = format_epsilon(rows[0].epsilon)
    signs = [bound_sign(row.worst_case, is_bound=row.upper_bound) for row in rows]
    fgsm_signs = [bound_sign(row.fgsm, is_bound=row.fgsm_upper_bound) for row in rows]
    marks = f"; {BOUND} upper bound" if any((*signs, *fgsm_signs)) else ""
    marks += _dagger(any(row.fgsm_is_marked and row.fgsm is not None for row in rows))
    table = left_table(
        title="Models",
        caption=f"accuracy, %; FGSM, the worst case over all attacks and the audit at epsilon {epsilon}; "
        f"{_images(rows)}- not measured{marks}",
        padding=0,
        show_edge=False,  # fits into 80 columns
    )
    # Names whole, to be copied into the next command.
    table.add_column("model", no_wrap=True)
    table.add_column("decoder", no_wrap=True)
    for header in ("clean", "FGSM", "worst"):
        table.add_column(header, justify="right", no_wrap=True, min_width=5)
    longest = max(len(row.verdict or "-") for row in rows)
    table.add_column("audit", overflow="fold", min_width=max(len("audit"), min(longest, TEXT_WIDTH)))
    table.add_column("MB", justify="right", no_wrap=True, min_width=4)
    shown = None
    for row in rows:
        if len(datasets) > 1 and row.dataset != shown:
            shown = row.dataset
            table.add_section()
            table.add_row(f"trained on {shown}", style="bold")
        size = "-" if row.bytes is None else f"{row.bytes / 1e6:.1f}"
        worst = percent(row.worst_case, is_bound=row.upper_bound)
        fgsm = percent(row.fgsm, is_bound=row.fgsm_upper_bound)
        fgsm += DAGGER if row.fgsm_is_marked and row.fgsm is not None else ""
        numbers = [percent(row.clean), fgsm, worst]
        table.add_row(row.model, row.decoder, *numbers, verdict_text(read_verdict(row.verdict or "")), size)
    return table


def _images(rows: Sequence[ModelRow]) -> str:
    """Return on how many images the columns were measured."""
    said = []
    for column, field in (("clean", "clean_total"), ("FGSM", "fgsm_total"), ("worst", "worst_case_total")):
        totals = sorted({total for row in rows if (total := getattr(row, field)) is not None})
        if totals:
            least = f"{totals[0]:,} to " if len(totals) > 1 else ""
            said.append(f"{column} on {least}{totals[-1]:,}")
    return f"{', '.join(said)} images; " if said else ""


def presets_table(presets: Sequence[Any]) -> Table:
    """Return one row per preset of `ibrobust.training.presets`: its purpose and its measured results."""
    table = left_table(
        title="Recipes",
        caption="accuracy: clean, on the test images of CIFAR-10 re-encoded as JPEG",
        padding=(0, 1, 1, 0),
    )
    table.add_column("preset", no_wrap=True)
    table.add_column("what it is for, how accurate it is, how long it takes")
    for preset in presets:
        table.add_row(preset.name, f"{preset.purpose}\naccuracy: {preset.accuracy}\ntime: {preset.time}")
    return table


def facts_table(card: Any, *, size: int | None, unused: Collection[str] = ()) -> Table:
    """Return the content of a card except its results: recipe, data, training, weights (of `size` bytes).

    Of beta and noise it leaves out those in `unused`, which had no effect on the training.
    """
    table = left_table(title=card.name, caption=card.description or None, box=None)
    table.show_header = False
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    recipe, data = card.recipe, card.dataset
    if recipe is None:
        table.add_row("recipe", "none: the model was registered from outside")
    else:
        settings = {"beta": f"beta {recipe.beta:g}", "noise": f"noise {'on' if recipe.noise else 'off'}"}
        used = (text for field, text in settings.items() if field not in unused)
        table.add_row("objective", ", ".join((recipe.objective, *used)))
        table.add_row(
            "training",
            f"{recipe.epochs} epochs, batches of {recipe.batch_size}, {recipe.optimizer} at {recipe.learning_rate:g}, "
            f"{recipe.schedule}, augmentation {recipe.augment}, seed {recipe.seed}",
        )
    if card.architecture is not None:
        table.add_row("network", f"built by {card.architecture.factory}")
    else:
        encoder = f"ResNet18 of width {card.width}, {card.latent_dim} latent dimensions"
        table.add_row("encoder", encoder + (", fixed power" if card.fixed_power else ""))
    table.add_row("decoders", ", ".join(card.decoders))
    table.add_row(
        "data",
        f"{data.name}: {data.num_train:,} training and {data.num_test:,} test images, {len(data.class_names)} classes",
    )
    if card.training is not None:
        made = card.training
        took = timedelta(seconds=round(made.seconds))
        table.add_row("made", f"{made.created[:10]}, trained in {took} on {made.hardware}")
    shown = "missing" if size is None else f"{size / 1e6:.1f} MB"
    table.add_row("weights", f"{card.weights.file} ({shown})")
    return table


def withstood_table(card: Any, lines: Sequence[Withstood]) -> Table:
    """Return the accuracy of each decoder, clean and under attack: one row per attack, one column per epsilon."""
    often = Counter((line.norm, epsilon) for line in lines for epsilon in line.accuracy)
    best = sorted(often, key=lambda place: (-often[place], "(" in format_epsilon(place[1], norm=place[0]), place))
    kept = sorted(best[:MOST_EPSILONS])
    left = len(best) - len(kept)
    further = "1 further epsilon is" if left == 1 else f"{left} further epsilons are"
    table = left_table(
        title="Accuracy, %",
        caption="worst case: correct without an attack and under every attack"
        + (f"; {BOUND} upper bound" if any(line.upper_bounds for line in lines) else "")
        + _dagger(any(line.is_marked for line in lines))
        + (f"; {further} in the whole card" if left else ""),
        padding=(0, 1, 0, 0),
    )
    table.add_column("decoder", no_wrap=True)
    table.add_column("attack", overflow="fold", min_width=TEXT_WIDTH)
    table.add_column("images", justify="right", no_wrap=True)
    for norm, epsilon in kept:
        written = format_epsilon(epsilon, norm=norm).replace(" (", "\n(")
        table.add_column(f"{'' if norm == 'Linf' else norm + ' '}{written}", justify="right", no_wrap=True)
    for decoder in card.decoders:
        clean = card.clean_accuracy.get(decoder)
        if clean is not None:
            table.add_row(decoder, f"none: {percent(clean.accuracy)}", f"{clean.total:,}", style="bold")
        for line in lines:
            values = [line.accuracy.get(epsilon) if line.norm == norm else None for norm, epsilon in kept]
            if line.decoder == decoder and any(value is not None for value in values):
                shown = [
                    percent(value, is_bound=epsilon in line.upper_bounds)
                    + (DAGGER if value is not None and line.is_marked else "")
                    for value, (_, epsilon) in zip(values, kept, strict=True)
                ]
                table.add_row("", line.attack, f"{line.total:,}", *shown)
    return table


def _dagger(is_needed: bool) -> str:
    return f"; {NO_SIGN}" if is_needed else ""


def percent(value: float | None, *, is_bound: bool = False) -> str:
    """Return a share in [0, 1] in per cent with its sign if it is an upper bound, or a dash if it is unknown."""
    return "-" if value is None else in_per_cent(value, is_bound=is_bound)
