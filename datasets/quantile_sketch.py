"""Quantiles of columns from counts that add up: each value is known by a bucket, and buckets are counted.

The buckets are those of DDSketch (Masson, Rim & Lee 2019, arXiv:1908.10693): their borders grow by
gamma = (1 + alpha) / (1 - alpha), so that the middle of a bucket is off by no more than alpha times the value. Values
are deviations from a centre that all parties know: the error is relative to the spread, not to the magnitude.

Bound: every order statistic d, and what is interpolated between two of them, is off by at most alpha |d|, or by the
`smallest` deviation of its column where that is more. With alpha 0 the values themselves are counted, and all is exact.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Atoms = tuple[Array, npt.NDArray[np.int64]]
"""Values of one column, ascending, and how often each occurs."""


def bucket_counts(deviations_ND: Array, alpha: float, smallest_D: Array) -> dict[str, int]:
    """Count the values of each column by bucket; NaN is not counted.

    Args:
        deviations_ND: Distances from the centre of each column.
        alpha: Relative error, 0 <= alpha < 1.
        smallest_D: Deviations up to this count as 0.

    Returns:
        `column:bucket` (with alpha 0: `column:value`, in hexadecimal) to its count.
    """
    table: dict[str, int] = {}
    for column, (values, smallest) in enumerate(zip(deviations_ND.T, smallest_D.tolist(), strict=True)):
        seen = values[~np.isnan(values)]
        labels: list[str]
        if alpha == 0:
            distinct, counts = np.unique(seen, return_counts=True)
            labels = [value.hex() for value in distinct.tolist()]
        else:
            buckets, counts = np.unique(_buckets(seen, alpha, smallest), return_counts=True)
            labels = [str(bucket) for bucket in buckets.tolist()]
        table |= {f"{column}:{label}": count for label, count in zip(labels, counts.tolist(), strict=True)}
    return table


def read_counts(table: Mapping[str, int], alpha: float, smallest_D: Array) -> list[Atoms]:
    """Turn counts, of one party or added up over several, back into values, column by column."""
    labels: list[list[str]] = [[] for _ in smallest_D]
    counts: list[list[int]] = [[] for _ in smallest_D]
    for key, count in table.items():
        column, _, label = key.partition(":")
        labels[int(column)].append(label)
        counts[int(column)].append(count)
    return [
        _ascending(_values(own, alpha, smallest), np.asarray(often, np.int64))
        for own, often, smallest in zip(labels, counts, smallest_D.tolist(), strict=True)
    ]


def with_value(atoms: Atoms, value: float, count: int) -> Atoms:
    """Add a value that occurs `count` times."""
    if count == 0:
        return atoms
    return _ascending(np.append(atoms[0], value), np.append(atoms[1], count))


def neighbours(atoms: Atoms, share: float) -> tuple[float, float, float]:
    """Find the order statistics on both sides of a quantile, and the weight of the upper one (numpy's linear rule)."""
    values, counts = atoms
    ends = np.cumsum(counts)
    position = share * (int(ends[-1]) - 1)
    below = int(np.floor(position))
    places = np.searchsorted(ends, [below, min(below + 1, int(ends[-1]) - 1)], side="right")
    lower, upper = values[places].tolist()
    return lower, upper, position - below


def quantile(atoms: Atoms, share: float) -> float:
    """Give a quantile, interpolated between order statistics as `numpy.quantile` does by default."""
    lower, upper, weight = neighbours(atoms, share)
    return lower + (upper - lower) * weight


def _growth(alpha: float) -> float:
    return (1 + alpha) / (1 - alpha)


def _buckets(values_N: Array, alpha: float, smallest: float) -> npt.NDArray[np.int64]:
    sizes = np.abs(values_N)
    far = sizes > smallest
    steps = np.zeros(len(values_N))
    steps[far] = np.maximum(np.ceil(np.log(sizes[far] / smallest) / np.log(_growth(alpha))), 1)
    return (np.sign(values_N) * steps).astype(np.int64)


def _values(labels: list[str], alpha: float, smallest: float) -> Array:
    if alpha == 0:
        return np.asarray([float.fromhex(label) for label in labels], np.float64)
    buckets, growth = np.asarray(labels, np.int64), _growth(alpha)
    return np.sign(buckets) * smallest * 2 * growth ** np.abs(buckets) / (growth + 1)


def _ascending(values: Array, counts: npt.NDArray[np.int64]) -> Atoms:
    order = np.argsort(values, kind="stable")
    return values[order], counts[order]
