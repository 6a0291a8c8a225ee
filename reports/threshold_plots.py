"""Pictures of a segmentation's threshold: precision against recall, and F1 at every threshold."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.comparison import Comparison
from reports.drawing import COLOURS, GREY, LABELS, MARKERS, STYLES, legend_above, single
from reports.thresholds import Sweep, setting_sweep, used

LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Of F1, whose lines are drawn behind precision and recall."""
NOTHING = 1e-6
"""Recall below which nothing is predicted, and precision is only defined for being smoothed."""


def threshold_plots(comparison: Comparison) -> dict[str, Figure]:
    """Draw both pictures where the runs have scores at every threshold: file stem -> figure."""
    found = {setting: setting_sweep(comparison, setting) for setting in comparison.settings}
    sweeps = {setting: one for setting, one in found.items() if one}
    if not sweeps:
        return {}
    return {"precision_recall": precision_recall(comparison, sweeps), "f1_by_threshold": f1(comparison, sweeps)}


def precision_recall(comparison: Comparison, sweeps: dict[str, Sweep]) -> Figure:
    """Draw precision against recall; the marker is the threshold used."""
    figure, axes = single(5.2, 4.4)
    _levels(axes)
    for setting, one in sweeps.items():
        some = one.recall > NOTHING
        axes.plot(one.recall[some], one.precision[some], STYLES[setting], color=COLOURS[setting], linewidth=1.6)
        axes.plot(*_point(comparison, setting, "recall", "precision"), MARKERS[setting], color=COLOURS[setting],
                  label=LABELS[setting], markersize=8, markeredgecolor="white")  # fmt: skip
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    legend_above(figure, axes, columns=3)
    return figure


def f1(comparison: Comparison, sweeps: dict[str, Sweep]) -> Figure:
    """Draw F1 at every threshold; the marker is the threshold used."""
    figure, axes = single(5.2, 4.4)
    for setting, one in sweeps.items():
        thresholds = used(comparison, setting)
        axes.plot(one.threshold, one.f1, STYLES[setting], color=COLOURS[setting], linewidth=1.6)
        at = [thresholds[0]] if len(thresholds) == 1 else []
        for threshold in at:
            axes.axvline(threshold, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        reached = _point(comparison, setting, "f1")[0]
        axes.plot(at, reached[: len(at)], MARKERS[setting], color=COLOURS[setting], label=LABELS[setting],
                  markersize=8, markeredgecolor="white")  # fmt: skip
    axes.set(xlabel="threshold", ylabel="F1", xlim=(-0.02, 1.02))
    axes.set_ylim(bottom=0)
    legend_above(figure, axes, columns=3)
    return figure


def _point(comparison: Comparison, setting: str, *metrics: str) -> list[list[float]]:
    """Give the scores that a setting reaches at the threshold used."""
    line = comparison.line(setting, comparison.main_data)
    return [[line.scores[name].mean] if line and name in line.scores else [np.nan] for name in metrics]


def _levels(axes: Axes) -> None:
    """Draw where F1 is the same."""
    for level in LEVELS:
        recall = np.linspace(level / (2 - level), 1, 100)
        axes.plot(recall, level * recall / (2 * recall - level), color="#c9cdd3", linewidth=0.8, zorder=0)
        axes.text(recall[0], 1.03, f"F1 {level}", fontsize=7.5, color=GREY, ha="center")
