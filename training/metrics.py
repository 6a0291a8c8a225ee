"""Losses and metrics as states that merge: what a server puts together is exact, never an average of averages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from core.errors import UserError
from training.task import Loss

States = dict[str, np.ndarray]
MERGES: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    dim_zero_sum: torch.add,
    dim_zero_min: torch.minimum,
    dim_zero_max: torch.maximum,
}
"""Reduction of a torchmetrics state -> how two clients' states become one; lists (`cat`) are joined."""


@dataclass(frozen=True)
class Measured:
    """Computed metrics: scalars by name, arrays (confusion matrix, per class) by name, and samples seen."""

    values: dict[str, float]
    arrays: dict[str, list[Any]]
    support: int
    supports: dict[str, int]
    """Scalar -> samples that it rests on, where these are fewer."""


class Metrics:
    """Accumulates the loss and a torchmetrics collection; `states` of several clients merge exactly.

    A rank correlation has no small sufficient statistic: its metric keeps values per sample in `cat` states, and those
    travel. All other metrics should get by with sums, minima and maxima.
    """

    def __init__(self, collection: MetricCollection) -> None:
        """Wrap fresh metrics.

        Raises:
            TypeError: A metric keeps a state that does not merge over clients.
        """
        for name, metric in collection.items():
            if any(reduction not in (*MERGES, dim_zero_cat) for reduction in metric._reductions.values()):
                raise TypeError(f"metric {name}: a state does not merge over clients; use a counting variant")
            # Merging over processes is done here, too; torchmetrics would add what is already the whole.
            metric.sync_on_compute = metric._to_sync = False
        self.collection = collection
        self.losses: dict[str, Tensor] = {}
        self.count = 0

    def add_loss(self, loss: Loss) -> None:
        """Add the loss of a batch, weighted by its samples."""
        self._add(loss.sums())
        self.count += loss.count

    def _add(self, sums: Mapping[str, Tensor]) -> None:
        for name, sum_and_count in sums.items():
            self.losses[name] = self.losses.get(name, 0) + sum_and_count.cpu()

    def states(self) -> States:
        """Give all states as float64 or integer arrays."""
        states: States = {f"loss.{name}": sum_and_count.numpy() for name, sum_and_count in self.losses.items()}
        states["count"] = np.asarray(self.count, np.int64)
        for name, metric in self.collection.items():
            for state in metric._defaults:
                value = getattr(metric, state)
                if isinstance(value, Tensor):
                    states[f"metric.{name}.{state}"] = value.cpu().numpy()
                elif value:
                    states[f"metric.{name}.{state}"] = torch.cat(value).cpu().numpy()
        return states

    def merge(self, states: Mapping[str, np.ndarray]) -> None:
        """Merge the states of another client; values per sample keep the order in which clients are merged."""
        self.count += int(states["count"])
        for key, value in states.items():
            kind, _, name = key.partition(".")
            if kind == "loss":
                self._add({name: torch.as_tensor(value)})
            elif kind == "metric":
                _merge_state(self.collection[name.rpartition(".")[0]], name.rpartition(".")[2], value)

    def compute(self) -> Measured:
        """Compute every metric. Without a single sample all values are NaN."""
        values = {name: float(total / count) for name, (total, count) in self.losses.items()}
        arrays: dict[str, list[Any]] = {}
        computed = self.collection.compute() if self.count else {}
        for name, value in computed.items():
            if value.ndim == 0:
                values[name] = float(value)
            else:
                arrays[name] = value.tolist()
        return Measured(values, arrays, self.count, self._supports())

    def _supports(self) -> dict[str, int]:
        """Give the samples of what concerns some only: terms of the loss, and scores whose metric has `supports`."""
        found = {name: int(count) for name, (_, count) in self.losses.items()}
        for metric in self.collection.values():
            found |= getattr(metric, "supports", {})
        return {name: count for name, count in found.items() if count != self.count}

    def directions(self) -> dict[str, bool]:
        """Give metric -> whether higher is better. Counts, which have no direction, stay out."""
        directions = dict.fromkeys(["loss", *self.losses], False)
        for name, metric in self.collection.items():
            if isinstance(metric.higher_is_better, Mapping):
                directions |= metric.higher_is_better
            elif _ordered(metric):
                directions[name] = bool(metric.higher_is_better)
        return directions

    def higher_is_better(self, name: str) -> bool:
        """Tell in which direction a metric improves.

        Raises:
            UserError: There is no such metric.
        """
        known = self.directions()
        if name not in known:
            raise UserError(f"train.monitor = {name!r}: unknown metric; choose one of {', '.join(known)}")
        return known[name]


def _ordered(metric: Metric) -> bool:
    """Tell whether a metric is one number of which more is better or worse, and no value per class or matrix."""
    return metric.higher_is_better is not None and getattr(metric, "average", "") not in (None, "none")


def _merge_state(metric: Metric, state: str, value: np.ndarray) -> None:
    current: Tensor | list[Tensor] = getattr(metric, state)
    if isinstance(current, list):
        current.append(torch.as_tensor(value))
    else:
        other = torch.as_tensor(value, dtype=current.dtype).reshape(current.shape)
        setattr(metric, state, MERGES[metric._reductions[state]](current, other))
    metric._update_count += 1
    metric._computed = None
