"""`ibrobust list` and `ibrobust show`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ibrobust.reporting.model_rows import SORT_KEYS


def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, for example 'knn_ib*'.")] = "*",
    eps: Annotated[str, typer.Option(help="Epsilon of FGSM, worst case and audit.")] = "8/255",
    sort: Annotated[str, typer.Option(help=f"Order of the lines: {', '.join(SORT_KEYS)}.")] = "name",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, accuracies in [0, 1].")] = False,
) -> None:
    """List all models, your own and those that ship with ibrobust, with their accuracies, one line per decoder."""
    from ibrobust.cli.flags import in_flags
    from ibrobust.cli.printing import print_table
    from ibrobust.epsilon import format_epsilon, read_epsilon
    from ibrobust.errors import IbrobustError
    from ibrobust.registry import list_models, model_card
    from ibrobust.registry.catalog import weights_size
    from ibrobust.reporting.card_tables import models_table
    from ibrobust.reporting.model_rows import model_rows, sort_rows, withstood
    from ibrobust.suggestions import remedy

    epsilon = read_epsilon(eps)
    if sort not in SORT_KEYS:
        choices = f"choose one of {', '.join(SORT_KEYS)}."
        raise IbrobustError(f"--sort {sort!r} is not known: {remedy(sort, SORT_KEYS, choices)}")
    names = list_models(pattern)
    rows, damaged = [], []
    for name in names:
        try:
            card = model_card(name)
            rows += model_rows(card, epsilon=epsilon, size=weights_size(card))
        except IbrobustError as error:
            damaged.append(in_flags(str(error)))
    rows = sort_rows(rows, sort)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        print_table(models_table(rows))
        if all((row.fgsm, row.worst_case, row.verdict) == (None, None, None) for row in rows):
            known = {model: model_card(model) for model in dict.fromkeys(row.model for row in rows)}
            lines = [line for card in known.values() for line in withstood(card) if line.norm == "Linf"]
            stored = sorted({at for line in lines for at in line.accuracy})
            if epsilon in stored:
                typer.echo(
                    f"Note: Of the attacks stored at {format_epsilon(epsilon)} none is thorough: a worst case needs "
                    "worst_case or AutoAttack.",
                    err=True,
                )
            elif stored:
                at = ", ".join(map(format_epsilon, stored))
                typer.echo(f"Note: Nothing is stored at {format_epsilon(epsilon)}; stored are {at}.", err=True)
    elif not damaged:
        if not set(pattern) & set("*?["):
            model_card(pattern)  # the error has similar names
        typer.echo(f"No model matches {pattern!r}. Train one: ibrobust train --dataset digits --epochs 10 --width 16")
    for message in damaged:
        typer.echo(f"Error: {message}", err=True)
    if damaged:
        raise typer.Exit(2)


def show(
    model: Annotated[str, typer.Argument(help="Name of a model, as in ibrobust list.")],
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the card as it is stored.")] = False,
) -> None:
    """Show a model's card: its recipe, data, training, and accuracies."""
    from ibrobust.registry import model_card

    card = model_card(model)
    if as_yaml:
        typer.echo(card.to_text(), nl=False)
        return

    from rich.console import Console

    from ibrobust.cli.printing import has_no_width, print_table
    from ibrobust.registry.catalog import weights_size
    from ibrobust.reporting.card_tables import facts_table, withstood_table
    from ibrobust.reporting.model_rows import audit_sentences, withstood
    from ibrobust.training.quick_checks import without_effect

    unused = without_effect(card.recipe.objective) if card.recipe is not None else ()
    print_table(facts_table(card, size=weights_size(card), unused=unused))
    print_table(withstood_table(card, withstood(card)))
    console = Console()
    for sentence in audit_sentences(card):
        console.print(sentence, markup=False, highlight=False, soft_wrap=has_no_width(console))
    console.print(f"The whole card: ibrobust show {card.name} --yaml", markup=False, highlight=False, soft_wrap=True)
