"""`ibrobust report`: all models of this machine as one HTML page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def report(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, for example 'knn_ib*'.")] = "*",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Only models of this data set, named as in their cards. By default the data set of most models."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("ibrobust-report.html"),
) -> None:
    """Write the leaderboard of all models, your own and those that ship with ibrobust, as one HTML file.

    The numbers come from the cards. ibrobust attack --store, ibrobust audit and ibrobust study cards store them there.
    """
    from ibrobust.atomic import require_writable
    from ibrobust.errors import IbrobustError
    from ibrobust.registry import list_models, model_card

    require_writable(out, ending=".html")
    cards = []
    for name in list_models(pattern):
        try:
            card = model_card(name)
        except IbrobustError as error:
            typer.echo(f"Note: {error}", err=True)
            continue
        cards.append(card)
    counts = Counter(card.dataset.name for card in cards)
    if dataset is None and counts:
        dataset = counts.most_common(1)[0][0]
    if not counts[dataset or ""]:
        of_data = f" of the data set {dataset!r}" if dataset is not None else ""
        raise IbrobustError(f"No model{of_data} matches {pattern!r}: ibrobust list shows all.")
    for name, count in counts.items():
        if name != dataset:
            models, them = ("model", "it") if count == 1 else ("models", "them")
            typer.echo(f"Note: {count} {models} of {name} left out: add --dataset {name} to see {them}.", err=True)
    cards = [card for card in cards if card.dataset.name == dataset]
    images = {card.name: card.dataset.name for card in cards}
    if len({card.dataset.fingerprint for card in cards}) > 1:
        images = {card.name: f"{card.dataset.name} {card.dataset.fingerprint[:8]}" for card in cards}
        typer.echo(f"Note: the images of {dataset!r} are not the same for all models: see the column images.", err=True)

    # These import torch, which takes seconds.
    from tempfile import TemporaryDirectory

    from ibrobust.cli.printing import made_now
    from ibrobust.reporting.html.report import write_report
    from ibrobust.reporting.model_rows import readable_evaluations
    from ibrobust.study.results import results_of_card, rows_of
    from ibrobust.study.summary import model_facts
    from ibrobust.study.write_records import rows_of_models, write_records

    with TemporaryDirectory() as folder:
        records = Path(folder) / "records.csv"
        results = {}
        for card in cards:
            with readable_evaluations(card):
                results[card.name] = results_of_card(card)
                list(rows_of(results[card.name]))  # so that a damaged evaluation is told with its card
        # All at once, since a model's setting is what tells it from the others.
        write_records(records, rows_of_models("registry", results))
        write_report(
            title=f"Models on this machine: {dataset}",
            records=records,
            figures=(),
            cells=[{**model_facts(card), "dataset": images[card.name]} for card in cards],
            out=out,
            made=made_now(),
            unit="model",
        )
    typer.echo(out)
