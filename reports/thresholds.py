"""Scores of a segmentation at every threshold, and what choosing one would give: on validation, and with hindsight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.comparison import Comparison
from reports.numbers import Spread, amount
from reports.run_folder import RunRecord
from reports.tables import DATA_NAMES, Cell, Table

ARRAYS = {"threshold": "threshold", "precision": "precision_at", "recall": "recall_at", "f1": "f1_at"}
"""Name here -> name of the stored array."""
NOTE = (
    "Beware of the last two columns: they choose the threshold on the very images that they score it on, which is "
    "optimistic, and promises nothing for other images. One that is best on validation is an honest choice. All "
    "thresholds are in threshold_metrics.csv."
)


@dataclass(frozen=True)
class Sweep:
    """Scores of a model on a set at T thresholds, each [T]."""

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def f1_at(self, threshold: float) -> float:
        """Give F1 at the threshold that is nearest to one."""
        return float(self.f1[np.argmin(np.abs(self.threshold - threshold))])


def sweep(record: RunRecord, model: str, data: str) -> Sweep | None:
    """Give the stored scores of a model on a set, or None where there are none."""
    stored = record.arrays(model, data)
    arrays = [stored[name] for name in ARRAYS.values() if name in stored]
    complete = len(arrays) == len(ARRAYS) and len({one.shape for one in arrays}) == 1 and arrays[0].ndim == 1
    return Sweep(*arrays) if complete and arrays[0].size else None


def setting_sweep(comparison: Comparison, setting: str) -> Sweep | None:
    """Average the sweeps of a setting on the main test set over seeds, and over the models of local training."""
    everyone = [sweep(record, model, comparison.main_data) for record, model in _models(comparison, setting)]
    found = [one for one in everyone if one]
    if not found or any(not np.array_equal(one.threshold, found[0].threshold) for one in found):
        return None
    return Sweep(*(np.mean([getattr(one, name) for one in found], axis=0) for name in ARRAYS))


def used(comparison: Comparison, setting: str) -> list[float]:
    """Give the thresholds that the runs of a setting were scored at, where their configs name one."""
    found = [record.config.get("options", {}).get("threshold") for record, _ in _models(comparison, setting)]
    return sorted({float(one) for one in found if isinstance(one, int | float)})


def chosen_on_validation(record: RunRecord, model: str) -> float | None:
    """Give the threshold that was best on validation in the epoch or round that the weights are from."""
    selected = record.manifest.get("selected", {}).get(model)
    who = model if record.setting == "local" else "pooled"
    steps = [step.get("val", {}).get(who) for step in record.steps if step["step"] == selected]
    value = steps[0]["metrics"].get("best_threshold") if steps and steps[0] else None
    return None if value is None or np.isnan(value) else float(value)


def threshold_table(comparison: Comparison) -> Table:
    """Setting x F1 at the threshold used, at the one that is best on validation, and at the best of all on the test."""
    columns = ["setting", "threshold used", "F1 there", "best on validation", "F1 there", "best here", "F1 there"]
    table = Table(columns, note=f"F1 on the {DATA_NAMES[comparison.main_data]}. {NOTE}")
    for setting in comparison.settings:
        if setting_sweep(comparison, setting) is None:
            continue
        line = comparison.line(setting, comparison.main_data)
        reached = line.scores.get("f1", Spread(())) if line else Spread(())
        runs = _by_run(comparison, setting)
        validated, there = _chosen(runs, comparison.main_data, chosen_on_validation)
        best, optimistic = _chosen(runs, comparison.main_data, _best(comparison.main_data))
        texts = [amount(used(comparison, setting)), reached.text(), amount(validated), there.text(), amount(best)]
        table.rows.append([Cell(setting, "text"), *map(Cell, texts), Cell(optimistic.text(), "muted")])
    return table


def threshold_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give precision, recall and F1 of every model on every test set at every threshold, one row each."""
    rows = []
    for record in comparison.scored:
        for row in record.rows:
            one = sweep(record, row["model"], row["data"])
            who = {"setting": record.setting, "seed": record.seed, "model": row["model"], "data": row["data"]}
            values = [getattr(one, name) for name in ARRAYS] if one else []
            rows += [{**who, **dict(zip(ARRAYS, point, strict=True))} for point in zip(*values, strict=True)]
    return rows


def _models(comparison: Comparison, setting: str) -> list[tuple[RunRecord, str]]:
    return [one for group in _by_run(comparison, setting) for one in group]


def _by_run(comparison: Comparison, setting: str) -> list[list[tuple[RunRecord, str]]]:
    def models(record: RunRecord) -> list[str]:
        return record.models if comparison.main_data == "held_out" else [setting]

    runs = [record for record in comparison.scored if record.setting == setting]
    return [[(record, model) for model in models(record)] for record in runs]


def _chosen(
    runs: Sequence[Sequence[tuple[RunRecord, str]]], data: str, choose: Callable[[RunRecord, str], float | None]
) -> tuple[list[float], Spread]:
    """Give the thresholds that a rule chooses for each model, and the F1 there: per run, its mean over the models."""
    thresholds, values = [], []
    for group in runs:
        own = [(one, threshold) for record, model in group
               if (one := sweep(record, model, data)) and (threshold := choose(record, model)) is not None]  # fmt: skip
        thresholds += [threshold for _, threshold in own]
        values += [Spread(tuple(one.f1_at(threshold) for one, threshold in own)).mean] * bool(own)
    return thresholds, Spread(tuple(values))


def _best(data: str) -> Callable[[RunRecord, str], float | None]:
    def best(record: RunRecord, model: str) -> float | None:
        value = record.value(model, data, "best_threshold")
        return None if np.isnan(value) else value

    return best
