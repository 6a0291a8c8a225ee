"""Losses and metrics as sums: what a server adds up is exact, never an average of averages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_sum

from core.errors import UserError
from training.task import Loss

States = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """Computed metrics: scalars by name, arrays (confusion matrix, per class) by name, and samples seen."""

    values: dict[str, float]
    arrays: dict[str, list[Any]]
    support: int


class Metrics:
    """Accumulates the loss and a torchmetrics collection; `states` of several clients merge by addition."""

    def __init__(self, collection: MetricCollection) -> None:
        """Wrap fresh metrics.

        Raises:
            TypeError: A metric keeps a state that does not merge by addition.
        """
        for name, metric in collection.items():
            if any(reduction is not dim_zero_sum for reduction in metric._reductions.values()):
                raise TypeError(
                    f"metric {name}: a state does not add up across clients; use a binned or counting variant"
                )
        self.collection = collection
        self.losses: dict[str, float] = {}
        self.count = 0

    def add_loss(self, loss: Loss) -> None:
        """Add the loss of a batch, weighted by its samples."""
        for name, part in {"loss": loss.total, **loss.parts}.items():
            self.losses[name] = self.losses.get(name, 0.0) + float(part.detach().double()) * loss.count
        self.count += loss.count

    def states(self) -> States:
        """Give all states as float64 or integer arrays."""
        states: States = {f"loss.{name}": np.asarray(total, np.float64) for name, total in self.losses.items()}
        states["count"] = np.asarray(self.count, np.int64)
        for name, metric in self.collection.items():
            for state in metric._defaults:
                states[f"metric.{name}.{state}"] = getattr(metric, state).cpu().numpy()
        return states

    def merge(self, states: Mapping[str, np.ndarray]) -> None:
        """Add the states of another client."""
        self.count += int(states["count"])
        for key, value in states.items():
            kind, _, name = key.partition(".")
            if kind == "loss":
                self.losses[name] = self.losses.get(name, 0.0) + float(value)
            elif kind == "metric":
                _add_state(self.collection[name.rpartition(".")[0]], name.rpartition(".")[2], value)

    def compute(self) -> Measured:
        """Compute every metric. Without a single sample all values are NaN."""
        values = {name: total / self.count for name, total in self.losses.items()} if self.count else {}
        arrays: dict[str, list[Any]] = {}
        computed = self.collection.compute() if self.count else {}
        for name, value in computed.items():
            if value.ndim == 0:
                values[name] = float(value)
            else:
                arrays[name] = value.tolist()
        return Measured(values, arrays, self.count)

    def higher_is_better(self, name: str) -> bool:
        """Tell in which direction a metric improves.

        Raises:
            UserError: There is no such metric.
        """
        if name == "loss":
            return False
        scalars = [key for key, metric in self.collection.items() if _ordered(metric)]
        if name not in scalars:
            raise UserError(f"train.monitor = {name!r}: unknown metric; choose one of {', '.join(['loss', *scalars])}")
        return bool(self.collection[name].higher_is_better)


def _ordered(metric: Metric) -> bool:
    """Tell whether a metric is one number of which more is better or worse, and no value per class or matrix."""
    return metric.higher_is_better is not None and getattr(metric, "average", "") not in (None, "none")


def _add_state(metric: Metric, state: str, value: np.ndarray) -> None:
    current: Tensor = getattr(metric, state)
    setattr(metric, state, current + torch.as_tensor(value, dtype=current.dtype).reshape(current.shape))
    metric._update_count += 1
    metric._computed = None
