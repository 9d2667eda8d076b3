"""`ibrobust verify`: do these adversarial images break this model?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibrobust.cli.options import BatchSize, Device
from ibrobust.readable import per_cent


def verify(
    file: Annotated[Path, typer.Argument(help="File written by ibrobust attack --save-images.")],
    model: Annotated[str, typer.Argument(help="Stored model, or robustbench:NAME, timm:NAME, module:function.")],
    decoder: Annotated[str | None, typer.Option(help="Decoder of the model. By default its first.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="The --resize of the attack, if it had one.")] = None,
    batch_size: BatchSize = 250,
    device: Device = None,
) -> None:
    """Classify saved adversarial images with a model, and compare the result of each with the record in the file.

    The exit code is 1 if the images do not confirm the record. For another model than the record's this is a test of
    transfer: it says how many images that model still classifies correctly.
    """
    from ibrobust.cli.request import check_models, check_names
    from ibrobust.errors import IbrobustError

    if not file.is_file():
        raise IbrobustError(
            f"The file {str(file)!r} does not exist: give one written by ibrobust attack --save-images."
        )
    check_models([model], [decoder] if decoder else [])
    check_names(device=device)

    # These import torch, which takes seconds.
    from ibrobust.cli.attacking import check_run
    from ibrobust.devices import default_device
    from ibrobust.epsilon import format_epsilon
    from ibrobust.evaluation.adversarial_images import verify_adversarial_images
    from ibrobust.integrations.external_models import load_reference
    from ibrobust.integrations.references import is_reference
    from ibrobust.models import resized
    from ibrobust.registry import load_model

    check_run(device=device)
    place = device or default_device()
    loaded = (
        load_reference(model, device=place) if is_reference(model) else load_model(model, decoder=decoder, device=place)
    )
    if resize is not None:
        loaded = resized(loaded, resize)
    found = verify_adversarial_images(file, loaded, batch_size=batch_size)
    record = found.record
    typer.echo(
        f"{model} on {record.total} images, {record.attack} at "
        f"{format_epsilon(record.epsilon, norm=record.norm)} in {record.norm}: "
        f"{per_cent(found.clean_correct / record.total, 2)}% correct without an attack, "
        f"{'at most ' if found.robust_correct else ''}{per_cent(found.robust_accuracy, 2)}% under it"
    )
    if found.outside:
        typer.echo(f"Not counted: {_images(found.outside)} beyond epsilon or outside [0, 1].")
    if found.model not in ("", model):
        typer.echo(
            f"The images were made for {found.model}, so this is a test of transfer: {model} still classifies "
            f"{found.robust_correct} of {record.total} images correctly."
        )
        return
    if found.unconfirmed:
        typer.echo(f"Correct under attack here, but not in the record: {_images(found.unconfirmed)}.")
    if found.refuted:
        typer.echo(f"Correct under attack in the record, but not here: {_images(found.refuted)}.")
    if found.otherwise:
        typer.echo(
            f"For {_images(found.otherwise)}, this model and the record disagree about the class without an attack."
        )
    said = per_cent(record.robust_accuracy, 2)
    typer.echo(f"The record says {said}%: {'confirmed' if found.holds else 'not confirmed'}.")
    if not found.holds:
        raise typer.Exit(1)


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
