"""Pictures per class and per gene: bars of a classifier; correlations and true against predicted of a regression."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.axis import AxisScores, axis_scores, ranking
from reports.comparison import Comparison
from reports.drawing import COLOURS, GREY, LABELS, MARKERS, grid, legend_above, single
from reports.numbers import metric_name, number
from reports.predicted import Predicted
from reports.stored import predicted_on

BARS = ("precision", "recall", "f1")
NAMED = 30
"""More genes than these are not named on the axis."""
BEST, WORST = 2, 2
POINTS = 1500
"""Samples per panel; of more, every so many are drawn."""


def axis_plots(comparison: Comparison) -> dict[str, Figure]:
    """Draw what the runs have: file stem -> figure."""
    scores = axis_scores(comparison)
    if scores is None:
        return {}
    if set(BARS) <= set(scores.columns):
        return {f"per_{scores.noun}_bars": bars(scores)}
    column, order = ranking(scores, comparison.primary, comparison.higher_is_better)
    figures = {f"per_{scores.noun}_{column}": sorted_scores(scores, column, order)}
    scatter = true_against_predicted(comparison, scores, column, order)
    return figures | ({"true_against_predicted": scatter} if scatter else {})


def bars(scores: AxisScores) -> Figure:
    """Draw precision, recall and F1 of every class, the settings side by side; undefined ones are marked."""
    count, settings = len(scores.names), scores.settings
    height = 0.8 / len(settings)
    size = max(2.4, 1.1 + min(count * (0.12 + 0.16 * len(settings)), 14.0))
    figure, panels = grid(1, len(BARS), 8.4, size, sharey=True, sharex=True)
    for axes, column in zip(panels[0], BARS, strict=True):
        for index, setting in enumerate(settings):
            at = np.arange(count) + (index - (len(settings) - 1) / 2) * height
            means = scores.means(setting, column)
            axes.barh(at, means, height * 0.9, color=COLOURS[setting], label=LABELS[setting])
            axes.plot(np.zeros(count)[np.isnan(means)], at[np.isnan(means)], "x", color=GREY, markersize=4)
        axes.set_xlim(-0.02, 1.02)
        axes.set_title(metric_name(column), fontsize=9.5, loc="left")
        axes.grid(axis="y", visible=False)
    panels[0, 0].set_yticks(range(count), scores.names, fontsize=9 if count <= NAMED else 6)
    panels[0, 0].set_ylim(count - 0.5, -0.5)
    legend_above(figure, panels[0, 0])
    return figure


def sorted_scores(scores: AxisScores, column: str, order: list[int]) -> Figure:
    """Draw a score of every gene in every setting, from the best gene to the worst; undefined ones at the foot."""
    figure, axes = single(8.4, 3.4)
    at = np.arange(len(order))
    for index, setting in enumerate(scores.settings):
        values = scores.means(setting, column)[order]
        undefined = np.isnan(values)
        label = LABELS[setting] + (f" ({undefined.sum()} undefined)" if undefined.any() else "")
        size = 4.5 if len(order) <= 100 else 2.5
        axes.plot(at, values, MARKERS[setting], color=COLOURS[setting], label=label, markersize=size, alpha=0.85)
        foot = np.full(undefined.sum(), 0.02 + 0.035 * index)
        axes.plot(at[undefined], foot, "x", color=COLOURS[setting], markersize=4, transform=axes.get_xaxis_transform())
    axes.axhline(0, color="#222", linewidth=1)
    named = len(order) <= NAMED
    label = f"{scores.noun}s, from best to worst" + ("" if named else f" ({len(order)})")
    axes.set(xlabel=label, ylabel=metric_name(column))
    axes.set_xlim(-0.7, len(order) - 0.3)
    if named:
        axes.set_xticks(at, [scores.names[index] for index in order], rotation=45, ha="right", rotation_mode="anchor")
    legend_above(figure, axes)
    return figure


def true_against_predicted(comparison: Comparison, scores: AxisScores, column: str, order: list[int]) -> Figure | None:
    """Draw the best and the worst genes of every setting, one point per test sample of the first seed.

    Gives None without stored values per gene.
    """
    defined = [at for at in order if any(not math.isnan(scores.means(one, column)[at]) for one in scores.settings)]
    genes = [*defined[:BEST], *defined[max(BEST, len(defined) - WORST) :]]
    stored = {setting: _values(comparison, setting) for setting in scores.settings}
    known = {setting: one for setting, one in stored.items() if one and one.width == len(scores.names)}
    if not known or not genes:
        return None
    figure, panels = grid(len(known), len(genes), 2.1 * len(genes), 2.2 * len(known) + 0.3, sharex="col", sharey="col")
    for row, (setting, predicted) in zip(panels, known.items(), strict=True):
        for axes, gene in zip(row, genes, strict=True):
            _scatter(axes, predicted, gene, COLOURS[setting])
            value = scores.means(setting, column)[gene]
            axes.set_title(f"{scores.names[gene]}: {number(value)}", fontsize=8.5, loc="left")
        row[0].set_ylabel(f"{setting}\npredicted", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("true", fontsize=9)
    return figure


def _values(comparison: Comparison, setting: str) -> Predicted | None:
    record = next(one for one in comparison.scored if one.setting == setting)
    models = record.models if comparison.main_data == "held_out" else [record.setting]
    parts = [part for model in models if (part := predicted_on(record, model, comparison.main_data))]
    same = parts and len({type(part) for part in parts}) == 1
    return type(parts[0]).joined(parts) if same else None


def _scatter(axes: Axes, predicted: Predicted, gene: int, colour: str) -> None:
    every = slice(None, None, math.ceil(len(predicted) / POINTS))
    true, guess = (values_N[every] for values_N in predicted.feature(gene))
    axes.plot(
        true, guess, "o", color=colour, markersize=2.5, alpha=max(0.15, min(0.7, 100 / len(true))), markeredgewidth=0
    )
    both = np.concatenate([true, guess])
    if np.isfinite(both).all():
        axes.plot([both.min(), both.max()], [both.min(), both.max()], color="#222", linewidth=0.8)
