"""CSV files beside the page: scores per class or gene, predictions per sample, predictions per unit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.files import write_text
from reports.axis import axis_rows
from reports.comparison import Comparison
from reports.fault_study import fault_rows
from reports.feature_report import feature_tables
from reports.predicted import Predicted
from reports.stored import read_predicted
from reports.thresholds import threshold_rows
from reports.units import unit_rows


def write_exports(comparison: Comparison, out: Path) -> None:
    """Write what is not empty: per_class.csv (or per_gene.csv), and what the names below say."""
    noun = next((record.axis for record in comparison.scored), "class")
    write_csv(out / f"per_{noun}.csv", pd.DataFrame(axis_rows(comparison)))
    write_csv(out / "predictions.csv", prediction_table(comparison))
    features, together = feature_tables(_places(comparison))
    write_csv(out / "feature_report.csv", features)
    write_csv(out / "feature_summary.csv", together)
    write_csv(out / "units.csv", pd.DataFrame(unit_rows(comparison)))
    write_csv(out / "fault_study.csv", pd.DataFrame(fault_rows(comparison)))
    write_csv(out / "threshold_metrics.csv", pd.DataFrame(threshold_rows(comparison)))


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table, floats to eight significant digits; an empty one leaves no file."""
    if len(table):
        write_text(path, table.to_csv(index=False, lineterminator="\n", float_format="%.8g"))


def prediction_table(comparison: Comparison) -> pd.DataFrame:
    """Give one row per test sample and model: on a client's set the model that it would use, on the held-out set all.

    Classifiers have columns `true`, `predicted` and a score per class; regressions `true <gene>`, `predicted <gene>`;
    segmentations the pixels `tp`, `fp` and `fn` of an image, and its `f1` and `iou`.
    """
    parts = [pd.DataFrame({**who, **_columns(predicted, names)}) for who, predicted, names in _places(comparison)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _places(comparison: Comparison) -> Iterator[tuple[dict[str, Any], Predicted, list[str]]]:
    """Give who predicts where, what, and the names of its classes or features."""
    for record in comparison.scored:
        places = [(record.model_of(client), client) for client in record.clients]
        for model, data in [*places, *((model, "held_out") for model in record.models)]:
            predicted = read_predicted(record, model, data, scores=True)
            if predicted is not None:
                who = {"setting": record.setting, "seed": record.seed, "model": model, "data": data}
                yield who, predicted, record.classes


def _columns(predicted: Predicted, names: list[str]) -> dict[str, Any]:
    ids = predicted.samples_N if predicted.samples_N is not None else np.arange(len(predicted))
    units = {} if predicted.units_N is None else {"unit": predicted.units_N}
    return {"sample": ids, **units, **predicted.columns(names)}
