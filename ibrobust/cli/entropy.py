"""`ibrobust entropy`: the information in a model's latents about the images and their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibrobust.cli.options import DataDir, Device, NExamples, Resize
from ibrobust.counts import MOST
from ibrobust.data.names import FORMS


def entropy(
    models: Annotated[list[str], typer.Argument(help="Stored models.")],
    dataset: Annotated[
        str | None,
        typer.Option(help=f"{FORMS}. By default the model's own."),
    ] = None,
    noise: Annotated[
        bool, typer.Option(help="Add zero-entropy noise to the latents of every model, so that models can be compared.")
    ] = True,
    num_neighbors: Annotated[int, typer.Option(min=1, max=MOST, help="Neighbours k of the estimator.")] = 3,
    split: Annotated[
        str | None, typer.Option(help="Split of the data set to use, such as val. By default its test images.")
    ] = None,
    resize: Resize = None,
    n_examples: NExamples = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the decoder behind H[Y|Z].")] = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
) -> None:
    """Estimate H[Z], H[Z|Y], I[Y;Z] and H[Y|Z] of the test images' latents, in nats."""
    from ibrobust.atomic import STDOUT, require_writable
    from ibrobust.cli.request import check_models, check_names
    from ibrobust.errors import IbrobustError
    from ibrobust.integrations.references import is_reference

    if json_file:
        require_writable(json_file, ending=".json")
    for name in filter(is_reference, models):
        raise IbrobustError(f"{name!r} is not a stored model, so its latents are unknown: name a stored model.")
    check_models(models)
    check_names(dataset=dataset, split=split, seed=seed, device=device)

    # These import torch, which takes seconds.
    import torch
    from rich.console import Console

    from ibrobust.cli.attacking import caption_note, check_run, choose_data, choose_models, write_results
    from ibrobust.cli.printing import print_table, tell_written
    from ibrobust.data.names import attacked_images
    from ibrobust.devices import default_device
    from ibrobust.estimators.latent_information import latent_information
    from ibrobust.models import ImageClassifier, Resized, encode_in_batches, resized
    from ibrobust.registry.scoring import unit_batches
    from ibrobust.reporting.entropy_table import entropy_table

    check_run(device=device)
    data, spec = choose_data(dataset, models, split=split, data_dir=data_dir)
    test = data.test.subset(n_examples)
    place = torch.device(device or default_device())
    records = {}
    targets = choose_models(models, [], data, spec, resize=resize)
    for target in targets:
        model = target.load(str(place))
        scaled = model.model if isinstance(model, Resized) else model
        if not isinstance(scaled, ImageClassifier):
            raise IbrobustError(
                f"The latents of {target.name!r} are unknown, since ibrobust did not build its encoder: name a model "
                "that ibrobust trained."
            )
        encoder = scaled.encoder if resize is None else resized(scaled.encoder, resize)
        with Console(stderr=True).status(f"{target.name}: latents, entropies, and a decoder for H[Y|Z]"):
            outputs = encode_in_batches(encoder, unit_batches(test, place))
            latents = outputs[:, : scaled.latent_dim]
            found = latent_information(
                latents, test.labels.to(place), data.num_classes, noise=noise, num_neighbors=num_neighbors, seed=seed
            )
        # An encoder of dvib or ceb gives means first, then log standard deviations.
        records[target.name] = {**found.to_dict(), "means_of_gaussians": outputs.shape[1] > scaled.latent_dim}
    try:  # the file first, so that it exists even if printing fails
        if json_file:
            write_results(json_file, data, resize, models=records)
    finally:
        note = caption_note(targets)
        print_table(
            entropy_table(records, dataset=data.name, images=attacked_images(data.source), note=note),
            stderr=json_file == STDOUT,
        )
    tell_written(json_file)
