"""A hyperparameter search over one experiment: python tune.py CONFIG SPACE [section.key=value ...] --study NAME."""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from centralized.runner import execute
from core.commands import one_line_errors
from core.errors import UserError, one_line
from core.files import sha256_json, write_text
from core.locks import Lock, hold
from fl.engines import Engine, EngineOption, check_federation, engine_function
from reports.search import draw_history, draw_importances, write_trials
from training.config import Experiment, load, to_yaml
from training.distributed import refuse_processes
from training.runs import Run, Setting, Status
from training.search import Ended, Objective, TrialStoppedError, objective, score
from training.search_space import First, Space
from training.session import task_stem

if TYPE_CHECKING:
    from optuna.trial import Trial

    from training.search_study import Search

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class SettingName(StrEnum):
    """How the network of a trial is trained."""

    centralized = "centralized"
    local = "local"
    federated = "federated"


@app.command()
def main(
    config: Annotated[Path, typer.Argument(help="Experiment, e.g. configs/joint_vae.yaml")],
    space: Annotated[Path, typer.Argument(help="What to try, e.g. configs/spaces/joint_vae.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, the same for all trials")] = None,
    setting: Annotated[
        SettingName, typer.Option(help="One model on the pool, one per client, or one without pooling")
    ] = SettingName.centralized,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the study, those of earlier calls included")] = 50,
    study: Annotated[str, typer.Option(help="Name of the study; the same command again goes on with it")] = "default",
    seed: Annotated[int | None, typer.Option(min=0, help="Of what is tried; by default the config's own")] = None,
    prune: Annotated[bool, typer.Option(help="Stop trials that do worse than the median of earlier ones")] = True,
    engine: EngineOption = Engine.flower,
    experiment: Annotated[str, typer.Option(help="One of the `experiments` of CONFIG")] = "",
    results: Annotated[Path, typer.Option(help="Where the folder of the study goes")] = Path("results"),
) -> None:
    """Try values of some keys, trial after trial, and keep those with the best validation metric.

    Each trial is an ordinary run with a folder of its own in results/TASK/tune-STUDY, where best_config.yaml,
    trials.csv, history.png and importances.png say what was found. A trial that fails is recorded with its reason, and
    the search goes on. Test data has no part in it. Local trials, and those on Flower, are never stopped early.

    Exit codes: 0 completed, 1 no trial has a result, 2 input refused, 130 interrupted; the same command goes on.
    """
    with one_line_errors():
        refuse_processes("tune.py")
        source = _Source(config, tuple(overrides or ()), experiment)
        tuning = _open(source, space, setting.value, engine, study, seed, results, prune=prune)
        try:
            tuning.go_on(trials)
        finally:
            tuning.report()
    raise typer.Exit(0 if tuning.search.best else 1)


@dataclass(frozen=True)
class _Source:
    """The config that trials lay their values over."""

    config: Path
    overrides: tuple[str, ...]
    name: str

    def experiment(self, overrides: Sequence[str] = ()) -> Experiment:
        return load(self.config, [*self.overrides, *overrides], experiment=self.name)


class _TrialRun(Run):
    """A run that tells each step to its trial, and the terminal nothing."""

    watch: Callable[[Mapping[str, Any]], None] | None = None

    def log(self, text: str) -> None:
        """Append to log.txt."""
        self.log_quietly(text)

    def fail(self, error: BaseException) -> int:
        """Record why the run ended; one that was not worth its time has not failed."""
        if not isinstance(error, TrialStoppedError):
            return super().fail(error)
        self.set_status("stopped", one_line(error), 0)
        return 0

    def add_step(self, step: Mapping[str, Any], unit: Literal["epoch", "round"]) -> None:
        """Add to history.json, and let who watches decide whether to go on."""
        super().add_step(step, unit)
        if self.watch:
            self.watch(step)


