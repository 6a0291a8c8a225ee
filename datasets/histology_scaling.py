"""Mean and deviation of columns from numbers that add up, so that merged clients get the pooled scaling.

Sums of squares lose digits where the mean is large against the deviation: the relative error of a variance is about
(mean / deviation)^2 x 1e-15. Minimum and maximum bound it from both sides, and find constant columns exactly.
"""

import math

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float64]

SMALLEST_DEVIATION = 1e-8
"""A column that varies less is not scaled (the published rule)."""


def column_sums(values_NK: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    """Give `count`, `sum` and `squares`, which merge by addition, and `min` and `max`, of each column, [K].

    The sums are rounded once (`math.fsum`), so they do not depend on the order of the rows.
    """
    columns = values_NK.T.tolist()
    return {
        "count": [float(len(values_NK))] * len(columns),
        "sum": [math.fsum(column) for column in columns],
        "squares": [math.fsum(value * value for value in column) for column in columns],
        "min": values_NK.min(axis=0).tolist(),
        "max": values_NK.max(axis=0).tolist(),
    }


def mean_and_deviation(count: Row, total: Row, squares: Row, low: Row, high: Row) -> tuple[Row, Row]:
    """Give mean and population standard deviation of each column, 1 where it is below 1e-8.

    A deviation of n values lies between range / sqrt(2 n) and range / 2 (Popoviciu 1935), whatever the rounding says.
    """
    mean = np.clip(total / count, low, high)
    spread = high - low
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation = np.clip(deviation, spread / np.sqrt(2 * count), spread / 2)
    return mean, np.where(deviation < SMALLEST_DEVIATION, 1.0, deviation)
