"""A hyperparameter search that can be cut off at any time: an Optuna study in an SQLite file, trial after trial.

What a trial tries is a pure function of (seed, number of the trial, results before it): a study that was interrupted
tries what it would have tried in one go.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from core.errors import UserError
from core.files import make_folder, read_json, write_json
from core.randomness import generator
from training.search import Ended, TrialStoppedError
from training.search_space import Space

STATES = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
BASIS = "basis.json"


class Search:
    """The trials of a study."""

    def __init__(self, folder: Path, space: Space, basis: Mapping[str, Any], seed: int, warmup: int) -> None:
        """Open a study, or start it.

        Args:
            folder: Where study.db stands, beside the folders of the trials.
            space: What to try.
            basis: What the study rests on, `higher_is_better` among it; one that rests on something else is another.
            seed: Of what is tried.
            warmup: Epochs or rounds in which no trial is stopped.

        Raises:
            UserError: The study of this folder rests on something else, or the folder cannot be written.
        """
        self.space, self.seed = space, seed
        _check_basis(make_folder(folder), basis)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=f"sqlite:///{folder / 'study.db'}",
            study_name=folder.name,
            direction="maximize" if basis["higher_is_better"] else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup),
            load_if_exists=True,
        )

    def next(self) -> tuple[Trial, list[str]]:
        """Give the trial that was cut off, or else a new one, and the overrides it stands for."""
        trials = self.study.get_trials(deepcopy=False)
        cut_off = [one for one in trials if one.state is TrialState.RUNNING]
        number = cut_off[0].number if cut_off else len(trials)
        draw = int(generator(self.seed, "search", number).integers(2**32))
        self.study.sampler = optuna.samplers.TPESampler(seed=draw)
        # Optuna opens a trial again by this constructor only; values drawn before are drawn again from the file.
        trial = Trial(self.study, cut_off[0]._trial_id) if cut_off else self.study.ask()
        overrides = self.space.draw(trial)
        trial.set_user_attr("overrides", overrides)
        return trial, overrides

    def validated(self, trial: Trial, value: float | None, step: int) -> None:
        """Tell a trial its validation metric after an epoch or round.

        Raises:
            TrialStoppedError: It is worse than the median of the earlier trials at this step.
        """
        if value is None or not math.isfinite(value):
            return
        trial.report(value, step)
        if trial.should_prune():
            raise TrialStoppedError(f"step {step}: {value:.4f} is worse than the median of earlier trials")

    def complete(self, trial: Trial, value: float) -> None:
        """Record the result of a trial."""
        self.study.tell(trial, value)

    def stop(self, trial: Trial, reason: str) -> None:
        """Record that a trial was not worth its time."""
        self._end(trial, TrialState.PRUNED, reason)

    def fail(self, trial: Trial, reason: str) -> None:
        """Record why a trial has no result."""
        self._end(trial, TrialState.FAIL, reason)

    def _end(self, trial: Trial, state: TrialState, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=state)

    @property
    def ended(self) -> list[Ended]:
        """The trials that have come to their end, in order."""
        return [_ended(one) for one in self.study.get_trials(deepcopy=False) if one.state.is_finished()]

    @property
    def best(self) -> Ended | None:
        """The completed trial with the best value, the first of equals."""
        sign = 1 if self.study.direction is optuna.study.StudyDirection.MAXIMIZE else -1
        done = [(sign * one.value, one) for one in self.ended if one.state == "completed" and one.value is not None]
        return max(done, key=lambda pair: pair[0])[1] if done else None

    @property
    def importances(self) -> dict[str, float]:
        """Share of each key in how far values differ (PED-ANOVA, Watanabe et al. 2023); none while trials are few."""
        values = {one.value for one in self.ended if one.state == "completed"}
        with warnings.catch_warnings(action="ignore"):  # Of few trials: they say so themselves.
            return optuna.importance.get_param_importances(self.study) if len(values) > 2 else {}


def _ended(trial: FrozenTrial) -> Ended:
    reported, duration = trial.intermediate_values, trial.duration
    return Ended(
        trial.number,
        STATES[trial.state],
        reported[max(reported)] if trial.value is None and reported else trial.value,
        duration.total_seconds() if duration else math.nan,
        trial.user_attrs.get("reason", ""),
        tuple(trial.user_attrs.get("overrides", ())),
    )


def _check_basis(folder: Path, basis: Mapping[str, Any]) -> None:
    path = folder / BASIS
    if not path.exists():
        write_json(path, dict(basis))
        return
    recorded = read_json(path)
    for key, value in basis.items():
        if recorded.get(key) != value:
            raise UserError(
                f"{path}: {key}: the study of this folder was started with another; choose another --study, or go on "
                "with the command that it was started with"
            )
