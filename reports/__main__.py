"""Command line: python -m reports RUN [RUN ...]."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from core.commands import one_line_errors
from reports.comparison import Comparison, compare
from reports.honesty import failures, warnings
from reports.report import find_runs, write_page
from reports.run_folder import RunRecord
from reports.tables import headline_table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold run folders")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the report goes; by default the folder named, for several their parent's `report`"),
    ] = None,
) -> None:
    """Write report.html with plots from one run, or compare several: settings, seeds, client by client.

    Several runs also give comparison.csv and comparison.json. Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        folders = find_runs(runs)
        comparison = compare([RunRecord.read(folder) for folder in folders])
        page = write_page(comparison, out or (runs[0] if len(runs) == 1 else _common_folder(folders)))
        _show(comparison)
        print(f"report: {page}")


def _common_folder(folders: list[Path]) -> Path:
    return Path(os.path.commonpath([folder.parent.absolute() for folder in folders])) / "report"


def _show(comparison: Comparison) -> None:
    content = headline_table(comparison)
    table = Table(*content.columns, title=comparison.task)
    for row in content.rows:
        table.add_row(*(cell.text for cell in row))
    console = Console()
    if content.rows:
        console.print(table)
    for line in [*failures(comparison.records), *warnings(comparison.records)]:
        console.print(f"! {line}", style="yellow", markup=False, highlight=False)


if __name__ == "__main__":
    app()
