"""`ibrobust recipes`: the presets of `ibrobust train`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every field of each recipe.")] = False,
) -> None:
    """List the recipes that ship with ibrobust, with their purpose, accuracy and training time."""
    from ibrobust.training.presets import presets

    found = presets()
    if as_json:
        typer.echo(json.dumps({preset.name: preset.to_dict() for preset in found}, indent=2))
        return

    from ibrobust.cli.printing import print_table
    from ibrobust.reporting.card_tables import presets_table

    print_table(presets_table(found))
    typer.echo("Train with one: ibrobust train --preset knn_w16")
