"""Names of runs, and the end of one: a status, or one line and an exit code."""

import sys
from collections.abc import Callable

from core.errors import one_line
from training.config import Experiment
from training.runs import FollowingRun, Run, Setting, Status, default_name

DRY_RUN = (
    "train.limit_batches=2",
    "train.epochs=1",
    "federation.rounds=1",
    "federation.local_epochs=1",
    "federation.faults=[]",
)


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
