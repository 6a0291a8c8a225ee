"""Command line: python -m tasks [TASK] and python -m tasks split CONFIG."""

import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import tasks
from core.commands import DefaultCommand, one_line_errors
from core.errors import UserError
from training.config import Train, load
from training.federation import Federation
from training.mistakes import sections_of
from training.split_file import write_split
from training.task import load_task_class

app = typer.Typer(cls=DefaultCommand, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """List tasks and their options: `python -m tasks [TASK]`, or write down a split: `python -m tasks split CONFIG`."""


@app.command()
def options(task: Annotated[str, typer.Argument(help="Name of a task, or dotted path of a module")] = "") -> None:
    """List the tasks; with TASK, list every key its config takes, its default and its meaning. The default."""
    console = Console()
    with one_line_errors():
        if not task:
            for name in sorted(module.name for module in pkgutil.iter_modules(tasks.__path__)):
                if not name.startswith("_"):
                    console.print(f"[bold]{name}[/bold]  {_about(name)}")
            return
        sections: dict[str, type[BaseModel]] = {
            "options": load_task_class(task),
            "train": Train,
            "federation": Federation,
        }
        for section, schema in sections.items():
            console.print(_table(section, schema))


@app.command()
def split(
    config: Annotated[Path, typer.Argument(help="Experiment, e.g. configs/nicheformer.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. options.split_seed=1")] = None,
    experiment: Annotated[str, typer.Option(help="One of the `experiments` of CONFIG")] = "",
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("split.json"),
) -> None:
    """Write who is in which split of which client, with a SHA-256; runs are held to it with --split.

    Exit codes: 0 written, 2 input refused.
    """
    with one_line_errors():
        digest = write_split(out, load(config, overrides or [], experiment=experiment), str(config))
        print(f"split {digest[:12]}: {out}")


def _about(name: str) -> str:
    """Say what a task is about; of one that cannot be used, why: the others are listed all the same."""
    try:
        return load_task_class(name).__doc__ or ""
    except UserError as error:
        return escape(f"cannot be used: {error}")


def _table(section: str, schema: type[BaseModel]) -> Table:
    table = Table(title=section, title_justify="left")
    for heading in ("key", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for row in _rows(section, schema):
        table.add_row(*row)
    return table


def _rows(section: str, schema: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """Give key, default and meaning of every field, and below a field that is a section those of what it may hold."""
    for name, field in schema.model_fields.items():
        yield f"{section}.{name}", _default(field), field.description or ""
        for inner in sections_of(field.annotation):
            choice = inner.model_fields["name"].default if "name" in inner.model_fields else None
            if choice:
                yield f"  name: {choice}", "", (inner.__doc__ or "").partition("\n")[0]
            yield from (row for row in _rows(f"  {section}.{name}", inner) if not row[0].endswith(".name"))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ", ".join(f"{key}: {one}" for key, one in value.model_dump().items())
    return "" if value is None else str(value)


if __name__ == "__main__":
    app()
