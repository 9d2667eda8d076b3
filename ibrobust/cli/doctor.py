"""`ibrobust doctor`: check the installation and print the commands that fix problems."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Check the installation and print the command that fixes each problem.

    The exit code is 0 only if training and attacking can run.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ibrobust.integrations.doctor import main_job_can_run, run_checks

    console = Console()
    with console.status("looking"):
        checks = run_checks()
    colours = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table("", "", "found")
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
    console.print("ibrobust can run. Try it: ibrobust demo", style="green")
