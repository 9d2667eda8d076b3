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
    decoder: Annotated[
        str | None,
        typer.Option(help="Decoder of the model. By default that of the attack, for another model its first."),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            min=1, help="Image size that the model requires. By default that of the attack, for another model none."
        ),
    ] = None,
    batch_size: BatchSize = 250,
    device: Device = None,
) -> None:
    """Classify saved adversarial images with a model, and compare the result of each with the record in the file.

    The exit code is 1 if the images do not confirm the record. For another model, decoder or image size than the
    record's this is a test of transfer: it says how many images that model still classifies correctly.
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
    from ibrobust.evaluation.adversarial_images import read_origin, verify_adversarial_images
    from ibrobust.integrations.external_models import load_reference
    from ibrobust.integrations.references import is_reference
    from ibrobust.models import resized
    from ibrobust.registry import load_model, model_card
    from ibrobust.registry.catalog import require_classes

    check_run(device=device)
    origin = read_origin(file)
    is_same = origin.model == model and origin.decoder is not None
    if is_same:
        resize = resize or origin.resize
        if decoder is None and origin.decoder != "-":
            decoder = origin.decoder
            check_models([model], [str(decoder)])
    place = device or default_device()
    if is_reference(model):
        channels, height, width = origin.shape if resize is None else (origin.shape[0], resize, resize)
        loaded = load_reference(
            model,
            device=place,
            channels=channels,
            image_size=(height, width) if origin.class_names else None,
            num_classes=len(origin.class_names) or None,
        )
    else:
        card = model_card(model)
        decoder = decoder or card.decoders[0]
        if origin.class_names:
            require_classes(
                card, origin.class_names, f"the images in {str(file)!r}", remedy="name a model of the same classes"
            )
        loaded = load_model(model, decoder=decoder, device=place)
    if resize is not None:
        loaded = resized(loaded, resize)
    found = verify_adversarial_images(file, loaded, batch_size=batch_size)
    record = found.record
    typer.echo(
        f"{model} on {record.total} images, {record.attack} at "
        f"{format_epsilon(record.epsilon, norm=record.norm)} in {record.norm}: "
        f"{per_cent(found.clean_correct / record.total, 2)}% correct without an attack, "
        f"{'at most ' if found.robust_correct else ''}{per_cent(found.robust_accuracy, 2, is_bound=True)}% under it"
    )
    if found.outside:
        typer.echo(f"Not counted: {_images(found.outside)} beyond epsilon or outside [0, 1].")
    made_for, here = origin.model, model
    if is_same and (origin.decoder, origin.resize) != (decoder or "-", resize):
        size_differs = origin.resize != resize
        made_for = _in_words(model, origin.decoder, origin.resize, size_differs)
        here = _in_words(model, decoder, resize, size_differs)
    if made_for not in ("", here):
        typer.echo(
            f"The images were made for {made_for}, so this is a test of transfer: {here} still classifies "
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


def _in_words(model: str, decoder: str | None, resize: int | None, with_size: bool) -> str:
    """Return a model with its decoder, and on request with the size that it scales images to."""
    size = "" if not with_size else " without --resize" if resize is None else f" with --resize {resize}"
    return f"{model} ({decoder or '-'}){size}"


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
