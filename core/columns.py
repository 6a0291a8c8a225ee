"""How two tables of numbers agree, column by column: correlation, rank correlation, error, determination."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Matrix = npt.NDArray[np.float64]


def pearson_by_column(one_NK: Matrix, other_NK: Matrix) -> Matrix:
    """Give the correlation of each column with its partner, [K]; NaN where one is constant or there is one sample.

    Raises:
        ValueError: The shapes differ or are not two-dimensional.
    """
    check_tables(one_NK.shape, other_NK.shape)
    one, other = (np.asarray(values, np.float64) for values in (one_NK, other_NK))
    varies = (one != one[:1]).any(axis=0) & (other != other[:1]).any(axis=0)
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    scale = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return _ratio((one * other).sum(axis=0), scale, varies & (scale > 0))


def spearman_by_column(one_NK: Matrix, other_NK: Matrix) -> Matrix:
    """Give the rank correlation of each column with its partner, ties sharing their mean rank, [K].

    Raises:
        ValueError: The shapes differ or are not two-dimensional.
    """
    check_tables(one_NK.shape, other_NK.shape)
    return pearson_by_column(rankdata(one_NK, axis=0), rankdata(other_NK, axis=0))


def mse_by_column(target_NK: Matrix, predicted_NK: Matrix) -> Matrix:
    """Give the mean squared error of each column, [K]."""
    check_tables(target_NK.shape, predicted_NK.shape)
    return np.asarray(((target_NK - predicted_NK) ** 2).mean(axis=0), np.float64)


def r2_by_column(target_NK: Matrix, predicted_NK: Matrix) -> Matrix:
    """Give the coefficient of determination of each column, [K]; NaN where the target is constant."""
    check_tables(target_NK.shape, predicted_NK.shape)
    spread = ((target_NK - target_NK.mean(axis=0)) ** 2).mean(axis=0)
    varies = (target_NK != target_NK[:1]).any(axis=0) & (spread > 0)
    return np.asarray(1 - _ratio(mse_by_column(target_NK, predicted_NK), spread, varies), np.float64)


def defined_mean(values: Matrix) -> float:
    """Give the mean of what is not NaN; NaN where nothing is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _ratio(above: Matrix, below: Matrix, defined: npt.NDArray[np.bool_]) -> Matrix:
    return np.asarray(np.divide(above, below, out=np.full(below.shape, np.nan), where=defined), np.float64)


def check_tables(one: Sequence[int], other: Sequence[int]) -> None:
    """Refuse shapes that are not those of two tables of equal size.

    Raises:
        ValueError: They differ or are not two-dimensional.
    """
    if len(one) != 2 or one != other:
        raise ValueError(f"shapes {tuple(one)} and {tuple(other)}: give two equal ones, [samples, columns]")
