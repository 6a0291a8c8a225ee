"""From a command line to a run folder and an exit code, for both runners."""

import sys
from collections.abc import Callable
from pathlib import Path

from core.errors import UserError, one_line
from training.config import Experiment, load
from training.distributed import ALONE, Group
from training.runs import FollowingRun, Run, Setting, Status, check_name, default_name
from training.split_file import check_split

DRY_RUN = ("train.limit_batches=2", "train.epochs=1", "federation.rounds=1", "federation.local_epochs=1")


def open_run(
    config: Path | None, overrides: list[str], setting: Setting, *, results: Path, name: str, resume: Path | None,
    dry_run: bool, resumable: tuple[Setting, ...], split: Path | None = None, group: Group = ALONE,
) -> Run:  # fmt: skip
    """Start a new run from a config, or reopen one.

    Of several processes the first does so, and the others follow it into the same folder.

    Raises:
        UserError: Neither or both were named, or one cannot be used.
    """
    folder = Path()
    with group.first_leads():
        if group.leads:
            run = _open_run(config, overrides, setting, results, name, resume, dry_run, resumable, split, group.size)
            folder = run.folder
    (folder, *_) = group.gather(folder)
    return run if group.leads else FollowingRun.attach(folder)


def _open_run(
    config: Path | None, overrides: list[str], setting: Setting, results: Path, name: str, resume: Path | None,
    dry_run: bool, resumable: tuple[Setting, ...], split: Path | None, processes: int,
) -> Run:  # fmt: skip
    if resume:
        if config or overrides or name or dry_run or split:
            others = "CONFIG, overrides, --name, --dry-run and --split"
            raise UserError(f"--resume {resume}: goes on with the run's own config; leave out {others}")
        return Run.resume(resume, resumable)
    if not config:
        raise UserError("CONFIG is missing; name a file of configs/, or use --resume RUN")
    experiment = load(config, [*overrides, *DRY_RUN] if dry_run else overrides)
    if split:
        check_split(split, experiment)
    name = check_name(name) or run_name(experiment, setting, processes, dry_run=dry_run)
    return Run.create(results / task_stem(experiment) / name, experiment, setting)


def run_name(experiment: Experiment, setting: Setting, processes: int = 1, *, dry_run: bool = False) -> str:
    """Name a run: `<setting>__<experiment>__<variant>__bs<batch>x<accumulate>x<processes>__lr<lr>__seed<n>__<time>`."""
    train = experiment.train
    parts = [
        *(["dry-run"] if dry_run else []),
        setting,
        *([experiment.experiment] if experiment.experiment else []),
        *([variant] if (variant := experiment.build_task().variant()) else []),
        f"bs{train.batch_size}x{train.accumulate}x{processes}",
        f"lr{train.lr}",
        f"seed{experiment.seed}",
    ]
    return default_name(*parts)


def task_stem(experiment: Experiment) -> str:
    """Give the name that a task shares with its config and its results folder."""
    return experiment.task.rpartition(".")[2]


def conduct(run: Run, execute: Callable[[Run], Status]) -> Status:
    """Execute a run; where it ends early, record why and end the process with one line instead of a traceback.

    A process that follows another says nothing of input that both refuse.
    """
    try:
        status = execute(run)
    except (Exception, KeyboardInterrupt) as error:
        code = run.fail(error)
        hint = "" if code == 2 else f" (details: {run.folder / 'log.txt'}; go on with --resume {run.folder})"
        if code != 2 or not isinstance(run, FollowingRun):
            print(f"error: {one_line(error)}{hint}", file=sys.stderr)
        raise SystemExit(code) from None
    if status == "degraded":
        failed = ", ".join(sorted({failure["client"] for failure in run.failures}))
        print(f"degraded: {failed} failed; see {run.folder / 'status.json'}", file=sys.stderr)
    return status
