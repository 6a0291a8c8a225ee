"""Command line: python -m fl CONFIG [section.key=value ...]."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands import one_line_errors
from fl.engines import Engine, engine_function
from reports.report import write_report
from training.distributed import refuse_processes
from training.runs import EXIT_CODES
from training.session import conduct, open_run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: Annotated[Path | None, typer.Argument(help="Experiment, e.g. configs/nicheformer.yaml")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, e.g. federation.rounds=2")] = None,
    engine: Annotated[
        Engine, typer.Option(help="flower: an isolated `flwr run` on Ray; inprocess: the same apps in this process")
    ] = Engine.flower,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder")] = None,
    name: Annotated[str, typer.Option(help="Name of the run folder; by default setting, seed and time")] = "",
    results: Annotated[Path, typer.Option(help="Where run folders go")] = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Two batches of everything")] = False,
) -> None:
    """Train one model over all clients without pooling their data.

    Exit codes: 0 completed, 1 failed, 2 input refused, 3 completed although a client failed.
    """
    with one_line_errors():
        refuse_processes("python -m fl")
        run = open_run(
            config,
            overrides or [],
            "federated",
            results=results,
            name=name,
            resume=resume,
            dry_run=dry_run,
            resumable=("federated",),
        )
        status = conduct(run, engine_function(engine))
        print(f"report: {write_report([run.folder], run.folder)}")
    raise typer.Exit(EXIT_CODES[status])


if __name__ == "__main__":
    app()
