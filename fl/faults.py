"""Strikes a client with the faults that the experiment asks for."""

import os
import time
from collections.abc import Collection, Sequence

import numpy as np
from pydantic import BaseModel

from core.errors import UserError
from fl.exchange import Arrays
from training.config import Experiment
from training.faults import AnyFault, Exit, Hang, LabelFlip, NotANumber, Raise, Scaled, SignFlip, Slow, WrongShape
from training.federation import Federation
from training.loading import fetch
from training.task import Batch, Samples, Task

FOREVER = 10 * 365 * 24 * 3600.0


class InjectedError(RuntimeError):
    """The exception of the fault `exception`."""


def check_faults(options: Federation, clients: Collection[str], task: Task) -> None:
    """Refuse faults that strike nobody, that nothing would end, or that the task cannot suffer.

    Raises:
        UserError: A rule names no client of this federation, hangs without a limit, or flips labels that are not there.
    """
    for number, rule in enumerate(options.faults):
        key = f"federation.faults[{number}]"
        if rule.client is not None and rule.client not in clients:
            raise UserError(f"{key}.client = {rule.client!r}: no such client; choose one of {', '.join(clients)}")
        if isinstance(rule, Hang) and options.client_timeout is None:
            raise UserError(f"{key}.kind = hang: would never end; set federation.client_timeout")
        if isinstance(rule, LabelFlip) and type(task).flip_labels is Task.flip_labels:
            raise UserError(f"{key}.kind = label_flip: this task has no labels to flip; choose another kind")


class Faults:
    """What befalls one client in one attempt of one round."""

    def __init__(self, experiment: Experiment, client: str, server_round: int, attempt: int, deaths: int) -> None:
        """Find the rules that strike.

        Args:
            experiment: Holds `federation.faults` and the seed.
            client: Its name.
            server_round: The round.
            attempt: How often the client was asked before in this round; a run that is gone on with begins anew.
            deaths: Launches that ended in this round because workers died, as they do of the fault `exit`.
        """
        self.rules = [
            rule
            for number, rule in enumerate(experiment.federation.faults)
            if rule.strikes(experiment.seed, number, client, server_round)
            and (rule.times is None or attempt + deaths * isinstance(rule, Exit) < rule.times)
        ]

    def before_training(self) -> None:
        """Raise, end the process, or wait."""
        for rule in self.rules:
            if isinstance(rule, Raise):
                raise InjectedError("the fault that federation.faults asks for")
            if isinstance(rule, Exit):
                os._exit(1)
            if isinstance(rule, Hang | Slow):
                time.sleep(rule.seconds if isinstance(rule, Slow) else FOREVER)

    def samples(self, task: Task, samples: Samples, fitted: BaseModel) -> Samples:
        """Give what is trained on."""
        flipped = any(isinstance(rule, LabelFlip) for rule in self.rules)
        return Flipped(task, samples, fitted) if flipped else samples

    def spoiled(self, update: Arrays, sent: Arrays) -> Arrays:
        """Give the update that is sent in place of the true one.

        Args:
            update: The true one.
            sent: The global weights it started from.
        """
        for rule in self.rules:
            update = _spoiled(rule, update, sent)
        return update


class Flipped:
    """Samples with wrong labels."""

    def __init__(self, task: Task, samples: Samples, fitted: BaseModel) -> None:
        """Wrap samples; the task knows what their labels are."""
        self.task, self.inner, self.fitted = task, samples, fitted

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.inner)

    def __getitem__(self, index: int) -> Batch:
        """Give one sample."""
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Give a batch."""
        return self.task.flip_labels(fetch(self.inner, indices), self.fitted)

    def reseed(self, seed: int) -> None:
        """Pass the epoch's seed on."""
        if hasattr(self.inner, "reseed"):
            self.inner.reseed(seed)


def _spoiled(rule: AnyFault, update: Arrays, sent: Arrays) -> Arrays:
    first = next(name for name in update if np.issubdtype(update[name].dtype, np.floating))
    if isinstance(rule, NotANumber):
        return {**update, first: np.full_like(update[first], np.nan)}
    if isinstance(rule, WrongShape):
        return {**update, first: np.concatenate([update[first], update[first][:1]])}
    if isinstance(rule, Scaled | SignFlip):
        factor = rule.factor if isinstance(rule, Scaled) else -1.0
        return {name: _moved(sent[name], array, factor) for name, array in update.items()}
    return update


def _moved(start: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    """Give the point `factor` times as far from the start; counters are left alone."""
    if not np.issubdtype(end.dtype, np.floating):
        return end
    return np.asarray(start + factor * (end.astype(np.float64) - start), end.dtype)
