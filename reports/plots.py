"""One function per picture; each gives a matplotlib Figure and leaves no global state."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from reports.axis_plots import axis_plots
from reports.comparison import ClientRow, Comparison, CrossSite
from reports.confusion_plots import confusion_matrices
from reports.curves import LEARNING_RATE, Curve, axis_label, bytes_per_step, curve, scalar_metrics
from reports.drawing import (
    COLOURS,
    GREY,
    LABELS,
    MAX_ANNOTATED,
    STYLES,
    annotate,
    grid,
    legend_above,
    matrix_axes,
    single,
)
from reports.fault_study import fault_plots
from reports.numbers import NOT_RUN, Spread, metric_name, number
from reports.outcome_plots import outcome_plots
from reports.run_folder import RunRecord
from reports.threshold_plots import threshold_plots

MAX_PANELS = 24


def plots(comparison: Comparison) -> dict[str, Figure]:
    """Draw every picture that the runs have data for: file stem -> figure."""
    groups = groups_of(comparison.records)
    figures = {f"{name}_curve": metric_curve(groups, name) for name in curve_metrics(comparison)}
    if any(
        "lr" in entry for one in comparison.records for step in one.steps for entry in step.get("train", {}).values()
    ):
        figures["learning_rate_curve"] = learning_rate_curve(groups)
    if comparison.per_client:
        figures["per_client_bars"] = per_client_bars(comparison)
    if any(row.gain.defined or row.price.defined for row in comparison.per_client):
        figures["per_client_gain"] = per_client_gain(comparison)
    if comparison.clients and comparison.primary in scalar_metrics(comparison.records, "val"):
        figures["per_client_curves"] = per_client_curves(groups, comparison.clients, comparison.primary)
    if comparison.cross_site.models:
        figures["cross_site"] = cross_site(comparison.cross_site, comparison)
    federated = groups.get("federated", [])
    if bytes_per_step(federated, "bytes_up")[0]:
        figures["bytes_per_round"] = bytes_per_round(federated)
    figures |= axis_plots(comparison) | confusion_matrices(comparison)
    return figures | threshold_plots(comparison) | outcome_plots(comparison) | fault_plots(comparison)


def groups_of(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Group runs with a history by setting."""
    present = {setting: [one for one in records if one.setting == setting and one.steps] for setting in COLOURS}
    return {setting: group for setting, group in present.items() if group}


def curve_metrics(comparison: Comparison) -> list[str]:
    """Name the metrics that get a curve, the loss first, then the primary metric; of a scored run the main ones."""
    names = {*scalar_metrics(comparison.records, "train"), *scalar_metrics(comparison.records, "val")}
    if comparison.scored:
        names &= {*comparison.main_metrics}
    return sorted(names, key=lambda name: (name != "loss", name != comparison.primary, name))


def metric_curve(groups: dict[str, list[RunRecord]], metric: str) -> Figure:
    """Draw a metric over training: validation solid, training (where recorded) dotted, a band over seeds."""
    figure, axes = single(5.2, 3.6)
    everyone = [record for group in groups.values() for record in group]
    for setting, group in groups.items():
        val = curve(group, everyone, "val", "pooled", metric)
        train = curve(group, everyone, "train", "pooled", metric)
        _draw(axes, val, COLOURS[setting], STYLES[setting], f"{LABELS[setting]}, val")
        _draw(axes, train, COLOURS[setting], ":", f"{LABELS[setting]}, train")
    _finish_time_axis(axes, everyone, metric)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure


