"""`ibrobust doctor`: what can run here, and what mends the rest."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Look at everything that ibrobust needs; name the command that mends each trouble.

    Exits with 0 only when training, attacking and benchmarking can run.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ibrobust.integrations.doctor import main_job_can_run, run_checks

    console = Console()
    with console.status("looking"):
        checks = run_checks()
    colours = {"ok": "green", "note": "yellow", "trouble": "red"}
    table = Table("", "", "found")
    for check in checks:
        colour = colours[check.status]
        table.add_row(check.name, f"[{colour}]{check.status}[/{colour}]", escape(check.detail))
    console.print(table)
    for check in checks:
        if check.remedy:  # below the table, where a command is not broken over lines
            console.print(f"{check.name}: {check.remedy}", markup=False, highlight=False, soft_wrap=True)
    if not main_job_can_run(checks):
        console.print("The main job cannot run yet.", style="red")
        raise typer.Exit(1)
    console.print("The main job can run: ibrobust demo", style="green")
