"""Updates are checked by name before any strategy sees them."""

import math

import numpy as np

from fl.exchange import Arrays, Part


def out_of_place(part: Part, client: str, server_round: int) -> str | None:
    """Tell whether an answer belongs to another client or round, or None where it is in its place."""
    said = part.info.get("client"), part.info.get("round")
    if said[0] != client:
        return f"answers as client {said[0]!r}"
    return None if said[1] == server_round else f"answers for round {said[1]!r} instead of {server_round}"


def reason_to_reject(part: Part, arrays: Arrays, train_samples: int) -> str | None:
    """Tell what is wrong with a client's update, or None where nothing is.

    Args:
        part: The client's answer.
        arrays: The global weights that it was to train.
        train_samples: Samples it said to have before training.
    """
    update = part.arrays.get("update", {})
    if missing := sorted(arrays.keys() - update.keys()):
        return f"weights missing: {missing[0]}{_more(missing)}"
    if extra := sorted(update.keys() - arrays.keys()):
        return f"unknown weights: {extra[0]}{_more(extra)}"
    for name, expected in arrays.items():
        array = update[name]
        if array.shape != expected.shape:
            return f"{name}: shape {array.shape} instead of {expected.shape}"
        if array.dtype != expected.dtype:
            return f"{name}: type {array.dtype} instead of {expected.dtype}"
        if not np.isfinite(array).all():
            return f"{name}: holds NaN or infinity"
    samples, loss = part.info.get("samples"), part.info.get("initial_loss", 0.0)
    if type(samples) is not int or samples != train_samples:
        return f"claims {samples!r} training samples instead of {train_samples}"
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        return f"reports a loss of {loss!r} before training"
    return f"reports a loss of {loss} before training; qfedavg weighs by powers, of 0 or more" if loss < 0 else None


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
