"""Scores per biological unit: the crops of a nucleus vote by the mean of their class probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.bootstrap import MIN_UNITS, mean_interval, recomputed
from reports.comparison import Comparison
from reports.kinds import Classes
from reports.measures import confusion
from reports.numbers import Interval, Spread, counted, metric_name
from reports.predicted import Predicted
from reports.run_folder import RunRecord
from reports.stored import predicted_on
from reports.tables import DATA_NAMES, Cell, Table

METRICS = ("accuracy", "balanced_accuracy", "f1_macro")


@dataclass(frozen=True)
class Units:
    """Predictions of a model on U units of a test set."""

    classes: Classes
    """With the unit as sample, and the mean probabilities as scores."""
    samples_U: np.ndarray
    """Samples of each unit."""


def by_unit(predicted: Predicted | None) -> Units | None:
    """Average the scores of each unit's samples and take the likeliest class.

    Gives None where there are no units or scores, where a unit has samples of several classes, and where every unit is
    one sample, so that nothing is gained.
    """
    if not isinstance(predicted, Classes) or predicted.units_N is None:
        return None
    if predicted.scores_NK is None or predicted.scores_NK.ndim != 2:
        return None
    names_U, first_U, codes_N, samples_U = np.unique(
        predicted.units_N, return_index=True, return_inverse=True, return_counts=True
    )
    target_U = predicted.target_N[first_U]
    if len(names_U) == len(predicted) or not np.array_equal(target_U[codes_N], predicted.target_N):
        return None
    sums_UK = np.zeros((len(names_U), predicted.scores_NK.shape[1]))
    np.add.at(sums_UK, codes_N, predicted.scores_NK)
    scores_UK = sums_UK / samples_U[:, None]
    return Units(Classes(names_U, target_U, scores_UK.argmax(1), scores_NK=scores_UK), samples_U)


def unit_sets(record: RunRecord) -> Iterator[tuple[str, str, Units]]:
    """Give model, test set and units, on each test set as the model of its client sees it, and on the held-out set."""
    places = [(record.model_of(client), client) for client in record.clients]
    for model, data in [*places, *((model, "held_out") for model in record.models)]:
        for units in _units_of(record, model, data):
            yield model, data, units


def unit_table(comparison: Comparison) -> Table:
    """Setting x metric per unit, on the held-out set and on the clients' test sets together."""
    table = Table(["setting", "test set", "units", *map(metric_name, METRICS)])
    for data in ("held_out", "pooled"):
        for setting in comparison.settings:
            runs = [one for one in comparison.scored if one.setting == setting]
            seeds = [found for record in runs if (found := _units(record, data))]
            if seeds:
                table.rows.append(_row(setting, data, seeds))
    note = "Each unit counts once: mean of the class probabilities of its samples, then the likeliest class."
    interval = f" In brackets the bootstrap 95 % interval over units, of accuracy, with {MIN_UNITS} units or more."
    return Table(table.columns, table.rows, note + interval)


def unit_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give every unit as one row, with its true and predicted class and mean probabilities."""
    rows = []
    for record in comparison.scored:
        for model, data, units in unit_sets(record):
            names = record.classes or [str(at) for at in range(units.classes.scores_NK.shape[1])]  # type: ignore[union-attr]
            who = {"setting": record.setting, "seed": record.seed, "model": model, "data": data}
            for unit, count, true, guess, scores in _each(units):
                shares = {f"score {name}": float(score) for name, score in zip(names, scores, strict=True)}
                rows.append(
                    {**who, "unit": unit, "samples": count, "true": names[true], "predicted": names[guess], **shares}
                )
    return rows


def unit_matrix(comparison: Comparison, setting: str) -> np.ndarray | None:
    """Count units by true (rows) and predicted class, over seeds and local models; None without units."""
    runs = [record for record in comparison.scored if record.setting == setting and record.classes]
    found = [
        confusion(one.classes.target_N, one.classes.predicted_N, len(record.classes))
        for record in runs
        for one in _units(record, comparison.main_data)
    ]
    return np.sum(found, axis=0) if found and len({one.shape for one in found}) == 1 else None


def _units(record: RunRecord, data: str) -> list[Units]:
    models = record.models if data == "held_out" else [record.setting]
    return [units for model in models for units in _units_of(record, model, data)]


def _units_of(record: RunRecord, model: str, data: str) -> list[Units]:
    """Give the units as a list of one or none; probabilities are only read where there are units."""
    predicted = predicted_on(record, model, data)
    if predicted is None or predicted.units_N is None:
        return []
    units = by_unit(predicted_on(record, model, data, scores=True))
    return [] if units is None else [units]


def _row(setting: str, data: str, seeds: list[list[Units]]) -> list[Cell]:
    def spread(metric: str) -> Spread:
        return Spread(tuple(Spread(tuple(recomputed(one.classes, metric) for one in seed)).mean for seed in seeds))

    everyone = [one.classes for seed in seeds for one in seed]
    enough = min(map(len, everyone)) >= MIN_UNITS
    interval: Interval | None = mean_interval(everyone, METRICS[0]) if enough else None
    small = [interval.text() if interval and metric == METRICS[0] else "" for metric in METRICS]
    scores = [Cell(spread(metric).text(), small=text) for metric, text in zip(METRICS, small, strict=True)]
    return [
        Cell(setting, "text"),
        Cell(DATA_NAMES[data], "text"),
        Cell(counted([len(one) for one in everyone])),
        *scores,
    ]


def _each(units: Units) -> Iterator[tuple[str, int, int, int, np.ndarray]]:
    one = units.classes
    assert one.samples_N is not None and one.scores_NK is not None
    for unit, count, true, guess, scores in zip(
        one.samples_N, units.samples_U, one.target_N, one.predicted_N, one.scores_NK, strict=True
    ):
        yield str(unit), int(count), int(true), int(guess), scores
