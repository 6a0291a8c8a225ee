"""Command line: python -m centralized CONFIG [section.key=value ...] and python -m centralized predict RUN INPUT ..."""

import functools
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from centralized.importance import importance
from centralized.predict import predict
from centralized.runner import execute
from core.commands import DefaultCommand, one_line_errors
from reports.experiment_summary import summarise
from reports.report import write_report
from training import arguments
from training.distributed import joined
from training.request import Request, answer

app = typer.Typer(cls=DefaultCommand, add_completion=False, pretty_exceptions_enable=False)


class Setting(StrEnum):
    """The settings of this runner."""

    centralized = "centralized"
    local = "local"


@app.callback()
def main() -> None:
    """Train without exchange: `python -m centralized CONFIG`, or predict: `python -m centralized predict RUN INPUT`.

    A config that is called like a command is named with its path: `./predict`.
    """


@app.command()
def train(
    config: arguments.ConfigOrResume = None,
    overrides: arguments.Overrides = None,
    setting: Annotated[Setting, typer.Option(help="One model on the pool, or one per client")] = Setting.centralized,
    resume: arguments.Resume = None,
    accept: arguments.Accept = None,
    name: arguments.Name = "",
    results: arguments.Results = Path("results"),
    experiment: arguments.OneExperiment = "",
    every: arguments.AllExperiments = False,
    split: arguments.Split = None,
    dry_run: arguments.DryRun = False,
) -> None:
    """Train without exchange: one model on the pool of all clients, or one model per client. The default.

    Several processes share each batch: torchrun --nproc_per_node=2 -m centralized CONFIG ...

    Exit codes: 0 completed, 1 failed, 2 input refused.
    """
    with one_line_errors(), joined() as group:
        request = Request(
            config=config, overrides=overrides or [], results=results, name=name, resume=resume, accept=accept or [],
            experiment=experiment, every=every, split=split, dry_run=dry_run,
        )  # fmt: skip
        code = answer(
            request,
            setting.value,
            functools.partial(execute, group=group),
            resumable=("centralized", "local"),
            report=_report,
            summarise=summarise,
            group=group,
        )
    raise typer.Exit(code)


def _report(folder: Path) -> None:
    print(f"report: {write_report([folder], folder)}")


app.command()(predict)
app.command()(importance)

if __name__ == "__main__":
    app()
