"""`ibrobust attack`: accuracy under attack of one or many models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibrobust.cli.options import BatchSize, DataDir, Device, NExamples, Resize, Split
from ibrobust.data.names import FORMS, attacked_images, attacked_name

if TYPE_CHECKING:
    from rich.console import Console

    from ibrobust.reporting.attack_lines import AttackLine


def attack_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Model names. By default all models for this data set."),
    ] = None,
    eps: Annotated[
        str,
        typer.Option(
            help="Epsilons in [0, 1] pixel scale, separated by commas: 0.01,0.03 or 2/255,8/255. For L2 "
            "attacks, values above 1 are allowed."
        ),
    ] = "1/255,2/255,4/255,8/255",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="Attack (repeatable): FGSM, PGD, AutoAttack, worst_case, any torchattacks class, foolbox:NAME, "
            "transfer:MODEL, an attack of an installed package, or a function package.module:attack, with options: "
            "'PGD:steps=50,loss=margin'. By default one FGSM sweep.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"{FORMS}. Default: the data set of the first stored model you name. Without model names: "
            "cifar10-jpeg. If all are of other packages: cifar10."
        ),
    ] = None,
    decoder: Annotated[
        list[str] | None,
        typer.Option(help="Decoder to attack (repeatable), or all. By default each model's first."),
    ] = None,
    split: Split = None,
    resize: Resize = None,
    n_examples: NExamples = None,
    batch_size: BatchSize = 250,
    seed: Annotated[int | None, typer.Option(help="Seed of the attacks given with --attack. By default 0.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for the progress of --attack; the same command resumes from it."),
    ] = None,
    device: Device = None,
    data_dir: DataDir = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
    save_images: Annotated[
        Path | None,
        typer.Option(
            help="Also write the adversarial images to this .safetensors file, for ibrobust verify. Needs one model, "
            "one --attack and one epsilon."
        ),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Also store the results in the cards of your own models.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw accuracy against epsilon: a .png, .pdf or .svg file.")
    ] = None,
) -> None:
    """Attack models at every epsilon and print the table."""
    from ibrobust.atomic import STDOUT, require_folder, require_writable
    from ibrobust.cli.request import check_models, check_names, require_different
    from ibrobust.epsilon import parse_epsilons, small_radii
    from ibrobust.errors import IbrobustError
    from ibrobust.reporting.figures.under_attack import figure_format, save_attack_figure

    # The attacks' norms decide on larger ones, see `check_run`.
    epsilons = parse_epsilons(eps, norm="L2" if attack else "Linf")
    if figure:
        figure_format(figure)
    if save_images and (len(models or []) != 1 or len(attack or []) != 1 or len(epsilons) != 1 or state):
        raise IbrobustError("--save-images needs one model, one --attack and one epsilon, and no --state.")
    if save_images and save_images.suffix != ".safetensors":
        raise IbrobustError(f"--save-images writes safetensors: end the name {str(save_images)!r} in .safetensors.")
    require_different({"--json": json_file, "--figure": figure, "--save-images": save_images})
    for wanted in (json_file, figure, save_images):
        if wanted:
            require_writable(wanted, ending=".json" if wanted is json_file else None)
    if state and not attack:
        raise IbrobustError("--state needs --attack: the FGSM sweep keeps no progress.")
    if seed is not None and not attack:
        raise IbrobustError("--seed needs --attack: the FGSM sweep draws no random numbers.")
    seed = seed or 0
    check_models(models or [], decoder or [])
    check_names(attacks=attack or [], epsilons=epsilons, dataset=dataset, split=split, seed=seed, device=device)
    if state:
        require_folder(state)

    # These import torch, which takes seconds.
    from rich.console import Console

    from ibrobust.cli.attacking import (
        NOT_STORED,
        attack_models,
        caption_note,
        check_run,
        choose_data,
        choose_models,
        store_attacked,
        with_surrogates,
        write_attacked,
    )
    from ibrobust.cli.printing import print_table, tell_written
    from ibrobust.reporting.attack_lines import attack_lines
    from ibrobust.reporting.attack_table import attack_table

    norms = check_run(attacks=attack or [], epsilons=epsilons, device=device)
    _tell(Console(stderr=True), [small_radii(epsilons, norm) for norm in norms])
    data, spec = choose_data(dataset, models or [], split=split, data_dir=data_dir)
    targets = choose_models(models or [], decoder or [], data, spec, resize=resize)
    if save_images and len(targets) > 1:
        raise IbrobustError(f"--save-images needs one decoder, but {len(targets)} were chosen: give one --decoder.")
    note = caption_note(targets)
    images = attacked_images(data.source)
    test = data.test.subset(n_examples)
    errors = Console(stderr=True)
    attacked = attack_models(
        targets,
        test,
        attacks=with_surrogates(attack or [], data, device=device),
        epsilons=epsilons,
        batch_size=batch_size,
        seed=seed,
        state=state,
        device=device,
        console=errors,
        images_file=save_images,
        class_names=data.class_names,
    )
    lines = [line for model in attacked for line in attack_lines(model)]
    notes: list[str | None] = [*_warnings(lines)]
    # Files first, so that they exist even if printing fails. The table is printed even if a file cannot be written.
    try:
        if json_file:
            write_attacked(json_file, attacked, data, resize)
        if figure:
            save_attack_figure(lines, figure, dataset=attacked_name(data.name, data.source))
        if store:
            notes += [store_attacked(model, data) for model in attacked] if resize is None else [NOT_STORED]
    finally:
        print_table(attack_table(lines, dataset=data.name, images=images, note=note), stderr=json_file == STDOUT)
    tell_written(json_file, figure, save_images)
    _tell(errors, notes)


def _warnings(lines: Sequence[AttackLine]) -> list[str]:
    """Return the attacks' warnings about each model, one sentence for all attacks that give the same warning."""
    attacks: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        for warning in () if line.is_worst_case else line.warnings:
            attacks.setdefault((line.model, warning), []).append(line.attack.partition(":")[0])
    return [
        f"{' and '.join(dict.fromkeys(names))} warn{'s' if len(set(names)) == 1 else ''} about {model}: {warning}"
        for (model, warning), names in attacks.items()
    ]


def _tell(console: Console, notes: Sequence[str | None]) -> None:
    for note in notes:
        if note:
            console.print(note, markup=False, soft_wrap=True)
