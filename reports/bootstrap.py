"""Bootstrap intervals of test scores (Efron's percentile method), computed from stored predictions.

Samples of one biological unit (crops of a nucleus, tiles of a patient) are not independent. Where the unit of each
sample is known, whole units are drawn with replacement (cluster bootstrap: Davison and Hinkley, Bootstrap Methods and
Their Application, 1997, section 3.8), otherwise samples. One draw serves every model, so that differences are paired.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from core.randomness import generator
from reports.measures import mean_of_defined
from reports.numbers import Interval
from reports.predicted import Predicted

RESAMPLES = 500
SEED = 0
"""Of the resampling: the same folders give the same report."""
MIN_UNITS = 5
"""With fewer units there is no interval: it would only look narrow."""
MAX_VALUES = 10_000_000
"""Resamples x samples x genes; test sets so large that this is exceeded get fewer resamples."""
FEWEST_RESAMPLES = 100
BLOCK = 200_000
"""Resamples x samples held in memory at once."""
DEFINED = 0.95
"""Share of resamples in which a metric must be defined."""


Weigh = Callable[[np.ndarray], Iterator[np.ndarray]]
"""From the sizes of U groups of samples to the number of times [U] that each resample draws each of them."""


def recomputed(model: Predicted, metric: str) -> float:
    """Give a metric as it follows from predictions; NaN where it cannot be computed from them."""
    return float(model.measure(metric, np.ones((1, len(model))))[0]) if metric in model.METRICS else math.nan


def mean_interval(models: Sequence[Predicted | None], metric: str) -> Interval | None:
    """Give the interval of the mean of a metric over models (and seeds) that saw the same samples."""
    values_RM, over = _resampled(models, metric)
    return None if values_RM is None else _percentiles(mean_of_defined(values_RM), over)


def difference_interval(
    first: Sequence[Predicted | None], second: Sequence[Predicted | None], metric: str
) -> Interval | None:
    """Give the interval of mean metric of `first` minus mean metric of `second`, paired by sample."""
    values_RM, over = _resampled([*first, *second], metric)
    if values_RM is None or not first or not second:
        return None
    return _percentiles(mean_of_defined(values_RM[:, : len(first)]) - mean_of_defined(values_RM[:, len(first) :]), over)


def _resampled(models: Sequence[Predicted | None], metric: str) -> tuple[np.ndarray | None, str]:
    """Give the metric of each model (columns) in each resample (rows), or None without comparable predictions."""
    known = [model for model in models if model is not None]
    aligned = [one for model in known if (one := _aligned(model, known[0])) is not None]
    if not known or len(aligned) < len(models) or metric not in known[0].METRICS:
        return None, ""
    clustered = known[0].units_N is not None
    if clustered and len(np.unique(_codes(known[0].units_N))) < MIN_UNITS:
        return None, ""
    draw, repeats = generator(SEED, "bootstrap"), range(_resamples(known[0]))

    def of_units(sizes_U: np.ndarray) -> Iterator[np.ndarray]:
        count = len(sizes_U)
        return (draw.multinomial(count, np.full(count, 1 / count)) for _ in repeats)

    def of_samples(sizes_U: np.ndarray) -> Iterator[np.ndarray]:
        total = int(sizes_U.sum())
        return (draw.multinomial(total, sizes_U / total) / sizes_U for _ in repeats)

    values_RM = _values(aligned, metric, of_units if clustered else of_samples, clustered=clustered)
    return values_RM, "biological units" if clustered else "test samples"


def _values(models: Sequence[Predicted], metric: str, weigh: Weigh, *, clustered: bool) -> np.ndarray:
    """Measure each model (columns) in each resample (rows), some resamples at a time."""
    cells, counts_U = type(models[0]).condensed(models)
    groups_U = _codes(cells[0].units_N) if clustered else np.arange(len(counts_U))
    draws, parts = weigh(np.bincount(groups_U, counts_U).astype(int)), []
    while block := list(itertools.islice(draws, max(1, BLOCK // len(groups_U)))):
        weights_RU = np.stack(block).astype(np.float64)[:, groups_U] * counts_U
        parts.append(np.stack([one.measure(metric, weights_RU) for one in cells], axis=1))
    return np.concatenate(parts)


def _codes(names_N: np.ndarray | None) -> np.ndarray:
    assert names_N is not None
    return np.unique(names_N, return_inverse=True)[1].reshape(-1)


def _resamples(model: Predicted) -> int:
    size = len(model) * model.width
    return min(RESAMPLES, max(FEWEST_RESAMPLES, MAX_VALUES // size)) if size else RESAMPLES


def _aligned(model: Predicted, reference: Predicted) -> Predicted | None:
    """Give predictions in the order of the reference, or None where the samples are not the same."""
    if type(model) is not type(reference) or len(model) != len(reference):
        return None
    order_N = np.arange(len(model))
    if model.samples_N is not None and reference.samples_N is not None:
        mine_N, theirs_N = (np.argsort(ids, kind="stable") for ids in (model.samples_N, reference.samples_N))
        if not np.array_equal(model.samples_N[mine_N], reference.samples_N[theirs_N]):
            return None
        order_N[theirs_N] = mine_N
    ordered = model.taken(order_N)
    if not ordered.same_truth(reference):
        return None
    return replace(ordered, samples_N=reference.samples_N, units_N=reference.units_N)


def _percentiles(values_R: np.ndarray, over: str) -> Interval | None:
    defined = values_R[~np.isnan(values_R)]
    if len(defined) < DEFINED * len(values_R):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(low), float(high), over)
