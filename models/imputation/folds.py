"""Folds of cross-validation that keep the samples of a biological unit together."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.randomness import generator

Units = npt.NDArray[np.intp]
"""Unit of each sample as a whole number from 0 on, in the order of first samples, [N]."""


def numbered(units: Sequence[str] | None, count: int) -> Units:
    """Number the units of samples; without any, each of `count` samples is one of its own."""
    known: dict[str, int] = {}
    return np.arange(count) if units is None else np.array([known.setdefault(unit, len(known)) for unit in units])


def unit_folds(units_N: Units, folds: int, seed: int) -> list[npt.NDArray[np.intp]]:
    """Divide units at random, as evenly as can be, and give the samples of each fold; an empty fold is left out."""
    order = generator(seed, "knn folds").permutation(int(units_N.max()) + 1)
    parts = [np.flatnonzero(np.isin(units_N, part)) for part in np.array_split(order, folds)]
    return [part for part in parts if len(part)]
