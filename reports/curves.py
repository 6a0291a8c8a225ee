"""Learning curves out of run histories, on one time axis for all settings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.run_folder import RunRecord

LEARNING_RATE = "lr"


@dataclass(frozen=True)
class Curve:
    """A metric over training, with its lowest and highest value over seeds."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def axis_label(records: Sequence[RunRecord]) -> str:
    """Name the time axis: rounds where all runs count in rounds, else epochs."""
    return "round" if _in_rounds(records) else "epoch (passes over the training data)"


def curve(records: Sequence[RunRecord], all_records: Sequence[RunRecord], split: str, who: str, metric: str) -> Curve:
    """Give the curve of one setting.

    Args:
        records: Its runs, one per seed.
        all_records: All runs in the picture, which decide on the axis.
        split: `train` or `val`.
        who: A client, or `pooled`: the stored pooled value, else the mean over clients weighted by samples.
        metric: A scalar of the history, or `lr`, the learning rate of a training entry.
    """
    in_rounds = _in_rounds(all_records)
    points: dict[float, list[float]] = {}
    for record in records:
        width = 1 if in_rounds or record.unit == "epoch" else _local_epochs(record)
        for step in record.steps:
            value = _value(step.get(split, {}), who, metric)
            if value is not None:
                points.setdefault(step["step"] * width, []).append(value)
    x = sorted(points)
    mean = [sum(points[at]) / len(points[at]) for at in x]
    return Curve(x, mean, [min(points[at]) for at in x], [max(points[at]) for at in x])


def scalar_metrics(records: Sequence[RunRecord], split: str) -> list[str]:
    """Name the metrics of the histories, in order of appearance."""
    entries = (entry for record in records for step in record.steps for entry in step.get(split, {}).values())
    return list(dict.fromkeys(name for entry in entries for name in entry["metrics"]))


def bytes_per_step(records: Sequence[RunRecord], key: str) -> tuple[list[int], list[float]]:
    """Give steps and the bytes of all clients (`bytes_up` or `bytes_down`), mean over runs."""
    totals: dict[int, list[int]] = {}
    for record in records:
        for step in record.steps:
            if key in step:
                totals.setdefault(step["step"], []).append(sum(step[key].values()))
    steps = sorted(totals)
    return steps, [sum(totals[step]) / len(totals[step]) for step in steps]


def _value(entries: Mapping[str, Any], who: str, metric: str) -> float | None:
    if who in entries:
        return _scalar(entries[who], metric)
    if who != "pooled":
        return None
    values = [(_scalar(entry, metric), entry["support"]) for entry in entries.values()]
    known = [(value, support) for value, support in values if value is not None and support]
    total = sum(support for _, support in known)
    return sum(value * support for value, support in known) / total if total else None


def _scalar(entry: Mapping[str, Any], metric: str) -> float | None:
    """Give a value, or None where it is missing or undefined (null or NaN)."""
    value = entry.get(metric) if metric == LEARNING_RATE else entry["metrics"].get(metric)
    return None if value is None or math.isnan(value) else float(value)


def _in_rounds(records: Sequence[RunRecord]) -> bool:
    return bool(records) and all(record.unit == "round" for record in records)


def _local_epochs(record: RunRecord) -> int:
    known = record.manifest.get("budget", {}).get("local_epochs")
    return int(known or record.config.get("federation", {}).get("local_epochs", 1))
