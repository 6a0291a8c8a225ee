"""Numbers that describe training data and add up, so that clients agree on preprocessing without pooling rows."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from core.errors import UserError

Rule = Literal["sum", "min", "max"]
_RULES = {"sum": np.add, "min": np.minimum, "max": np.maximum}


class Values(BaseModel):
    """An array in float64 together with the rule that merges it."""

    model_config = ConfigDict(frozen=True)

    rule: Rule
    values: list[float]

    def merge(self, other: "Values") -> "Values":
        """Merge element by element."""
        if self.rule != other.rule or len(self.values) != len(other.values):
            raise ValueError("statistics of different rule or length cannot be merged")
        return Values(rule=self.rule, values=_RULES[self.rule](self.values, other.values).tolist())

    def array(self) -> np.ndarray:
        """Give the values as a float64 array."""
        return np.asarray(self.values, dtype=np.float64)


class Statistics(BaseModel):
    """Arrays and counts by name. JSON keeps float64 exactly, so nothing is lost on the wire."""

    model_config = ConfigDict(frozen=True)

    arrays: dict[str, Values] = {}
    counts: dict[str, dict[str, int]] = {}
    """Name -> (label or feature -> how often)."""

    def merge(self, other: "Statistics") -> "Statistics":
        """Merge two clients' statistics."""
        if self.arrays.keys() != other.arrays.keys() or self.counts.keys() != other.counts.keys():
            raise ValueError("statistics with different names cannot be merged")
        return Statistics(
            arrays={name: values.merge(other.arrays[name]) for name, values in self.arrays.items()},
            counts={name: _added(table, other.counts[name]) for name, table in self.counts.items()},
        )

    def joined(self, other: "Statistics") -> "Statistics":
        """Put two sets of statistics with different names side by side."""
        return Statistics(arrays={**self.arrays, **other.arrays}, counts={**self.counts, **other.counts})


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    total = Counter(one)
    total.update(other)
    return dict(sorted(total.items()))


def merge_statistics(by_client: Mapping[str, Statistics]) -> Statistics:
    """Merge in the order of client names: float addition is not associative, and the result must not vary.

    Raises:
        UserError: Clients describe different things, such as another number of genes.
    """
    first, *others = sorted(by_client)
    merged = by_client[first]
    for name in others:
        try:
            merged = merged.merge(by_client[name])
        except ValueError:
            raise UserError(
                f"client {name}: its training data has other features than that of {first}; give both the same columns"
            ) from None
    return merged
