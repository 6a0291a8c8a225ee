"""Command line: python -m fl CONFIG [section.key=value ...] and python -m fl verify RUN."""

import functools
from pathlib import Path

import typer

from core.commands import DefaultCommand, one_line_errors
from fl.engines import Engine, EngineOption, check_federation, engine_function
from fl.verify import verify
from reports.experiment_summary import summarise
from reports.report import write_report
from training import arguments
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
    config: arguments.ConfigOrResume = None,
    overrides: arguments.Overrides = None,
    engine: EngineOption = Engine.flower,
    resume: arguments.Resume = None,
    accept: arguments.Accept = None,
    name: arguments.Name = "",
    results: arguments.Results = Path("results"),
    experiment: arguments.OneExperiment = "",
    every: arguments.AllExperiments = False,
    split: arguments.Split = None,
    dry_run: arguments.DryRun = False,
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
