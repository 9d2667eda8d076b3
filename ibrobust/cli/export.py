"""`ibrobust export`: a model as two files to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibrobust.cli.options import DataDir


def export(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    folder: Annotated[Path, typer.Argument(help="Folder for its card and weights.")],
    name: Annotated[str | None, typer.Option(help="Name of the exported model. By default the same.")] = None,
    description: Annotated[str | None, typer.Option(help="One sentence for the card.")] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Round the layers' weights to half precision and score the model again.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Write a model's card and weights to a folder, without paths of this machine."""
    from ibrobust.atomic import require_writable
    from ibrobust.cli.request import check_models
    from ibrobust.registry.card import require_replaceable

    require_writable(folder / f"{name or model}.yaml")
    check_models([model])
    require_replaceable(folder / f"{name or model}.yaml")
    from ibrobust.registry import export_model  # torch comes with it, seconds later

    card = export_model(model, folder, new_name=name, description=description, half=half, data_dir=data_dir)
    typer.echo(f"{folder / card.weights.file}, {folder / card.name}.yaml")
