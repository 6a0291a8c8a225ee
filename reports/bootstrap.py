"""Bootstrap intervals over test samples (Efron's percentile method), computed from stored predictions.

Drawing n samples with replacement is drawing the counts of all distinct (target, predictions) combinations from a
multinomial, so that one draw serves every model and differences are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from core.randomness import generator
from reports.numbers import Interval
from reports.run_folder import RunRecord

RESAMPLES = 500
SEED = 0
"""Of the resampling: the same folders give the same report."""


@dataclass(frozen=True)
class Predicted:
    """Classes of the samples of one test set."""

    samples_N: np.ndarray | None
    """Ids, where stored."""
    target_N: np.ndarray
    predicted_N: np.ndarray


def _accuracy(counts_KK: np.ndarray) -> float:
    return float(np.trace(counts_KK) / counts_KK.sum())


def _macro_f1(counts_KK: np.ndarray) -> float:
    """Mean over the classes that occur as target or prediction, as scikit-learn and torchmetrics take it."""
    hits_K = np.diag(counts_KK)
    total_K = counts_KK.sum(0) + counts_KK.sum(1)
    return float(np.mean(2 * hits_K[total_K > 0] / total_K[total_K > 0]))


METRICS: dict[str, Callable[[np.ndarray], float]] = {"accuracy": _accuracy, "f1_macro": _macro_f1}
"""Metrics of a confusion matrix (rows truth) that have an interval."""


def read_predicted(record: RunRecord, model: str, data: str) -> Predicted | None:
    """Give the stored classes of a model on a set, or None where there are none (no file, or no class per sample)."""
    stored = record.predictions(model, data)
    target, predicted = stored.get("target"), stored.get("predicted")
    if target is None or predicted is None or target.ndim != 1 or target.shape != predicted.shape or not len(target):
        return None
    if target.dtype.kind not in "iu" or predicted.dtype.kind not in "iu":
        return None
    return Predicted(stored.get("sample"), target, predicted)


def pooled_predicted(record: RunRecord) -> Predicted | None:
    """Join every client's test set as predicted by the model that the client would use."""
    parts = [read_predicted(record, record.model_of(client), client) for client in record.clients]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return Predicted(
        None, np.concatenate([part.target_N for part in known]), np.concatenate([part.predicted_N for part in known])
    )


def mean_interval(models: Sequence[Predicted | None], metric: str) -> Interval | None:
    """Give the interval of the mean of a metric over models (and seeds) that saw the same samples."""
    values_RM = _resampled(models, metric)
    return None if values_RM is None else _percentiles(values_RM.mean(1))


def difference_interval(
    first: Sequence[Predicted | None], second: Sequence[Predicted | None], metric: str
) -> Interval | None:
    """Give the interval of mean metric of `first` minus mean metric of `second`, paired by sample."""
    values_RM = _resampled([*first, *second], metric)
    if values_RM is None or not first or not second:
        return None
    return _percentiles(values_RM[:, : len(first)].mean(1) - values_RM[:, len(first) :].mean(1))


def _resampled(models: Sequence[Predicted | None], metric: str) -> np.ndarray | None:
    """Give the metric of each model (columns) in each resample (rows), or None without comparable predictions."""
    known = [model for model in models if model is not None]
    if not known or len(known) < len(models) or metric not in METRICS:
        return None
    aligned = [_aligned(model, known[0]) for model in known]
    columns = [known[0].target_N, *[one for one in aligned if one is not None]]
    if len(columns) <= len(known):
        return None
    classes, codes = np.unique(np.stack(columns), return_inverse=True)
    cells_CU, counts_U = np.unique(codes.reshape(len(columns), -1), axis=1, return_counts=True)
    pairs_MU = cells_CU[0] * len(classes) + cells_CU[1:]
    return _draw(pairs_MU, counts_U, len(classes), METRICS[metric])


def _draw(pairs_MU: np.ndarray, counts_U: np.ndarray, size: int, metric: Callable[[np.ndarray], float]) -> np.ndarray:
    draw = generator(SEED, "bootstrap")
    values_RM = np.empty((RESAMPLES, len(pairs_MU)))
    for weights_U, values_M in zip(_resample(draw, counts_U), values_RM, strict=True):
        for model, pairs_U in enumerate(pairs_MU):
            counts = np.bincount(pairs_U, weights_U, minlength=size * size)
            values_M[model] = metric(counts.reshape(size, size))
    return values_RM


def _resample(draw: np.random.Generator, counts_U: np.ndarray) -> Sequence[np.ndarray]:
    total = int(counts_U.sum())
    return [draw.multinomial(total, counts_U / total) for _ in range(RESAMPLES)]


def _aligned(model: Predicted, reference: Predicted) -> np.ndarray | None:
    """Give predictions in the order of the reference, or None where the samples are not the same."""
    if len(model.target_N) != len(reference.target_N):
        return None
    order_N = np.arange(len(model.target_N))
    if model.samples_N is not None and reference.samples_N is not None:
        mine_N, theirs_N = (np.argsort(ids, kind="stable") for ids in (model.samples_N, reference.samples_N))
        if not np.array_equal(model.samples_N[mine_N], reference.samples_N[theirs_N]):
            return None
        order_N[theirs_N] = mine_N
    same = np.array_equal(model.target_N[order_N], reference.target_N)
    return model.predicted_N[order_N] if same else None


def _percentiles(values_R: np.ndarray) -> Interval:
    low, high = np.percentile(values_R, [2.5, 97.5])
    return Interval(float(low), float(high))
