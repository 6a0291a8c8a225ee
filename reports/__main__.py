"""Command line: python -m reports RUN [RUN ...] and python -m reports table RESULTS."""

import os
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from core.commands import DefaultCommand, one_line_errors
from core.files import write_text
from reports.aggregate import markdown, read_summaries
from reports.comparison import Comparison, compare
from reports.experiment_summary import summarise
from reports.honesty import failures, warnings
from reports.report import find_runs, write_page
from reports.run_folder import RunRecord
from reports.tables import headline_table

METRICS = 2
"""Columns of scores that fit a terminal."""
HEAD = 16
"""Letters in a line of a column's head."""


app = typer.Typer(cls=DefaultCommand, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Report on runs: `python -m reports RUN [RUN ...]`, or list them all: `python -m reports table RESULTS`.

    `python -m reports experiments FOLDER` sums up the experiments of one config.

    A report is a page with plots and tables of one run, or of several side by side.

    A run folder that is called like a command is named with its path: `./table`.
    """


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold run folders")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the report goes; by default the folder named, for several their parent's `report`"),
    ] = None,
) -> None:
    """Write report.html with plots from one run, or compare several: settings, seeds, client by client. The default.

    Beside it go predictions.csv, per_class.csv or per_gene.csv, and units.csv, where the runs have stored what these
    hold. Several runs also give comparison.csv and comparison.json. Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        folders = find_runs(runs)
        comparison = compare([RunRecord.read(folder) for folder in folders])
        page = write_page(comparison, out or (runs[0] if len(runs) == 1 else _common_folder(folders)))
        _show(comparison)
        print(f"report: {page}")


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="Folder below which runs are looked for, e.g. results/")],
    out: Annotated[Path | None, typer.Option(help="Markdown file; by default `summary.md` in the folder named")] = None,
) -> None:
    """Print all runs below a folder, best epoch or round of each, as a Markdown table, and write it to a file.

    Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        text = markdown(read_summaries(results))
        path = out or results / "summary.md"
        write_text(path, text)
        print(text, end="")
        print(f"table: {path}", file=sys.stderr)


@app.command()
def experiments(
    folder: Annotated[Path, typer.Argument(help="Folder of experiments, e.g. results/TASK/CONFIG/centralized")],
) -> None:
    """Write experiment_summary.csv, a row for every run of the experiments below a folder, into it, and show it.

    Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        print(f"summary: {summarise(folder)}")


def _common_folder(folders: list[Path]) -> Path:
    return Path(os.path.commonpath([folder.parent.absolute() for folder in folders])) / "report"


def _show(comparison: Comparison) -> None:
    content = headline_table(comparison)
    chosen = [*range(min(len(content.columns) - 1, 2 + METRICS)), len(content.columns) - 1]
    shown = Table(title=comparison.task)
    for at in chosen:
        shown.add_column(textwrap.fill(content.columns[at], HEAD), no_wrap=at != 1)
    for row in content.rows:
        shown.add_row(*(row[at].text for at in chosen))
    console = Console()
    if content.rows:
        console.print(shown)
    for line in [*failures(comparison.everyone), *warnings(comparison.records)]:
        console.print(f"! {line}", style="yellow", markup=False, highlight=False)


if __name__ == "__main__":
    app()
