"""`ibrobust study`: many models from one file, their records, figures and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibrobust.cli.options import DataDir, Device
from ibrobust.counts import MOST

if TYPE_CHECKING:
    from ibrobust.errors import IbrobustError
    from ibrobust.study import CellState, Study

FAILED = 1

app = typer.Typer(
    help="Run a study: many models from one file, their records, figures and report.", no_args_is_help=True
)

File = Annotated[str, typer.Argument(help="Path of a study file, or the name of one that ships with ibrobust.")]
Run = Annotated[str, typer.Argument(help="Name of a study that was run, or its file.")]


@app.command("run")
def run(
    file: File,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set instead of the file's: a known name, a folder or a file of images."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study instead of the file's.")] = None,
    launcher: Annotated[str, typer.Option(help="serial, local (several processes) or slurm.")] = "serial",
    jobs: Annotated[int, typer.Option(min=1, max=MOST, help="Processes of the local launcher.")] = 1,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also run cells that failed before.")] = False,
    device: Device = None,
    data_dir: DataDir = None,
) -> None:
    """Train and evaluate every unfinished cell, then draw the figures.

    Finished cells are skipped, and partly trained models resume from their checkpoint. A failed cell stays failed and
    does not stop the others; the exit code is 1 if any cell failed.
    """
    from ibrobust.cli.request import check_names
    from ibrobust.devices import check_device_name
    from ibrobust.errors import IbrobustError
    from ibrobust.home import require_writable_folder
    from ibrobust.study import load_study
    from ibrobust.study.launch.launchers import check_launcher

    study = load_study(file, dataset=dataset, name=name)
    require_writable_folder(study.folder)
    check_launcher(launcher)
    if jobs > 1 and launcher != "local":
        raise IbrobustError(
            f"--jobs {jobs} needs --launcher local: the launcher {launcher} takes no number of processes."
        )
    if device is not None:
        check_device_name(device)
    # A device of a Slurm job need not exist on this machine.
    own_device = device if launcher != "slurm" else None
    check_names(dataset=dataset, device=own_device)
    if (attacks := study.evaluations.attacks) is not None:
        for wanted in attacks.runs:
            check_names(attacks=[wanted.attack], epsilons=wanted.eps)
    if (audit := study.evaluations.audit) is not None:
        check_names(attacks=audit.attacks, surrogate=audit.surrogate, audits=True)

    # These import torch, which takes seconds.
    from rich.console import Console

    from ibrobust.cli.study_progress import watching
    from ibrobust.study import run_study
    from ibrobust.study.launch.launchers import choose_launcher

    launch = choose_launcher(launcher, jobs=jobs, device=device, data_dir=data_dir)
    errors = Console(stderr=True)
    try:
        with watching(study, errors):
            states = run_study(
                study,
                launch=launch,
                retry_failed=retry_failed,
                device=own_device,
                data_dir=data_dir,
            )
    except KeyboardInterrupt:
        errors.print("Interrupted. Give the same command to resume the study.", markup=False)
        raise typer.Exit(130) from None
    _finish(study, states)


@app.command("status")
def status(study: Run) -> None:
    """Show the state of every cell."""
    from ibrobust.study import stored_study

    found = stored_study(study)

    from ibrobust.study import study_states

    _show(found, study_states(found))


@app.command("figures")
def figures(study: Run) -> None:
    """Draw the figures again from the stored records, without loading a model."""
    from ibrobust.study import stored_study

    found = stored_study(study)

    from ibrobust.reporting.figures.draw import draw_study_figures

    for path in draw_study_figures(_records(found), found.folder / "figures", found.figures):
        typer.echo(path)


@app.command("report")
def report(
    study: Run,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file. By default report.html in the study's folder.")
    ] = None,
) -> None:
    """Write one HTML file with the leaderboard, the figures and every recipe; it opens without internet."""
    from ibrobust.atomic import require_writable
    from ibrobust.study import stored_study

    found = stored_study(study)
    if out is not None:
        require_writable(out, ending=".html")

    from ibrobust.cli.printing import made_now
    from ibrobust.reporting.html.report import write_report
    from ibrobust.study.summary import report_cells

    records = _records(found)
    target = out if out is not None else found.folder / "report.html"
    require_writable(target)
    drawn, notes = _draw_what_can_be(found)
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
    path = write_report(
        title=found.title or found.name,
        records=records,
        figures=drawn,
        cells=report_cells(found),
        out=target,
        made=made_now(),
    )
    typer.echo(path)


@app.command("cards")
def cards(
    study: Run,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Write the cards in model_zoo of a checkout instead, for maintainers.")
    ] = False,
) -> None:
    """Store what the study measured in the cards of its models, for ibrobust list and show."""
    from ibrobust.study import stored_study
    from ibrobust.study.write_cards import write_cards

    changed, others = write_cards(stored_study(study), shipped=shipped)
    for name in changed:
        typer.echo(name)
    kind = "a shipped model" if shipped else "your own model"
    for name in others:
        why = f"its cell is not done, it is not {kind}, or it or its surrogate was replaced since"
        typer.echo(f"Note: The card of {name} was not changed: {why}.", err=True)


def _records(study: Study) -> Path:
    """Collect and return the records of the finished cells; raise IbrobustError if no cell is finished.

    Outdated cells, which are left out, are named in notes.
    """
    from ibrobust.errors import IbrobustError
    from ibrobust.study import gather_records, study_states

    states = study_states(study)
    for state in states:
        if state.status == "outdated":
            typer.echo(f"Note: {state.cell} is left out. {state.error}", err=True)
    if not any(state.status == "done" for state in states):
        raise IbrobustError(f"No cell of the study {study.name!r} is finished: run it with ibrobust study run.")
    return gather_records(study)


def _draw_what_can_be(study: Study) -> tuple[list[Path], list[IbrobustError]]:
    """Return the figures, and the reasons if others could not be drawn: they may need more finished cells."""
    from ibrobust.reporting.figures.draw import draw_study_figures

    missing: list[IbrobustError] = []
    records, out = study.folder / "records.csv", study.folder / "figures"
    return draw_study_figures(records, out, study.figures, on_missing=missing.append), missing


def _show(study: Study, states: list[CellState]) -> None:
    """Print the table of the cells, and below it the error of each failed cell, which is too long for the table."""
    from ibrobust.cli.flags import in_flags
    from ibrobust.cli.printing import print_table
    from ibrobust.reporting.progress_table import study_table
    from ibrobust.study.time_left import seconds_left

    left = seconds_left(states)
    print_table(study_table(states, title=study.title or study.name, rows=len(states), seconds_left=left))
    for state in states:
        if state.status == "failed":
            error = in_flags(state.error or "")
            typer.echo(f"Failed: {state.cell}: {error}")


def _finish(study: Study, states: list[CellState]) -> None:
    _show(study, states)
    typer.echo(f"Records: {study.folder / 'records.csv'}")
    paths, notes = _draw_what_can_be(study)
    for text in (*(f"Figure: {path}" for path in paths), *(f"Note: {note}" for note in notes)):
        typer.echo(text)
    if any(state.status != "done" for state in states):
        raise typer.Exit(FAILED)
