"""metrics.csv: every number of a run in the long form, a row each."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

HEAD = ["setting", "model", "client", "split", "step", "metric", "value", "support"]


def long_form(setting: str, history: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> str:
    """Give the text of metrics.csv.

    Args:
        setting: Centralized, local or federated.
        history: Epochs or rounds, with `train` and `val` by client.
        rows: Scores of the final models.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HEAD)
    for step in history:
        for split in ("train", "val"):
            for client, entry in step.get(split, {}).items():
                model = client if setting == "local" else setting
                writer.writerows(_values([setting, model, client, split, step["step"]], entry))
    for row in rows:
        writer.writerows(_values([setting, row["model"], row["data"], row["split"], ""], row))
    return table.getvalue()


def _values(where: list[Any], entry: Mapping[str, Any]) -> Iterable[list[Any]]:
    """Give a row of the long form per metric; what is undefined stays empty."""
    supports = entry.get("supports", {})
    for metric, value in entry["metrics"].items():
        undefined = value is None or math.isnan(value)
        yield [*where, metric, "" if undefined else value, supports.get(metric, entry["support"])]
