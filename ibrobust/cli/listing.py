"""`ibrobust list` and `ibrobust show`."""

from __future__ import annotations

from typing import Annotated

import typer


def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, for example 'knn_ib*'.")] = "*",
) -> None:
    """List the models: yours and those that ship with ibrobust."""
    from ibrobust.cli.printing import print_table
    from ibrobust.errors import IbrobustError
    from ibrobust.registry import list_models, model_card
    from ibrobust.reporting.tables import models_table

    names = list_models(pattern)
    cards, damaged = [], []
    for name in names:
        try:
            cards.append(model_card(name))
        except IbrobustError as error:
            damaged.append(str(error))
    if cards:
        print_table(models_table(cards))
    elif not damaged:
        kind = "There are no models yet" if pattern == "*" else f"No model matches {pattern!r}"
        typer.echo(f"{kind}. Make one: ibrobust train --dataset digits --epochs 10 --width 16")
    for message in damaged:
        typer.echo(f"Error: {message}", err=True)
    if damaged:
        raise typer.Exit(2)


def show(model: Annotated[str, typer.Argument(help="Name of a model, as in ibrobust list.")]) -> None:
    """Show a model's card."""
    from rich.console import Console
    from rich.syntax import Syntax

    from ibrobust.registry import model_card

    card = model_card(model)
    console = Console()
    if console.is_terminal:
        console.print(Syntax(card.to_text(), "yaml", background_color="default", word_wrap=True))
    else:
        typer.echo(card.to_text(), nl=False)