def learning_rate_curve(groups: dict[str, list[RunRecord]]) -> Figure:
    """Draw the learning rate that each epoch or round ended with, on a log scale where it spans a decade."""
    figure, axes = single(5.2, 3.6)
    everyone = [record for group in groups.values() for record in group]
    for setting, group in groups.items():
        rate = curve(group, everyone, "train", "pooled", LEARNING_RATE)
        _draw(axes, rate, COLOURS[setting], STYLES[setting], LABELS[setting])
    drawn = [value for line in axes.get_lines() for value in np.asarray(line.get_ydata()) if value > 0]
    if drawn and max(drawn) >= 10 * min(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif drawn:
        axes.set_ylim(0, max(drawn) * 1.08)
    axes.set(xlabel=axis_label(everyone), ylabel="learning rate")
    _whole_steps(axes, 8)
    legend_above(figure, axes, columns=2)
    return figure


def per_client_curves(groups: dict[str, list[RunRecord]], clients: Sequence[str], metric: str) -> Figure:
    """Draw one panel per client: its validation metric in every setting."""
    shown = list(clients[:MAX_PANELS])
    columns = min(2 if len(shown) <= 4 else 3, len(shown))
    rows = math.ceil(len(shown) / columns)
    width = 5.2 if columns < 3 else 8.4
    figure, cells = grid(rows, columns, width, 1.75 * rows + 0.8, sharex=True, sharey=True)
    everyone = [record for group in groups.values() for record in group]
    panels = cells.ravel()
    for panel, client in zip(panels, shown, strict=False):
        for setting, group in groups.items():
            one = curve(group, everyone, "val", client, metric)
            _draw(panel, one, COLOURS[setting], STYLES[setting], LABELS[setting])
        panel.set_title(client, fontsize=9.5, loc="left")
        _whole_steps(panel, 5)
    for empty in range(len(shown), len(panels)):
        panels[empty].set_visible(False)
        panels[empty - columns].tick_params(labelbottom=True)
    more = f" (first {MAX_PANELS} of {len(clients)} clients)" if len(clients) > MAX_PANELS else ""
    figure.supxlabel(axis_label(everyone) + more, fontsize=9.5)
    figure.supylabel(f"{metric_name(metric)}, validation", fontsize=9.5)
    legend_above(figure, panels[0])
    return figure


def per_client_bars(comparison: Comparison) -> Figure:
    """Draw each client's own test set under every setting; whiskers are 95 % intervals, else ± sd over seeds."""
    settings, rows = comparison.settings, comparison.per_client
    height = 0.8 / len(settings)
    figure, axes = single(5.2, _height(comparison))
    for index, setting in enumerate(settings):
        at = np.arange(len(rows)) + (index - (len(settings) - 1) / 2) * height
        means = np.array([row.scores[setting].mean for row in rows])
        low, high = np.array([_whisker(row.scores[setting], row.intervals.get(setting)) for row in rows]).T
        axes.barh(at, means, height * 0.9, color=COLOURS[setting], label=LABELS[setting])
        axes.errorbar(means, at, xerr=(low, high), fmt="none", ecolor="#222", elinewidth=1, capsize=2)
        for y in at[np.isnan(means)]:
            axes.text(0.01, y, "undefined", va="center", fontsize=8, color=GREY, transform=axes.get_yaxis_transform())
    axes.set_xlabel(f"{metric_name(comparison.primary)}, own test set")
    _finish_clients(figure, axes, rows)
    return figure


def per_client_gain(comparison: Comparison) -> Figure:
    """Draw each client's gain from joining, with its 95 % interval, and its price of not pooling."""
    rows = comparison.per_client
    figure, axes = single(5.2, _height(comparison))
    for name, colour, marker, offset in (("gain", "#009E73", "o", -0.12), ("price", "#CC79A7", "D", 0.12)):
        means = [getattr(row, name).mean for row in rows]
        label = {"gain": "gain from joining", "price": "price of not pooling"}[name]
        if not all(math.isnan(mean) for mean in means):
            axes.plot(means, np.arange(len(rows)) + offset, marker, color=colour, label=label, markersize=6)
    for at, row in enumerate(rows):
        if row.gain_interval:
            axes.plot([row.gain_interval.low, row.gain_interval.high], [at - 0.12] * 2, color="#009E73", linewidth=1.5)
    axes.axvline(0, color="#222", linewidth=1)
    turned = "" if comparison.higher_is_better else ", sign turned"
    axes.set_xlabel(f"advantage in {metric_name(comparison.primary)}{turned}")
    _finish_clients(figure, axes, rows)
    return figure


def cross_site(matrix: CrossSite, comparison: Comparison) -> Figure:
    """Draw the primary metric of every model (rows) on every test set (columns)."""
    values = np.array([[spread.mean for spread in row] for row in matrix.scores])
    names = [name.replace("held_out", "held-out") for name in matrix.data]
    annotated = max(values.shape) <= MAX_ANNOTATED
    wide, high = (0.72, 0.42) if annotated else (0.16, 0.16)
    figure, axes = single(max(5.2, 1.9 + wide * len(names)), max(2.6, 1.6 + high * len(matrix.models)))
    colour_map = "cividis" if comparison.higher_is_better else "cividis_r"
    image = axes.imshow(values, cmap=colour_map, aspect="auto")
    matrix_axes(axes, names, matrix.models)
    axes.set(xlabel="test set", ylabel="model")
    if annotated:
        annotate(
            axes,
            values,
            lambda row, column: _short(matrix.scores[row][column]),
            bright_is_high=comparison.higher_is_better,
        )
    figure.colorbar(image, ax=axes, label=metric_name(comparison.primary), fraction=0.05)
    return figure


def bytes_per_round(records: Sequence[RunRecord]) -> Figure:
    """Draw what all clients together sent and received in each round."""
    figure, axes = single(5.2, 3.2)
    steps, up = bytes_per_step(records, "bytes_up")
    down = bytes_per_step(records, "bytes_down")[1]
    unit, divisor = ("kB", 1e3) if max([*up, *down]) < 1e6 else ("MB", 1e6)
    at = np.asarray(steps, dtype=float)
    axes.bar(at - 0.2, np.asarray(up) / divisor, 0.4, color="#56B4E9", label="up, clients to server")
    axes.bar(at[: len(down)] + 0.2, np.asarray(down) / divisor, 0.4, color="#E69F00", label="down, server to clients")
    axes.set(xlabel="round", ylabel=f"{unit} per round, all clients")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.grid(axis="x", visible=False)
    legend_above(figure, axes, columns=2)
    return figure


def _draw(axes: Axes, one: Curve, colour: str, style: str, label: str) -> None:
    if not one.x:
        return
    marker = "o" if len(one.x) <= 20 and style != ":" else None
    axes.plot(one.x, one.mean, style, color=colour, label=label, marker=marker, markersize=2.6, linewidth=1.5)
    if one.low != one.high and style != ":":
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15, linewidth=0)


