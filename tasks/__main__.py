"""Command line: python -m tasks [TASK] and python -m tasks split CONFIG."""

import pkgutil
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, create_model
from rich.console import Console
from rich.markup import escape
from rich.text import Text

import tasks
from core.commands import DefaultCommand, one_line_errors
from core.errors import UserError
from training import arguments
from training.config import ConfigFile, load
from training.listing import Key, keys_of
from training.split_file import write_split
from training.task_modules import load_task_class

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
        task_class = load_task_class(task)
        options = (task_class, Field(description=task_class.__doc__))
        for key in keys_of(create_model("Config", __base__=ConfigFile, options=options)):
            _show(console, key)


@app.command()
def split(
    config: arguments.Config,
    overrides: arguments.Overrides = None,
    experiment: Annotated[str, typer.Option(help="One of the `experiments` of CONFIG")] = "",
    out: Annotated[Path, typer.Option(help="JSON file; an earlier split of the task is replaced")] = Path("split.json"),
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


def _show(console: Console, key: Key) -> None:
    """Print a key unbroken, so that it can be copied whatever the width, and below it what it means."""
    line = Text(key.name, "bold")
    line.append(" (required)" if key.default is None else f" = {key.default}" if key.default else "", "not bold")
    line.append(f"  # {'; '.join(key.where)}" if key.where else "", "not bold dim")
    console.print(line, soft_wrap=True)
    for sentence in key.meaning.splitlines():
        further = " " * (6 if sentence.startswith("- ") else 4)
        wrapped = textwrap.fill(sentence, console.width, initial_indent=" " * 4, subsequent_indent=further)
        console.print(Text(wrapped), soft_wrap=True)


if __name__ == "__main__":
    app()
