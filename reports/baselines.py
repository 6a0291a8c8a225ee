"""Scores of methods without a network, fitted on all clients' training data, from the `baselines.json` of a run folder.

The file holds `{"split": "test", "rows": [{"model": "ridge", "data": ..., "metrics": {...}, "support": ...}]}`, where
`data` is a client, `pooled` (all clients' test sets) or `held_out`, and `support` may be missing.
"""

import math
from typing import Any

from reports.comparison import Comparison
from reports.numbers import Spread, counted, metric_name
from reports.tables import DATA_NAMES, Cell, Table, long_row

NOTE = "Fitted on the training data of all clients together, and scored on the same test sets as the networks."


def baseline_spread(comparison: Comparison, model: str, data: str, metric: str) -> Spread:
    """Give a metric of a method on a test set, one value per run that has scored it; NaN where it is undefined."""
    rows = [row for row in _rows(comparison) if (row["model"], row["data"]) == (model, data)]
    values = [row["metrics"][metric] for row in rows if metric in row["metrics"]]
    return Spread(tuple(math.nan if value is None else float(value) for value in values))


def best_baseline(comparison: Comparison) -> tuple[str, float] | None:
    """Give the method that is best on the main test set by the primary metric, and its score."""
    names = dict.fromkeys(row["model"] for row in _rows(comparison))
    scores = {name: baseline_spread(comparison, name, comparison.main_data, comparison.primary).mean for name in names}
    defined = {name: score for name, score in scores.items() if not math.isnan(score)}
    if not defined:
        return None
    best = (max if comparison.higher_is_better else min)(defined, key=lambda name: defined[name])
    return best, defined[best]


def baseline_table(comparison: Comparison) -> Table:
    """Method x metric on the test sets and in the columns of the headline table."""
    metrics = [name for name in comparison.main_metrics if any(name in row["metrics"] for row in _rows(comparison))]
    table = Table(["baseline", "test set", *map(metric_name, metrics), "samples"], note=NOTE)
    for data in ("held_out", "pooled"):
        for model in dict.fromkeys(row["model"] for row in _rows(comparison) if row["data"] == data):
            spreads = [baseline_spread(comparison, model, data, metric) for metric in metrics]
            support = [row.get("support") for row in _rows(comparison) if (row["model"], row["data"]) == (model, data)]
            scores = [Cell(one.text(), "muted" if math.isnan(one.mean) else "number") for one in spreads]
            table.rows.append([Cell(model, "text"), Cell(DATA_NAMES[data], "text"), *scores, Cell(counted(support))])
    return table


def baseline_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give every number as a row of the long table, the clients' test sets included."""
    rows = _rows(comparison)
    found = dict.fromkeys((row["model"], row["data"], metric) for row in rows for metric in row["metrics"])
    return [
        long_row(
            "baselines",
            {"setting": "baseline", "model": model, "data": data, "metric": metric},
            baseline_spread(comparison, model, data, metric),
        )
        for model, data, metric in found
    ]


def _rows(comparison: Comparison) -> list[Any]:
    return [row for record in comparison.scored for row in record.baselines]