def _finish_time_axis(axes: Axes, records: Sequence[RunRecord], metric: str) -> None:
    axes.set(xlabel=axis_label(records), ylabel=metric_name(metric))
    _whole_steps(axes, 8)


def _whole_steps(axes: Axes, most: int) -> None:
    """Mark whole epochs or rounds only, a single one in the middle."""
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim(low - 0.5, high + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))


def _height(comparison: Comparison) -> float:
    """Give the height in inches of a picture with a row per client; many clients stand closer."""
    few = len(comparison.per_client) <= MAX_PANELS
    row = 0.12 + 0.2 * len(comparison.settings) if few else 0.06 + 0.06 * len(comparison.settings)
    return max(2.4, 1.1 + row * len(comparison.per_client))


def _finish_clients(figure: Figure, axes: Axes, rows: Sequence[ClientRow]) -> None:
    axes.set_yticks(range(len(rows)), [row.client for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    legend_above(figure, axes)


def _whisker(spread: Spread, interval: object) -> tuple[float, float]:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    if low is not None and high is not None:
        return max(0.0, spread.mean - low), max(0.0, high - spread.mean)
    return spread.sd, spread.sd


def _short(spread: Spread) -> str:
    if not spread.values:
        return NOT_RUN
    return "undef." if math.isnan(spread.mean) else number(spread.mean)
