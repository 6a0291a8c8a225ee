"""Command line: python -m fl CONFIG [section.key=value ...] and python -m fl verify RUN."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from core.commands import DefaultCommand, one_line_errors
from fl.engines import Engine, check_federation, engine_function
from fl.verify import verify
from reports.experiment_summary import summarise
from reports.report import write_report
from training import checkpoints
from training.distributed import refuse_processes
from training.request import Request, answer

app = typer.Typer(cls=DefaultCommand, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Train without pooling data: `python -m fl CONFIG`, or run a run again and compare: `python -m fl verify RUN`.

    A config that is called like a command is named with its path: `./verify`.
    """


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="Experiment, e.g. configs/nicheformer.yaml")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. federation.rounds=2")] = None,
    engine: Annotated[
        Engine, typer.Option(help="flower: an isolated `flwr run` on Ray; inprocess: the same apps in this process")
    ] = Engine.flower,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder")] = None,
    accept: Annotated[
        list[checkpoints.Acceptable] | None,
        typer.Option("--accept", help="With --resume: go on although this is not what it was; may be given twice"),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run folder; by default setting, seed and time")] = "",
    results: Annotated[Path, typer.Option(help="Where run folders go")] = Path("results"),
    experiment: Annotated[str, typer.Option(help="One of the `experiments` of CONFIG, in a place of its own")] = "",
    every: Annotated[bool, typer.Option("--all", help="All of them in turn, and a summary")] = False,
    split: Annotated[Path | None, typer.Option(help="Go on only if the data splits as this file says")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Two batches of everything")] = False,
) -> None:
    """Train one model over all clients without pooling their data. The default.

    Exit codes: 0 completed, 1 failed, 2 input refused, 3 completed although a client failed.
    """
    with one_line_errors():
        refuse_processes("python -m fl")
        request = Request(
            config=config, overrides=overrides or [], results=results, name=name, resume=resume, accept=accept or [],
            experiment=experiment, every=every, split=split, dry_run=dry_run,
            check=functools.partial(check_federation, engine=engine),
        )  # fmt: skip
        code = answer(
            request,
            "federated",
            engine_function(engine),
            resumable=("federated",),
            report=_report,
            summarise=summarise,
        )
    raise typer.Exit(code)


def _report(folder: Path) -> None:
    print(f"report: {write_report([folder], folder)}")


app.command()(verify)

if __name__ == "__main__":
    app()
