"""`ibrobust doctor`: check the installation and print the commands that fix problems."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    full: Annotated[
        bool, typer.Option("--full", help="Also import each package and try it, a GPU included: about 10 seconds.")
    ] = False,
) -> None:
    """Check the installation and print the command that fixes each problem.

    The exit code is 0 only if no problem prevents training or attacking.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from ibrobust.integrations.doctor import main_job_can_run, run_checks

    console = Console()
    with console.status("looking"):
        checks = run_checks(full=full)
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table("", "", Column("found", overflow="fold"), box=box.SIMPLE_HEAD)
    for check in checks:
        colour = colours[check.status]
        table.add_row(check.name, f"[{colour}]{check.status}[/{colour}]", escape(check.detail))
    console.print(table)
    for check in checks:
        if check.remedy:  # below the table, so that a command stays on one line
            console.print(f"{check.name}: {check.remedy}", markup=False, highlight=False, soft_wrap=True)
    if not main_job_can_run(checks):
        console.print("ibrobust cannot run yet: fix the problems above.", style="red")
        raise typer.Exit(1)
    if full:
        console.print("ibrobust can run. Try it: ibrobust demo", style="green")
    else:
        console.print("What ibrobust needs is installed. Try it: ibrobust demo", style="green")
        console.print("To import and try each package, a GPU included: ibrobust doctor --full", highlight=False)
