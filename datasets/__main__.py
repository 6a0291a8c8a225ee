"""`python -m datasets NAME DIR`: make a small data set in the real format of a task."""

import importlib
import pkgutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import datasets.synthetic
from core.commands import one_line_errors
from core.errors import UserError

MAKERS = tuple(sorted(module.name for module in pkgutil.iter_modules(datasets.synthetic.__path__)))

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=f"Make a synthetic data set. NAME is one of: {', '.join(MAKERS)}.")
def make(
    name: Annotated[str, typer.Argument(help="Which data set.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 0,
) -> None:
    """Make a data set, show its files, and say what to run next; exit code 2 when that cannot be done."""
    with one_line_errors():
        if name not in MAKERS:
            raise UserError(f"NAME: {name!r} is not a synthetic data set; choose one of {', '.join(MAKERS)}")
        maker = importlib.import_module(f"datasets.synthetic.{name}")
        maker.make(directory, seed)
    Console().print(_files(directory))
    typer.echo(f"next: {maker.NEXT.format(directory=directory)}")


def _files(directory: Path) -> Table:
    """Sum up the files folder by folder."""
    table = Table("folder", "files", "size", title=str(directory))
    folders = sorted({path.parent for path in directory.rglob("*") if path.is_file()})
    for folder in folders:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        names = ", ".join(path.name for path in files[:4]) + (f", ... {len(files)} in all" if len(files) > 4 else "")
        size = sum(path.stat().st_size for path in files)
        table.add_row(folder.relative_to(directory).as_posix(), names, f"{size / 1024:,.0f} KiB")
    return table


if __name__ == "__main__":
    app(prog_name="python -m datasets")
