"""Numbers that describe a client's training rows and add up, so that merged clients get the pooled preprocessing.

There are two passes. The first finds counts, means and extremes. From them all parties work out the same logarithm and
the same centre of each feature, and the second sums up the distances from it: sums of squares about a centre near the
mean lose no digits, however large the values are against their spread.

The rows of a platform are float64 [N, D] with NaN where a cell is missing. A client without the platform has N = 0.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from datasets.proteomics_steps import Log, Steps
from datasets.quantile_sketch import bucket_counts

Row = npt.NDArray[np.float64]
Array = npt.NDArray[np.float64]

HIGHEST = sys.float_info.max
"""Stands for infinity, which JSON lacks, where a feature has no value."""
RESOLUTION = 1e-9
"""Deviations below this share of the range of a feature count as none in its quantiles."""


def merge_rule(name: str) -> Literal["sum", "min", "max"]:
    """Say how the arrays of this name merge; a prefix that ends in a dot, such as that of a platform, is ignored."""
    last = name.rpartition(".")[2]
    return "min" if last == "min" else "max" if last == "max" else "sum"


def first_pass(values_ND: Array) -> dict[str, Row]:
    """Give `count` and `missing` cells, `sum`, `min` and `max` of each feature, [D].

    Sums are rounded once (`math.fsum`), so they do not depend on the order of the rows.
    """
    seen = ~np.isnan(values_ND)
    return {
        "count": seen.sum(axis=0).astype(np.float64),
        "missing": (~seen).sum(axis=0).astype(np.float64),
        "sum": _column_sums(values_ND),
        "min": np.where(seen, values_ND, HIGHEST).min(axis=0, initial=HIGHEST),
        "max": np.where(seen, values_ND, -HIGHEST).max(axis=0, initial=-HIGHEST),
    }


@dataclass(frozen=True, eq=False)
class Agreed:
    """What follows from the merged first pass, the same at every party.

    Attributes:
        mean: Of each feature in units of the data, [D]; 0 where there is no value.
        log: The logarithm, where one is asked for.
        low: Smallest training value of each feature after the logarithm, [D].
        high: Largest, [D].
        centre: Where the second pass measures from, after the logarithm, [D].
    """

    mean: Row
    log: Log | None
    low: Row
    high: Row
    centre: Row

    @classmethod
    def of(cls, first: Mapping[str, Row], steps: Steps) -> "Agreed":
        """Work it out from the merged first pass."""
        empty = first["count"] == 0
        mean = np.clip(first["sum"] / np.maximum(first["count"], 1), first["min"], first["max"])
        mean, low, high = (np.where(empty, 0.0, row) for row in (mean, first["min"], first["max"]))
        log = Log.fitted(float(first["min"].min()), steps.epsilon) if steps.log else None
        forward = np.asarray if log is None else log.forward
        return cls(mean, log, forward(low), forward(high), forward(mean))

    @property
    def smallest(self) -> Row:
        """Smallest deviation that the quantiles tell from none, [D]."""
        spread = self.high - self.low
        return np.asarray(np.where(spread > 0, spread * RESOLUTION, 1.0))

    def forward(self, values: Array) -> Array:
        """Take the logarithm, where one is asked for."""
        return values if self.log is None else self.log.forward(values)

    def inverse(self, values: Array) -> Array:
        """Undo the logarithm, where there is one."""
        return values if self.log is None else self.log.inverse(values)


@dataclass(frozen=True, eq=False)
class SecondPass:
    """What the second pass finds.

    Attributes:
        arrays: `cells`, the number of values, and `sum` and `squares` of their distances from the agreed centre, [D].
        buckets: Counts of these distances (`datasets.quantile_sketch`); empty where no quantiles are asked for.
    """

    arrays: Mapping[str, Row]
    buckets: Mapping[str, int]


def second_pass(values_ND: Array, agreed: Agreed, steps: Steps) -> SecondPass:
    """Sum up the distances of transformed values from the agreed centre.

    Missing cells are left out: what fills them in is known only after merging, and is then added by their number.
    Cells already filled in (`knn`) are values like others.
    """
    deviations = agreed.forward(values_ND) - agreed.centre
    arrays = {
        "cells": (~np.isnan(deviations)).sum(axis=0).astype(np.float64),
        "sum": _column_sums(deviations),
        "squares": _column_sums(deviations**2),
    }
    buckets = bucket_counts(deviations, steps.alpha, agreed.smallest) if steps.needs_quantiles else {}
    return SecondPass(arrays, buckets)


def _column_sums(values_ND: Array) -> Row:
    return np.asarray([math.fsum(column[~np.isnan(column)].tolist()) for column in values_ND.T], np.float64)
