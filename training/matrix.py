"""The experiments of one file in turn, each in its own place: left alone, resumed, or run anew beside what it was.

results/<task>/<config>/<setting>/<experiment>/ is such a place. Its basis.json says what it rests on: the resolved
config and the data. Where either has changed, the place moves to superseded/<experiment>-<digest>, and is never
removed. Changed code alone makes no experiment run anew; the manifest names the code.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError, one_line
from core.files import make_folder, read_json, sha256_json, write_json
from core.locks import FILE, Lock, hold, is_empty
from training.config import Experiment
from training.distributed import ALONE, Group
from training.experiments import SUPERSEDED
from training.preparation import check_names
from training.runs import EXIT_CODES, FollowingRun, Run, Setting, Status, exit_code_of
from training.session import conduct
from training.split_file import check_split

BASIS = "basis.json"
LISTED = "experiments.json"
SEVERITY = (0, 3, 2, 1, 130)
"""Exit codes from the best to the worst."""


@dataclass
class Place:
    """Where an experiment lives, and what this call did there."""

    experiment: Experiment
    folder: Path
    done: str = "not begun"
    code: int = 0
    lock: Lock | None = None

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.experiment.experiment


@dataclass(frozen=True)
class Matrix:
    """Experiments of one file."""

    places: Sequence[Place]
    folder: Path
    """Holds the places."""
    listed: Sequence[str]
    """Names of all experiments of the file."""
    split: Path | None = None
    """Every experiment must split its data as this file says."""
    any_seed: bool = False
    """Whether a place holds the runs of several seeds."""
    digests: dict[str, str] = field(default_factory=dict)

    def conduct(self, one: Callable[[Place], int]) -> int:
        """Conduct each in turn; one that fails does not stop the others, Ctrl-C does.

        Args:
            one: Conducts an experiment in its place, and gives its exit code.

        Returns:
            The worst exit code.
        """
        self._list()
        for place in self.places:
            place.code = _attempt(one, place)
            if place.code and place.done == "not begun":
                place.done = "refused" if place.code == 2 else "failed"
            if place.code == 130:
                break
        return max((place.code for place in self.places), key=SEVERITY.index)

    def _list(self) -> None:
        """Say beside the places which experiments there are; the summary leaves out those that no longer are."""
        path = self.folder / LISTED
        if not path.exists() or read_json(path) != [*self.listed]:
            write_json(path, [*self.listed])

    @property
    def done(self) -> dict[str, str]:
        """What was done, by experiment."""
        return {place.name: place.done for place in self.places}

    def claim(self, place: Place) -> None:
        """Make a place ready: what was made there on another basis moves aside, what is on this one stays.

        This process then holds the place, until the experiment has been conducted.

        Raises:
            UserError: The data cannot be used, is not split as `split` says, or another process works in the place.
        """
        print(f"experiment {place.name}: {place.experiment.description or 'no description'}", flush=True)
        if self.split:
            check_split(self.split, place.experiment)
        basis = self._basis(place.experiment)
        place.lock = hold(place.folder)
        if is_empty(place.folder):
            place.done = "run"
            return
        recorded = _recorded(place.folder)
        place.done = "resumed" if recorded == basis else "run anew"
        if recorded != basis:
            print(f"config or data have changed; what was here is now {_move_aside(place.folder, recorded)}")
            place.lock = hold(place.folder)

    def settle(self, place: Place) -> None:
        """Record in a place what it rests on."""
        write_json(place.folder / BASIS, self._basis(place.experiment))

    def _basis(self, experiment: Experiment) -> dict[str, Any]:
        key = sha256_json([experiment.task, experiment.options])
        if key not in self.digests:
            self.digests[key] = _data_digest(experiment)
        seedless = experiment.model_copy(update={"seed": 0}) if self.any_seed else experiment
        return {"config": seedless.digest, "data": self.digests[key]}


def conduct_run(
    place: Place, matrix: Matrix, setting: Setting, execute: Callable[[Run], Status], report: Callable[[Path], None],
    group: Group = ALONE,
) -> int:  # fmt: skip
    """Conduct the one run of an experiment from wherever it stands; give the exit code.

    Args:
        place: Where.
        matrix: What it belongs to.
        setting: Centralized, local or federated.
        execute: Conducts the run.
        report: Called with the run folder after a run that has come to its end.
        group: The processes that train together.
    """
    run = None
    with group.first_leads():
        if group.leads:
            run = _open(place, matrix, setting)
    (found, *_) = group.gather((place.done, place.code, run is not None))
    place.done, code, needed = found
    if not needed:
        return int(code)
    status = conduct(run or FollowingRun.attach(place.folder), execute)
    if group.leads:
        report(place.folder)
    return EXIT_CODES[status]


def _open(place: Place, matrix: Matrix, setting: Setting) -> Run | None:
    """Start or reopen the run of a place; None where it has come to its end before."""
    matrix.claim(place)
    if place.done != "resumed":
        run = Run.create(place.folder, place.experiment, setting)
        matrix.settle(place)
        return run
    status = read_json(place.folder / "status.json")["status"]
    if status in EXIT_CODES:
        place.done, place.code = "left alone", EXIT_CODES[status]
        return None
    return Run.resume(place.folder, (setting,))


def _attempt(one: Callable[[Place], int], place: Place) -> int:
    try:
        return one(place)
    except SystemExit as ended:  # after the line that says why
        return int(ended.code or 0)
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, UserError | KeyboardInterrupt):
            traceback.print_exception(error)
        print(f"error: {one_line(error)}", file=sys.stderr)
        return exit_code_of(error)
    finally:
        if place.lock:
            place.lock.release()


def _recorded(folder: Path) -> dict[str, Any] | None:
    path = folder / BASIS
    recorded = read_json(path) if path.is_file() else None
    return recorded if isinstance(recorded, dict) else None


def _move_aside(folder: Path, recorded: dict[str, Any] | None) -> Path:
    """Move a place to where it is kept, unless a run of a comparison is at work in it; give the new path."""
    locks = [hold(path.parent) for path in folder.rglob(FILE)]
    stem = f"{folder.name}-{str((recorded or {}).get('config', 'unknown'))[:8]}"
    kept = make_folder(folder.parent / SUPERSEDED)
    number = 1
    target = kept / stem
    while target.exists():
        number += 1
        target = kept / f"{stem}-{number}"
    folder.rename(target)
    for lock in locks:
        lock.path = target / lock.path.relative_to(folder)
        lock.release()
    return target


def _data_digest(experiment: Experiment) -> str:
    task = experiment.build_task()
    owners = [*check_names(task.clients(), str(task.data)), *(["held_out"] if task.held_out_identities() else [])]
    return sha256_json({owner: task.data_digest(owner) for owner in owners})
