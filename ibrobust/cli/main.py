"""The entry point of the command line: its commands, and how it reports errors.

Nothing here imports torch: `ibrobust --help` answers at once. A command's own file is imported when it runs.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from ibrobust import __version__, processes
from ibrobust.cli import (
    add,
    attack,
    audit,
    benchmark,
    demo,
    doctor,
    entropy,
    export,
    listing,
    recipes,
    report,
    study,
    train,
    verify,
)
from ibrobust.cli.flags import in_flags
from ibrobust.cli.streams import accept_any_text
from ibrobust.errors import IbrobustError
from ibrobust.faults import complaint
from ibrobust.home import HOME_VARIABLE, home

# click's, which newer versions of typer hold within themselves.
UsageError: type[Any] = typer.BadParameter.__bases__[0]

USAGE_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="ibrobust",
    help="Adversarial-robustness benchmark for information-bottleneck classifiers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("recipes")(recipes.recipes)
app.command("attack")(attack.attack_command)
app.command("audit")(audit.audit)
app.command("verify")(verify.verify)
app.command("entropy")(entropy.entropy)
app.command("list")(listing.list_command)
app.command("show")(listing.show)
app.command("add")(add.add)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("benchmark")(benchmark.benchmark)
app.add_typer(study.app, name="study")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ibrobust {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line; exit with 0, with 2 if the user's input cannot be used, with 130 if interrupted."""
    accept_any_text()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            code = app(standalone_mode=False)  # otherwise typer prints errors in a box
    except UsageError as error:
        _fail(_usage(error))
    except typer.Abort:
        sys.exit(1)
    except IbrobustError as error:
        _fail(in_flags(str(error)))
    except BrokenPipeError:
        # The reader, for example `head`, has closed the pipe. Python must not complain about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(_os_error(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        _fail(f"Not enough memory ({reason}): choose a smaller network, batch size or number of images.")
    if code == INTERRUPTED:
        _tell_interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Any) -> str:
    """Return one sentence on an option or argument that typer cannot use; "" if it has shown the help instead."""
    cause = error.__cause__
    if isinstance(cause, ValidationError) and error.param is not None:
        fault = cause.errors()[0]
        value = repr(fault["input"]) if fault["type"].endswith("_parsing") else fault["input"]
        return f"{max(error.param.opts, key=len)} {value}{complaint(fault)}."
    said = str(error.format_message())
    if not said or error.ctx is None:
        return said
    return f"{said}{'' if said[-1] in '.?' else '.'} {error.ctx.command_path} --help shows what it takes."


def _os_error(error: OSError) -> str:
    """Return one sentence on a file that cannot be read or written, with the remedy."""
    why = error.strerror or str(error)
    if not error.filename:
        return f"{why}."
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    verb = "written" if full or error.errno == errno.EROFS else "read or written"
    remedy = "free space on that disk, or choose another" if full else "choose another place"
    if Path(os.fsdecode(error.filename)).is_relative_to(home()):
        place = "on another disk" if full else "that you can write to"
        remedy = f"{'free space on that disk, or ' if full else ''}set {HOME_VARIABLE} to a folder {place}"
    return f"{os.fsdecode(error.filename)!r} cannot be {verb} ({why}): {remedy}."


def _out_of_memory(error: Exception) -> bool:
    """Return whether the memory of the machine or of a GPU was too small; torch has no class for the former."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("allocate memory", "out of memory", "not enough memory")
    )


def _show_warning(message: Warning | str, *_: object) -> None:
    if processes.is_main():
        typer.echo(f"Warning: {message}", err=True)


def _tell_interrupted() -> None:
    command = sys.argv[1]
    if command in ("train", "study"):  # they have told it themselves
        return
    said = "Interrupted."
    if command in ("attack", "benchmark"):
        kept = any(argument.partition("=")[0] == "--state" for argument in sys.argv)
        place = "FOLDER" if command == "attack" else "FILE"
        said = f"Interrupted: {'the same command resumes' if kept else f'--state {place} lets the next run resume'}."
    typer.echo(said, err=True)


def _fail(message: str) -> NoReturn:
    if processes.is_main() and message:
        typer.echo(f"Error: {message}", err=True)
    sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
