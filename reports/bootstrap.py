"""Bootstrap intervals of test scores (Efron's percentile method), computed from stored predictions.

Samples of one biological unit (crops of a nucleus, tiles of a patient) are not independent. Where the unit of each
sample is known, whole units are drawn with replacement (cluster bootstrap: Davison and Hinkley, Bootstrap Methods and
Their Application, 1997, section 3.8), otherwise samples. One draw serves every model, so that differences are paired.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from core.randomness import generator
from reports.measures import OF_CLASSES, OF_VALUES
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
    values_RM = _values([model], metric, lambda sizes: iter([np.ones(len(sizes))]), clustered=False)
    return math.nan if values_RM is None else float(values_RM[0, 0])


def mean_interval(models: Sequence[Predicted | None], metric: str) -> Interval | None:
    """Give the interval of the mean of a metric over models (and seeds) that saw the same samples."""
    values_RM, over = _resampled(models, metric)
    return None if values_RM is None else _percentiles(_mean(values_RM), over)


def difference_interval(
    first: Sequence[Predicted | None], second: Sequence[Predicted | None], metric: str
) -> Interval | None:
    """Give the interval of mean metric of `first` minus mean metric of `second`, paired by sample."""
    values_RM, over = _resampled([*first, *second], metric)
    if values_RM is None or not first or not second:
        return None
    return _percentiles(_mean(values_RM[:, : len(first)]) - _mean(values_RM[:, len(first) :]), over)


def _resampled(models: Sequence[Predicted | None], metric: str) -> tuple[np.ndarray | None, str]:
    """Give the metric of each model (columns) in each resample (rows), or None without comparable predictions."""
    known = [model for model in models if model is not None]
    aligned = [one for model in known if (one := _aligned(model, known[0])) is not None]
    if not known or len(aligned) < len(models):
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


def _values(models: Sequence[Predicted], metric: str, weigh: Weigh, *, clustered: bool) -> np.ndarray | None:
    if models[0].of_classes and metric in OF_CLASSES:
        return _class_values(models, OF_CLASSES[metric], weigh, clustered=clustered)
    if not models[0].of_classes and metric in OF_VALUES:
        return _gene_values(models, OF_VALUES[metric], weigh, clustered=clustered)
    return None


def _class_values(
    models: Sequence[Predicted], metric: Callable[[np.ndarray], float], weigh: Weigh, *, clustered: bool
) -> np.ndarray:
    """Weigh the distinct combinations of unit, target and predictions instead of single samples."""
    classes, codes = np.unique(np.stack([models[0].target, *(one.predicted for one in models)]), return_inverse=True)
    rows = codes.reshape(len(models) + 1, -1)
    units_N = _codes(models[0].units_N) if clustered else np.zeros(len(models[0]), int)
    cells, counts_U = np.unique(np.vstack([units_N, rows]), axis=1, return_counts=True)
    groups_U = cells[0] if clustered else np.arange(len(counts_U))
    pairs_MU, size = cells[1] * len(classes) + cells[2:], len(classes)

    def measure(weights_U: np.ndarray) -> list[float]:
        counts = (np.bincount(pairs_U, weights_U, size * size) for pairs_U in pairs_MU)
        return [metric(one.reshape(size, size)) for one in counts]

    sizes = np.bincount(groups_U, counts_U).astype(int)
    return np.array([measure(drawn[groups_U] * counts_U) for drawn in weigh(sizes)])


def _gene_values(
    models: Sequence[Predicted],
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    weigh: Weigh,
    *,
    clustered: bool,
) -> np.ndarray:
    groups_N = _codes(models[0].units_N) if clustered else np.arange(len(models[0]))
    draws, parts = weigh(np.bincount(groups_N)), []
    while block := list(itertools.islice(draws, max(1, BLOCK // len(groups_N)))):
        weights_RN = np.stack(block).astype(np.float64)[:, groups_N]
        parts.append(np.stack([metric(one.target, one.predicted, weights_RN) for one in models], axis=1))
    return np.concatenate(parts)


def _codes(names_N: np.ndarray | None) -> np.ndarray:
    assert names_N is not None
    return np.unique(names_N, return_inverse=True)[1].reshape(-1)


def _resamples(model: Predicted) -> int:
    if model.of_classes:
        return RESAMPLES
    return min(RESAMPLES, max(FEWEST_RESAMPLES, MAX_VALUES // model.target.size))


def _aligned(model: Predicted, reference: Predicted) -> Predicted | None:
    """Give predictions in the order of the reference, or None where the samples are not the same."""
    if model.target.shape != reference.target.shape or model.of_classes != reference.of_classes:
        return None
    order_N = np.arange(len(model))
    if model.samples_N is not None and reference.samples_N is not None:
        mine_N, theirs_N = (np.argsort(ids, kind="stable") for ids in (model.samples_N, reference.samples_N))
        if not np.array_equal(model.samples_N[mine_N], reference.samples_N[theirs_N]):
            return None
        order_N[theirs_N] = mine_N
    target = model.target[order_N]
    # Values that went through each model's own scaler and back differ in the last bits.
    same = np.array_equal if model.of_classes else lambda one, other: np.allclose(one, other, rtol=1e-4, atol=1e-4)
    if not same(target, reference.target):
        return None
    return Predicted(reference.samples_N, target, model.predicted[order_N], reference.units_N)


def _mean(values_RM: np.ndarray) -> np.ndarray:
    """Average over the models where the metric is defined."""
    defined_RM = ~np.isnan(values_RM)
    counts_R = defined_RM.sum(1)
    total_R = np.where(defined_RM, values_RM, 0).sum(1)
    out = np.full(len(total_R), np.nan)
    return np.asarray(np.divide(total_R, counts_R, out=out, where=counts_R > 0))


def _percentiles(values_R: np.ndarray, over: str) -> Interval | None:
    defined = values_R[~np.isnan(values_R)]
    if len(defined) < DEFINED * len(values_R):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(low), float(high), over)
