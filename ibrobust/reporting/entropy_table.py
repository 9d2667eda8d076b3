"""The information in latents, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from ibrobust.reporting.tables import left_table

COLUMNS = {
    "H[Z]": "entropy",
    "H[Z|Y]": "conditional_entropy",
    "I[Y;Z]": "mutual_information",
    "H[Y|Z] <=": "label_information",
    "floor": "noise_floor",
}


def entropy_table(
    records: Mapping[str, Mapping[str, Any]], *, dataset: str, images: str = "test images", note: str = ""
) -> Table:
    """Return a table with one row per model; each record is a `LatentInformation` as a dictionary.

    The caption names the images of the data set, such as its test images.
    """
    some = next(iter(records.values()))
    means = [name for name, record in records.items() if record.get("means_of_gaussians")]
    if means:
        note = "; ".join(
            filter(None, [f"of {', '.join(means)}: the means of its Gaussians, without their learnt deviations", note])
        )
    table = left_table(
        title="Information in the latents, nats",
        caption=(
            f"n = {some['num_points']:,} {images} of {dataset}, k = {some['num_neighbors']}, "
            f"{'with' if some['noise'] else 'without'} zero-entropy noise. H[Z] and H[Z|Y] are biased upwards in many "
            "dimensions, by different amounts: compare each of them between models, not with each other. "
            f"The floor is H[Z] of the noise alone{f'; {note}' if note else ''}"
        ),
    )
    table.add_column("model", overflow="fold", min_width=min(32, max(map(len, records))))
    for header in COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    for name, record in records.items():
        values = [record[key] for key in COLUMNS.values()]
        table.add_row(name, *("-" if value is None else f"{value:.2f}" for value in values))
    return table
