"""Confusion matrices as pictures: raw counts, and shares of each true class; per sample, and per biological unit."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from reports.comparison import Comparison
from reports.drawing import LABELS, MAX_ANNOTATED, annotate, matrix_axes, single
from reports.run_folder import RunRecord
from reports.units import unit_matrix


def confusion_matrices(comparison: Comparison) -> dict[str, Figure]:
    """Draw the matrices of every setting; for a single local run also one per client's model."""
    classes = next((record.classes for record in comparison.scored), [])
    place = "held-out set" if comparison.main_data == "held_out" else "own test sets together"
    figures, of_units = {}, {}
    for setting in comparison.settings:
        group = [record for record in comparison.scored if record.setting == setting]
        end = "" if len(comparison.settings) == 1 else f"_{setting}"
        title = f"{LABELS[setting]}, {place}"
        counts = _sum_matrices([(one, model) for one in group for model in one.models], comparison.main_data)
        if counts is not None:
            figures[f"confusion_matrix{end}"] = raw(counts, classes, title)
            figures[f"confusion_matrix_normalized{end}"] = normalised(counts, classes, title)
        units = unit_matrix(comparison, setting)
        if units is not None:
            of_units[f"confusion_matrix_units{end}"] = raw(units, classes, f"{title}, per unit")
        if setting == "local" and len(comparison.records) == 1:
            for client in group[0].models:
                own = _sum_matrices([(group[0], client)], comparison.main_data)
                if own is not None and comparison.main_data == "held_out":
                    figures[f"confusion_matrix_of_{client}"] = raw(own, classes, f"model of {client}, {place}")
    return figures | of_units


def raw(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw counts (rows truth), coloured by the share of each true class."""
    return _matrix(counts, classes, title, lambda row, column: f"{counts[row, column]:,.0f}")


def normalised(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw the share of each true class (row) that is predicted as each class; a class without samples stays empty."""
    shares, support = _shares(counts), counts.sum(1)
    title = f"{title}, shares"
    return _matrix(counts, classes, title, lambda row, column: f"{shares[row, column]:.2f}" if support[row] else "")


def _matrix(counts: np.ndarray, classes: Sequence[str], title: str, text: Callable[[int, int], str]) -> Figure:
    names = list(classes) if len(classes) == len(counts) else [str(index) for index in range(len(counts))]
    size = min(12.0, max(3.9, 1.9 + 0.36 * len(names)))
    figure, axes = single(size * 1.22, size)
    shares = _shares(counts)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    matrix_axes(axes, names, names)
    axes.set(xlabel="predicted", ylabel="true class")
    axes.set_title(title, fontsize=9.5, loc="left")
    if len(names) <= MAX_ANNOTATED:
        annotate(axes, 1 - shares, text, bright_is_high=True, middle=0.5)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    return figure


def _shares(counts: np.ndarray) -> np.ndarray:
    totals = counts.sum(1, keepdims=True)
    return np.asarray(np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0))


def _sum_matrices(models: Sequence[tuple[RunRecord, str]], data: str) -> np.ndarray | None:
    """Add the confusion matrices of models; the pooled test sets of the local setting are scored by their owners."""
    if data == "pooled":
        models = [(record, record.setting) for record in {id(one): one for one, _ in models}.values()]
    found = [record.arrays(model, data).get("confusion_matrix") for record, model in models]
    known = [matrix for matrix in found if matrix is not None and matrix.ndim == 2]
    return np.sum(known, axis=0) if len({matrix.shape for matrix in known}) == 1 else None