@dataclass(frozen=True)
class _Tuning:
    """A search, and how its trials are conducted."""

    source: _Source
    setting: Setting
    execute: Callable[[Run], Status]
    folder: Path
    search: "Search"
    objective: Objective
    prune: bool
    lock: Lock

    @property
    def metric(self) -> str:
        """What is searched for."""
        return self.objective.metric

    def go_on(self, trials: int) -> None:
        """Conduct trials until the study has so many."""
        while (done := len(self.search.ended)) < trials:
            trial, overrides = self.search.next()
            print(f"trial {trial.number}, {done + 1} of {trials}: {' '.join(overrides)}", flush=True)
            self._conduct(trial, overrides)
            print(f"  {self._result(self.search.ended[-1])}", flush=True)

    def _conduct(self, trial: "Trial", overrides: Sequence[str]) -> None:
        run = None
        try:
            experiment = self.source.experiment(overrides)
            run = _TrialRun.at(self.folder / f"trial-{trial.number:03d}", experiment, self.setting)
            if self.prune:
                run.watch = lambda step: self._watch(trial, step)
            if run.code is None:
                self.execute(run)
            value = score(run, self.metric)
        except (Exception, KeyboardInterrupt) as error:
            if run:
                run.fail(error)
            if isinstance(error, KeyboardInterrupt):
                raise
            end = self.search.stop if isinstance(error, TrialStoppedError) else self.search.fail
            end(trial, one_line(error))
        else:
            self.search.complete(trial, value)
        finally:
            if run:
                run.release()

    def _watch(self, trial: "Trial", step: Mapping[str, Any]) -> None:
        pooled = step.get("val", {}).get("pooled")
        if pooled:
            self.search.validated(trial, pooled["metrics"].get(self.metric), step["step"])

    def _result(self, trial: Ended) -> str:
        """Say in a line what became of a trial, and what is best."""
        said = trial.reason or f"{self.metric} {trial.value:.4f}"
        best = self.search.best
        standing = f"best {best.value:.4f} of trial {best.number}" if best else "no result yet"
        return f"{trial.state}: {said}  ({standing}, {trial.seconds:.0f} s)"

    def report(self) -> None:
        """Write what was found so far."""
        trials = self.search.ended
        if not trials:
            return
        print(write_trials(self.folder, [_row(trial, self.metric) for trial in trials]))
        best = self.search.best
        if best is None:
            print(f"error: no trial has a result; the last one: {trials[-1].reason}", file=sys.stderr)
            return
        values = {
            state: {trial.number: trial.value for trial in trials if trial.state == state and trial.value is not None}
            for state in ("completed", "stopped")
        }
        better = self.objective.higher_is_better
        print(draw_history(self.folder, self.metric, *values.values(), higher_is_better=better))
        importances = self.search.importances
        if importances:
            print(draw_importances(self.folder, importances))
        path = self.folder / "best_config.yaml"
        said = f"# trial {best.number} of {self.folder.name}, {self.setting}: validation {self.metric} {best.value}"
        write_text(path, f"{said}\n{to_yaml(self.source.experiment(best.overrides))}")
        print(path)


def _open(
    source: _Source, space_path: Path, setting: Setting, engine: Engine, study: str, seed: int | None, results: Path,
    *, prune: bool,
) -> _Tuning:  # fmt: skip
    """Check everything that can be checked before the first trial, and open the study.

    Raises:
        UserError: Config, space or data cannot be used, the study rests on something else, or Optuna is not there.
    """
    search_class = _search_class()
    if not re.fullmatch(r"\w[\w.+-]*", study, re.ASCII):
        raise UserError(f"--study {study!r}: no plain file name; use letters, digits and _ . + -")
    base, space = source.experiment(), Space.read(space_path)
    try:
        source.experiment(space.draw(First()))
    except UserError as error:
        raise UserError(f"{space_path}: {error}") from None
    if setting == "federated":
        check_federation(base, engine)
    sought = objective(base)
    if sought.metric == "loss":
        space.refuse_losses(space_path)
    seed = base.seed if seed is None else seed
    prune = prune and setting != "local"
    basis = {
        "config": base.digest,
        "space": sha256_json([*space.dump().items()]),
        "setting": setting,
        "seed": seed,
        "prune": prune,
        **dataclasses.asdict(sought),
    }
    steps = base.federation.rounds if setting == "federated" else base.epochs
    folder = results / task_stem(base) / f"tune-{study}"
    lock = hold(folder)
    search = search_class(folder, space, basis, seed, warmup=steps // 4)
    execution = engine_function(engine) if setting == "federated" else execute
    return _Tuning(source, setting, execution, folder, search, sought, prune, lock)


def _search_class() -> "type[Search]":
    try:
        from training.search_study import Search
    except ImportError:
        raise UserError("tune.py: optuna is not installed; install the extra `tune`") from None
    return Search


def _row(trial: Ended, metric: str) -> dict[str, Any]:
    """Give a row of trials.csv: what was tried stands under its key."""
    tried = dict(text.split("=", 1) for text in trial.overrides)
    known = {"trial": trial.number, "state": trial.state, f"val_{metric}": trial.value, "seconds": trial.seconds}
    return {**known, **tried, "reason": trial.reason}


if __name__ == "__main__":
    app()
