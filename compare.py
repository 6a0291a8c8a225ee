"""One experiment, three settings, several seeds, one report: python compare.py CONFIG [section.key=value ...]."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from centralized.runner import execute
from core.commands import one_line_errors
from core.errors import UserError
from core.files import read_json
from core.locks import hold
from fl.engines import Engine, EngineOption, check_federation, engine_function
from reports.experiment_summary import summarise
from reports.report import write_report
from training import arguments
from training.config import Experiment
from training.distributed import refuse_processes
from training.matrix import Matrix, Place
from training.request import Request
from training.runs import EXIT_CODES, Run, Setting, Status, check_name, default_name
from training.session import conduct, task_stem

SETTINGS: tuple[Setting, ...] = ("centralized", "local", "federated")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: arguments.Config,
    overrides: arguments.Overrides = None,
    seeds: Annotated[
        list[int] | None, typer.Option(min=0, help="Seeds, e.g. --seeds 0 1 2; by default the config's own")
    ] = None,
    engine: EngineOption = Engine.flower,
    name: Annotated[str, typer.Option(help="Name of the comparison folder; by default the time")] = "",
    resume: Annotated[Path | None, typer.Option(help="Go on with this comparison folder")] = None,
    results: arguments.Results = Path("results"),
    experiment: arguments.OneExperiment = "",
    every: arguments.AllExperiments = False,
    split: arguments.Split = None,
    dry_run: arguments.DryRun = False,
) -> None:
    """Train one task pooled, alone and federated, with equal budgets from equal weights, and compare client by client.

    Exit codes: 0 completed, 1 failed, 2 input refused, 3 completed although a client failed.
    """
    with one_line_errors():
        refuse_processes("compare.py")
        if seeds and (twice := [text for text in overrides or [] if text.startswith("seed=")]):
            raise UserError(f"override {twice[0]!r}: --seeds says which seeds there are; leave out one of the two")
        request = Request(
            config=config, overrides=overrides or [], results=results, name=name, resume=resume,
            experiment=experiment, every=every, split=split, dry_run=dry_run,
            check=functools.partial(check_federation, engine=engine),
        )  # fmt: skip
        matrix = request.matrix("compare", seeds=seeds or ())
        if matrix:
            code = matrix.conduct(lambda place: _conduct_place(place, matrix, seeds, engine))
            print(f"summary: {summarise(matrix.folder, matrix.done)}")
            raise typer.Exit(code)
        plain = request.load()
        folder = _known_folder(resume) if resume else _new_folder(results / task_stem(plain), name)
        code = _compare(plain, folder, seeds, engine)
    raise typer.Exit(code)


def _compare(experiment: Experiment, folder: Path, seeds: list[int] | None, engine: Engine) -> int:
    """Conduct every setting and seed from wherever it stands, and report; give the worst exit code."""
    runs, worst = [], 0
    lock = hold(folder)
    try:
        for seed in seeds or [experiment.seed]:
            for setting in SETTINGS:
                wanted = experiment.model_copy(update={"seed": seed})
                run = Run.at(folder / f"{setting}-seed{seed}", wanted, setting)
                runs.append(run.folder)
                worst = max(worst, _end(run, engine_function(engine) if setting == "federated" else execute))
    finally:
        if runs:
            print(f"report: {write_report(runs, folder)}")
        lock.release()
    return worst


def _end(run: Run, execution: Callable[[Run], Status]) -> int:
    """Conduct a run to its end, where it has not come to that before; give its exit code."""
    try:
        return EXIT_CODES[conduct(run, execution)] if run.code is None else run.code
    finally:
        run.release()


def _conduct_place(place: Place, matrix: Matrix, seeds: list[int] | None, engine: Engine) -> int:
    """Compare the settings for one experiment; leave the comparison alone where all its runs have ended."""
    check_federation(place.experiment, engine)
    matrix.claim(place)
    names = [f"{setting}-seed{seed}" for seed in seeds or [place.experiment.seed] for setting in SETTINGS]
    codes = [_ended(place.folder / name) for name in names]
    if None not in codes:
        place.done = "left alone"
        return max(code for code in codes if code is not None)
    matrix.settle(place)
    return _compare(place.experiment, place.folder, seeds, engine)


def _ended(folder: Path) -> int | None:
    """Give the exit code of a run that has come to its end, None of any other."""
    path = folder / "status.json"
    return EXIT_CODES.get(read_json(path)["status"]) if path.exists() else None


def _new_folder(parent: Path, name: str) -> Path:
    folder = parent / (check_name(name) or default_name("compare"))
    if folder.exists():
        raise UserError(f"{folder}: this folder exists; choose another --name, or go on with --resume {folder}")
    return folder


def _known_folder(folder: Path) -> Path:
    if not any(folder.glob("*/status.json")):
        raise UserError(
            f"{folder}: no comparison to resume, it holds no run folders; check the path or leave out --resume"
        )
    return folder


def _spread_seeds(arguments: list[str]) -> list[str]:
    """Turn `--seeds 0 1 2` into the repeated option that the parser knows."""
    spread: list[str] = []
    inside = False
    for argument in arguments:
        inside = argument == "--seeds" or (inside and argument.isdecimal())
        if inside and argument != "--seeds":
            spread += ["--seeds", argument]
        elif not inside:
            spread.append(argument)
    return spread


if __name__ == "__main__":
    app(_spread_seeds(sys.argv[1:]))
