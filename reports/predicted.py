"""Predictions per sample as the runs stored them: classes, or one number per gene."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.run_folder import RunRecord


@dataclass(frozen=True)
class Predicted:
    """What a model predicts on one test set of N samples."""

    samples_N: np.ndarray | None
    """Ids, where stored."""
    target: np.ndarray
    """Classes [N] as integers, or values [N, K] as float64."""
    predicted: np.ndarray
    """Of the same shape and kind."""
    units_N: np.ndarray | None = None
    """Biological unit of each sample (nucleus, patient, slide), where stored."""
    scores_NK: np.ndarray | None = None
    """Probability of each class, where stored and asked for."""

    @property
    def of_classes(self) -> bool:
        """Whether each sample has one class, not a row of values."""
        return self.target.ndim == 1

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.target)


def read_predicted(record: RunRecord, model: str, data: str, *, scores: bool = False) -> Predicted | None:
    """Give the predictions of a model on a set, or None where none are stored that a table or metric can use.

    Args:
        record: The run.
        model: A model of it.
        data: A client, or `held_out`.
        scores: Whether to read the probabilities too.
    """
    stored = record.predictions(model, data, ("target", "predicted", "sample", "unit", *["scores"] * scores))
    target, predicted = stored.get("target"), stored.get("predicted")
    if target is None or predicted is None or target.shape != predicted.shape or not len(target):
        return None
    samples, units, probabilities = (_per_sample(stored.get(key), len(target)) for key in ("sample", "unit", "scores"))
    if target.ndim == 1 and target.dtype.kind in "iu" and predicted.dtype.kind in "iu":
        return Predicted(samples, target, predicted, units, probabilities)
    if target.ndim == 2 and target.dtype.kind == predicted.dtype.kind == "f":
        return Predicted(samples, target.astype(np.float64), predicted.astype(np.float64), units)
    return None


def pooled_predicted(record: RunRecord, *, scores: bool = False) -> Predicted | None:
    """Join every client's test set as predicted by the model that the client would use."""
    named = [
        (client, part)
        for client in record.clients
        if (part := read_predicted(record, record.model_of(client), client, scores=scores))
    ]
    return _join(named) if named and len(named) == len(record.clients) else None


def predicted_on(record: RunRecord, model: str, data: str, *, scores: bool = False) -> Predicted | None:
    """Give the predictions of a model on a set, where `pooled` is every client's test set."""
    if data == "pooled":
        return pooled_predicted(record, scores=scores)
    return read_predicted(record, model, data, scores=scores)


def _join(named: Sequence[tuple[str, Predicted]]) -> Predicted | None:
    parts = [part for _, part in named]
    if len({part.target.shape[1:] for part in parts}) > 1:
        return None
    samples = [_prefixed(name, part.samples_N) for name, part in named]
    units = [_prefixed(name, part.units_N) for name, part in named]
    return Predicted(
        _concatenated(samples),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.predicted for part in parts]),
        _concatenated(units),
        _concatenated([part.scores_NK for part in parts]),
    )


def _prefixed(client: str, names_N: np.ndarray | None) -> np.ndarray | None:
    """Tell the names of one client from equal ones of another."""
    return None if names_N is None else np.array([f"{client}/{name}" for name in names_N])


def _concatenated(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    same = len(known) == len(parts) and len({part.shape[1:] for part in known}) == 1
    return np.concatenate(known) if same else None


def _per_sample(values: np.ndarray | None, count: int) -> np.ndarray | None:
    return values if values is not None and values.ndim and len(values) == count else None
