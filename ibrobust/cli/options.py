"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibrobust.counts import MOST

Split = Annotated[
    str | None, typer.Option(help="Split of the data set to attack, such as val. By default its test images.")
]
Resize = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST, help="Image size that the model requires, such as 224. Images are scaled inside the model."
    ),
]
NExamples = Annotated[
    int | None, typer.Option(min=1, help="Number of test images, spread evenly over the split. By default all.")
]
BatchSize = Annotated[int, typer.Option(min=1, max=MOST, help="Images per batch.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. By default cuda if available.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder for downloaded data sets and the cache of decoded images.")]
