"""`ibrobust audit`: is the robustness real, or did the gradient vanish?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ibrobust.cli.options import BatchSize, DataDir, Device, Resize, Split
from ibrobust.data.names import FORMS, attacked_images


def audit(
    model: Annotated[str, typer.Argument(help="Stored model, or robustbench:NAME, timm:NAME, module:function.")],
    eps: Annotated[
        str, typer.Option(help="Epsilon at which the robustness is checked, as 8/255 or a decimal in [0, 1].")
    ] = "8/255",
    quick: Annotated[bool, typer.Option("--quick", help="Use 256 images and weaker attacks.")] = False,
    claim: Annotated[
        float | None,
        typer.Option(help="Robust accuracy in question, such as 0.47. By default FGSM's on the same images."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"{FORMS}. By default the stored model's own; cifar10 for models of other packages."),
    ] = None,
    decoder: Annotated[
        list[str] | None, typer.Option(help="Decoder to audit (repeatable), or all. By default the model's first.")
    ] = None,
    split: Split = None,
    resize: Resize = None,
    n_examples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of test images, spread evenly over the split. By default all; with --quick, 256."
        ),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(
            help="Surrogate model for transferred attacks, or none. By default a shipped cross-entropy model with the "
            "same classes and image size, if available."
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            help="Further attack in L-infinity (repeatable), as in ibrobust attack; it counts in the worst case.",
        ),
    ] = None,
    batch_size: BatchSize = 250,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Device = None,
    data_dir: DataDir = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the reports to this file.")] = None,
) -> None:
    """Audit a model: is its robustness real, and did its gradient vanish or mislead?

    The answers come first, then every check behind them. They are stored in the card of a stored model and shown by
    ibrobust attack.
    """
    from ibrobust.atomic import STDOUT, require_writable
    from ibrobust.cli.request import check_models, check_names
    from ibrobust.epsilon import read_epsilon
    from ibrobust.errors import IbrobustError

    epsilon = read_epsilon(eps)
    if claim is not None and not 0.0 < claim <= 1.0:
        raise IbrobustError(f"The claim {claim:g} is not a robust accuracy: give a number in (0, 1], such as 0.47.")
    if json_file:
        require_writable(json_file, ending=".json")
    check_models([model], decoder or [])
    check_names(
        attacks=attack or [],
        surrogate=surrogate,
        dataset=dataset,
        split=split,
        seed=seed,
        device=device,
        audits=True,
    )

    # These import torch, which takes seconds.

    from rich.console import Console

    from ibrobust.cli.attacking import (
        NOT_STORED,
        caption_note,
        check_run,
        choose_data,
        choose_models,
        choose_surrogate,
        run_audit,
        store_audit,
        with_surrogates,
        write_results,
    )
    from ibrobust.cli.printing import print_table, tell_written
    from ibrobust.reporting.tables import audit_table, failures_table

    check_run(attacks=attack or [], device=device)
    data, spec = choose_data(dataset, [model], split=split, data_dir=data_dir)
    targets = choose_models([model], decoder or [], data, spec, resize=resize)
    other = choose_surrogate(surrogate, model, data)
    own = with_surrogates(attack or [], data, device=device)
    test = data.test.subset(n_examples)
    note = caption_note(targets)
    reports = {}
    for target in targets:
        report = run_audit(
            target,
            test,
            epsilon=epsilon,
            quick=quick,
            claim=claim,
            surrogate=other,
            attacks=own,
            batch_size=batch_size,
            seed=seed,
            device=device,
            console=Console(stderr=True),
        )
        reports[target.decoder] = report
        refusal = None
        # Files first, so that they exist even if printing fails. The table is printed even if a file cannot be written.
        try:
            if json_file and (json_file != STDOUT or target is targets[-1]):  # one object
                audits = {decoder: report.to_dict() for decoder, report in reports.items()}
                write_results(json_file, data, resize, model=model, audits=audits)
            refusal = store_audit(target, report, data) if resize is None else NOT_STORED
        finally:
            print_table(
                audit_table(
                    report,
                    model=target.name,
                    decoder=target.decoder,
                    dataset=data.name,
                    images=attacked_images(data.source),
                    note=note,
                ),
                stderr=json_file == STDOUT,
            )
            if report.failed:
                print_table(failures_table(report), stderr=json_file == STDOUT)
        if refusal:
            typer.echo(refusal, err=True)
    tell_written(json_file)
