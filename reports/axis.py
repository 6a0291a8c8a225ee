"""Scores per class, per gene, or whatever else the arrays of a task run over."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.comparison import Comparison
from reports.numbers import Spread, amount, metric_name
from reports.run_folder import RunRecord
from reports.tables import DATA_NAMES, Cell, Table

SUPPORT = "support"
SHOWN = 20
"""Rows of the table on the page; of longer ones it has the best and the worst, and the CSV file has all."""


@dataclass(frozen=True)
class AxisScores:
    """Scores of every class (or gene) on one test set."""

    noun: str
    names: list[str]
    columns: list[str]
    """Scores, without the support."""
    values: dict[str, dict[str, list[Spread]]]
    """Setting -> column -> per name, over seeds; of several local models on one set the mean."""
    support: list[float] | None
    """Samples per name on the test set, where known."""

    @property
    def settings(self) -> list[str]:
        """Settings that have such scores."""
        return list(self.values)

    def means(self, setting: str, column: str) -> np.ndarray:
        """Give the mean over seeds per name, NaN where undefined."""
        return np.array([spread.mean for spread in self.values[setting][column]])


def axis_columns(record: RunRecord, model: str, data: str) -> dict[str, np.ndarray]:
    """Give every array of a row that has one value per class; of a confusion matrix precision, recall, F1, support.

    These go before stored ones of the same name, which may hold 0 where they are undefined.
    """
    arrays, count = record.arrays(model, data), len(record.classes)
    stored = {short_name(name, record.axis): one for name, one in arrays.items() if one.shape == (count,) and count}
    matrix = arrays.get("confusion_matrix")
    derived = _of_matrix(matrix) if matrix is not None and matrix.shape == (count, count) else {}
    return {**derived, **{name: one for name, one in stored.items() if name not in derived}}


def axis_scores(comparison: Comparison) -> AxisScores | None:
    """Collect the scores per class on the main test set, or None where there are none."""
    first = next((record for record in comparison.scored if record.classes), None)
    if first is None:
        return None
    values: dict[str, dict[str, list[Spread]]] = {}
    support = None
    for setting in comparison.settings:
        records = [one for one in comparison.scored if one.setting == setting and one.classes == first.classes]
        seeds = [_of_setting(record, comparison.main_data) for record in records]
        columns = list(dict.fromkeys(name for seed in seeds for name in seed))
        if support is None and SUPPORT in columns:
            support = next(seed[SUPPORT] for seed in seeds if SUPPORT in seed).tolist()
        if any(column != SUPPORT for column in columns):
            values[setting] = {column: _spreads(seeds, column, len(first.classes)) for column in columns}
    found = dict.fromkeys(name for columns in values.values() for name in columns if name != SUPPORT)
    names = sorted(found, key=lambda name: name not in _headline_columns(comparison.primary))
    filled = {
        setting: {name: columns.get(name, [Spread(())] * len(first.classes)) for name in names}
        for setting, columns in values.items()
    }
    return AxisScores(first.axis, first.classes, names, filled, support) if names else None


def axis_table(scores: AxisScores, comparison: Comparison) -> Table:
    """Class x score, the settings side by side; of many classes the best and the worst."""
    heads = [f"{metric_name(column)}, {setting}" for column in scores.columns for setting in scores.settings]
    if len(scores.settings) == 1:
        heads = [metric_name(column) for column in scores.columns]
    samples = ["samples"] * (scores.support is not None)
    rows, note = _shown(scores, comparison.primary, comparison.higher_is_better)
    table = Table([scores.noun, *samples, *heads], note=f"On {_place(comparison)}.{note}")
    for at in rows:
        if at is None:
            table.rows.append([Cell("\N{HORIZONTAL ELLIPSIS}", "text"), *[Cell("")] * (len(table.columns) - 1)])
            continue
        cells = [Cell(scores.names[at], "text")]
        if scores.support is not None:
            cells.append(Cell(amount([scores.support[at]])))
        spreads = [scores.values[setting][column][at] for column in scores.columns for setting in scores.settings]
        table.rows.append(
            [*cells, *(Cell(one.text(), "muted" if math.isnan(one.mean) else "number") for one in spreads)]
        )
    return table


def axis_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give the scores per class of every model on every test set, one row each; undefined is None."""
    rows = []
    for record in comparison.scored:
        for row in record.rows:
            columns = axis_columns(record, row["model"], row["data"])
            who = {"setting": record.setting, "seed": record.seed, "model": row["model"], "data": row["data"]}
            for at, name in enumerate(record.classes if columns else []):
                values = {column: None if math.isnan(one[at]) else float(one[at]) for column, one in columns.items()}
                rows.append({**who, record.axis: name, **values})
    return rows


