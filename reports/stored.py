"""Reads the predictions that a run has stored, of whatever kind they are."""

from dataclasses import replace

import numpy as np

from reports.kinds import KINDS
from reports.predicted import Predicted
from reports.run_folder import RunRecord


def read_predicted(record: RunRecord, model: str, data: str, *, scores: bool = False) -> Predicted | None:
    """Give the predictions of a model on a set, or None where none are stored that a table or metric can use.

    Args:
        record: The run.
        model: A model of it.
        data: A client, or `held_out`.
        scores: Whether to read the probabilities of classes too.
    """
    keys = {key for kind in KINDS for key in kind.KEYS if scores or key != "scores"}
    stored = record.predictions(model, data, keys | {"sample", "unit"})
    found = next((one for kind in KINDS if (one := kind.of(stored)) is not None), None)
    if not found:
        return None
    ids, units = (_per_sample(stored.get(key), len(found)) for key in ("sample", "unit"))
    return replace(found, samples_N=ids, units_N=units)


def predicted_on(record: RunRecord, model: str, data: str, *, scores: bool = False) -> Predicted | None:
    """Give the predictions of a model on a set, where `pooled` is every client's by the model that it would use."""
    if data != "pooled":
        return read_predicted(record, model, data, scores=scores)
    own = [(client, read_predicted(record, one, client, scores=scores)) for one, client in places(record, model, data)]
    parts = [_named_after(client, part) for client, part in own if part]
    same = parts and len(parts) == len(own) and len({type(part) for part in parts}) == 1
    return type(parts[0]).joined(parts) if same else None


def places(record: RunRecord, model: str, data: str) -> list[tuple[str, str]]:
    """Give model and set of every file that `predicted_on` reads, in its order."""
    if data != "pooled":
        return [(model, data)]
    return [(record.model_of(client), client) for client in record.clients]


def _named_after(client: str, part: Predicted) -> Predicted:
    """Tell the names of one client from equal ones of another."""
    ids, units = (_prefixed(client, one) for one in (part.samples_N, part.units_N))
    return replace(part, samples_N=ids, units_N=units)


def _prefixed(client: str, names_N: np.ndarray | None) -> np.ndarray | None:
    return None if names_N is None else np.array([f"{client}/{name}" for name in names_N])


def _per_sample(values: np.ndarray | None, count: int) -> np.ndarray | None:
    return values if values is not None and values.ndim and len(values) == count else None
