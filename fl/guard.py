"""Updates are checked by name before any strategy sees them."""

import numpy as np

from fl.exchange import Arrays, Part


def reason_to_reject(part: Part, arrays: Arrays) -> str | None:
    """Tell what is wrong with a client's update, or None where nothing is.

    Args:
        part: The client's answer.
        arrays: The global weights it was sent.
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
    samples = part.info.get("samples")
    if not isinstance(samples, int) or samples < 1:
        return f"claims {samples!r} training samples"
    return None


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
