"""From a command line to a run folder and an exit code, for both runners."""

import sys
from collections.abc import Callable
from pathlib import Path

from core.errors import UserError, one_line
from training.config import Experiment, load
from training.runs import Run, Setting, Status, default_name

DRY_RUN = ("train.limit_batches=2", "train.epochs=1", "federation.rounds=1", "federation.local_epochs=1")


def open_run(
    config: Path | None, overrides: list[str], setting: Setting, *, results: Path, name: str, resume: Path | None,
    dry_run: bool, resumable: tuple[Setting, ...],
) -> Run:  # fmt: skip
    """Start a new run from a config, or reopen one.

    Raises:
        UserError: Neither or both were named, or one cannot be used.
    """
    if resume:
        if config or overrides or name or dry_run:
            others = "CONFIG, overrides, --name and --dry-run"
            raise UserError(f"--resume {resume}: goes on with the run's own config; leave out {others}")
        return Run.resume(resume, resumable)
    if not config:
        raise UserError("CONFIG is missing; name a file of configs/, or use --resume RUN")
    experiment = load(config, [*overrides, *DRY_RUN] if dry_run else overrides)
    name = name or default_name(*(["dry-run"] if dry_run else []), setting, f"seed{experiment.seed}")
    return Run.create(results / task_stem(experiment) / name, experiment, setting)


def task_stem(experiment: Experiment) -> str:
    """Give the name that a task shares with its config and its results folder."""
    return experiment.task.rpartition(".")[2]


def conduct(run: Run, execute: Callable[[Run], Status]) -> Status:
    """Execute a run; where it ends early, record why and end the process with one line instead of a traceback."""
    try:
        status = execute(run)
    except (Exception, KeyboardInterrupt) as error:
        code = run.fail(error)
        hint = "" if code == 2 else f" (details: {run.folder / 'log.txt'}; go on with --resume {run.folder})"
        print(f"error: {one_line(error)}{hint}", file=sys.stderr)
        raise SystemExit(code) from None
    if status == "degraded":
        failed = ", ".join(sorted({failure["client"] for failure in run.failures}))
        print(f"degraded: {failed} failed; see {run.folder / 'status.json'}", file=sys.stderr)
    return status
