"""`ibrobust benchmark`: RobustBench's own benchmark on one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibrobust.cli.options import Device
from ibrobust.counts import MOST

if TYPE_CHECKING:
    from rich.console import Console

    from ibrobust.integrations.robustbench.run_benchmark import BenchmarkResult


def benchmark(
    model: Annotated[str, typer.Argument(help="Stored, robustbench:NAME or module:function; of 10 or 100 classes.")],
    eps: Annotated[str, typer.Option(help="Epsilon, as 8/255 or a decimal in [0, 1]. In L2 also above 1.")] = ("8/255"),
    n_examples: Annotated[int, typer.Option(min=1, help="Number of test images.")] = 1000,
    threat_model: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    decoder: Annotated[str | None, typer.Option(help="Decoder of a stored model. By default its first.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with cifar-10-batches-py or cifar-100-python, or an image folder with test/<class>/*. "
            "By default the model's own data."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST, help="Images per batch of an attack.")] = 250,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    device: Device = None,
    state: Annotated[Path | None, typer.Option(help="File for the progress; the same command resumes from it.")] = None,
    log: Annotated[Path | None, typer.Option(help="File to which AutoAttack's messages are appended.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to a file.")] = None,
) -> None:
    """Measure clean accuracy and accuracy under AutoAttack with RobustBench; store both in the model's card.

    On a CPU, AutoAttack takes minutes for tens of images. With --state, an interrupted run can be resumed.
    """
    from ibrobust.atomic import STDOUT, require_writable, write_json
    from ibrobust.cli.request import check_models, check_names, require_different
    from ibrobust.epsilon import read_epsilon, small_radii
    from ibrobust.errors import IbrobustError
    from ibrobust.evaluation.attacks.option_types import NORMS
    from ibrobust.integrations.references import is_reference
    from ibrobust.registry import model_card

    if threat_model not in NORMS:
        raise IbrobustError(f"The threat model {threat_model!r} is not known: choose one of {', '.join(NORMS)}.")
    epsilon = read_epsilon(eps, norm=threat_model)
    require_different({"--json": json_file, "--state": state, "--log": log})
    if json_file:
        require_writable(json_file, ending=".json")
    if state:
        require_writable(state)
    if log and log.suffix.lower() not in (".log", ".txt"):
        raise IbrobustError(f"The messages are appended as text: end the name {str(log)!r} in .log or .txt.")
    outside = is_reference(model)
    check_models([model], [decoder] if decoder else [])
    check_names(seed=seed, device=device)

    # These import torch, which takes seconds.
    from rich.console import Console
    from rich.markup import escape

    from ibrobust.cli.matching import training_images
    from ibrobust.cli.printing import tell_written
    from ibrobust.data.names import attacked_images, lasting_name
    from ibrobust.devices import check_device, default_device
    from ibrobust.integrations.external_models import load_reference
    from ibrobust.integrations.robustbench import run_benchmark as robustbench

    errors = Console(stderr=True)
    place = str(check_device(device)) if device is not None else default_device()
    if note := small_radii([epsilon], threat_model):
        errors.print(note, markup=False, soft_wrap=True)
    with errors.status("AutoAttack") as status:
        result = robustbench.benchmark(
            load_reference(model, device=place) if outside else model,
            eps=epsilon,
            n_examples=n_examples,
            threat_model=threat_model,
            data_dir=data_dir,
            batch_size=batch_size,
            device=place,
            seed=seed,
            decoder=decoder,
            name=model,
            state_path=state,
            log_path=log,
            progress=lambda line: status.update(escape(line)) if line else None,
        )
    try:  # files first, so that they exist even if printing fails
        if json_file:
            write_json(json_file, result.to_dict())
        if not outside:
            _store(result, errors)
    finally:
        card = None if outside else model_card(model)
        source = None if data_dir is None else lasting_name(str(data_dir.absolute()))
        trained = card and training_images(
            card, name=result.dataset, source=source, fingerprint=result.dataset_fingerprint
        )
        note = f"; trained on {trained}" if trained else ""
        _report(result, images=attacked_images(source), note=note, stderr=json_file == STDOUT)
    tell_written(json_file)


def _report(result: BenchmarkResult, *, images: str, note: str, stderr: bool) -> None:
    from ibrobust.cli.printing import print_table
    from ibrobust.reporting.attack_lines import AttackLine
    from ibrobust.reporting.attack_table import attack_table

    line = AttackLine(
        model=f"{result.model} ({result.decoder or '-'})",
        attack="AutoAttack",
        norm=result.threat_model,
        total=result.total,
        clean=result.clean_accuracy,
        accuracy={result.epsilon: result.robust_accuracy},
        upper_bounds=frozenset({result.epsilon} if result.flags else ()),
        warnings=result.flags,
    )
    how = f"RobustBench's benchmark, standard AutoAttack, {result.threat_model}, seed {result.seed}{note}"
    print_table(attack_table([line], dataset=result.dataset, images=images, note=how), stderr=stderr)


def _store(result: BenchmarkResult, errors: Console) -> None:
    from ibrobust.cli.flags import in_flags
    from ibrobust.errors import IbrobustError
    from ibrobust.integrations.robustbench.run_benchmark import store
    from ibrobust.registry import model_card

    try:
        key = store(result)
        kept = model_card(result.model).evaluations[key]
        if kept["robust_correct"] < result.robust_correct:
            errors.print(
                f"Not stored: the card already holds {kept['robust_correct']} of {kept['total']} robust images with "
                f"the seed {kept['seed']}, which stays in it.",
                style="yellow",
                markup=False,
            )
    except IbrobustError as error:  # the card of a shipped model is not changed; the result is still shown
        errors.print(f"Not stored: {in_flags(str(error))}", style="yellow", markup=False)