def ranking(scores: AxisScores, primary: str, higher_is_better: bool) -> tuple[str, list[int]]:
    """Order names from best to worst by the column of the primary metric, else the first; undefined ones are last."""
    named = [name for name in _headline_columns(primary) if name in scores.columns]
    column = named[0] if named else scores.columns[0]
    each = [Spread(tuple(scores.means(setting, column)[at] for setting in scores.settings)).mean
            for at in range(len(scores.names))]  # fmt: skip
    sign = -1 if higher_is_better or not named else 1
    return column, sorted(range(len(each)), key=lambda at: (math.isnan(each[at]), sign * each[at], at))


def _headline_columns(primary: str) -> tuple[str, str]:
    """Name the columns that the primary metric may be the mean of."""
    return primary, primary.removesuffix("_mean")


def short_name(name: str, noun: str) -> str:
    """Leave out what the table says anyway: `f1_per_class` is `f1`, `gene_spearman` is `spearman`."""
    return re.sub(rf"^(per_)?{noun}_|_?(per|by)_{noun}$", "", name) or name


def _of_matrix(counts_KK: np.ndarray) -> dict[str, np.ndarray]:
    """Give precision, recall, F1 and support per class (rows truth); 0 / 0 is undefined."""
    hits, support, predicted = np.diag(counts_KK), counts_KK.sum(1), counts_KK.sum(0)
    parts = {"precision": (hits, predicted), "recall": (hits, support), "f1": (2 * hits, support + predicted)}
    ratios = {
        name: np.divide(above, below, out=np.full(len(hits), np.nan), where=below > 0)
        for name, (above, below) in parts.items()
    }
    return {**ratios, SUPPORT: support}


def _of_setting(record: RunRecord, data: str) -> dict[str, np.ndarray]:
    """Give the columns of a run on a test set; of several local models the mean of the defined values."""
    models = record.models if data == "held_out" else [record.setting]
    found = [columns for model in models if (columns := axis_columns(record, model, data))]
    names = list(dict.fromkeys(name for columns in found for name in columns))
    return {name: _mean([columns[name] for columns in found if name in columns]) for name in names}


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([Spread(tuple(map(float, values))).mean for values in zip(*arrays, strict=True)])


def _spreads(seeds: Sequence[dict[str, np.ndarray]], column: str, count: int) -> list[Spread]:
    return [Spread(tuple(float(seed[column][at]) for seed in seeds if column in seed)) for at in range(count)]


def _shown(scores: AxisScores, primary: str, higher_is_better: bool) -> tuple[list[int | None], str]:
    """Choose the rows, None for those left out, and say so."""
    everyone: list[int | None] = list(range(len(scores.names)))
    if len(everyone) <= SHOWN:
        return everyone, ""
    column, order = ranking(scores, primary, higher_is_better)
    defined = [at for at in order if not all(math.isnan(scores.means(one, column)[at]) for one in scores.settings)]
    half = SHOWN // 2
    rows = [*defined[:half], None, *defined[max(half, len(defined) - half) :]]
    undefined = len(everyone) - len(defined)
    note = f" The {half} best and the {half} worst of {len(everyone)} by {metric_name(column)}, mean over settings"
    return rows, f"{note}{f'; {undefined} undefined' if undefined else ''}. All are in per_{scores.noun}.csv."


def _place(comparison: Comparison) -> str:
    if comparison.main_data == "pooled":
        return DATA_NAMES["pooled"]
    local = "; local: mean over the clients' models" if "local" in comparison.settings else ""
    return f"the {DATA_NAMES['held_out']}{local}"
