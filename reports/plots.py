"""One function per picture; each gives a matplotlib Figure and leaves no global state.

Draw and save inside `literal_text`, so that a `$` in a name stays a `$`.

Colours are from the Okabe-Ito palette, which colour-blind readers can tell apart; line styles say the same.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.comparison import ClientRow, Comparison, CrossSite
from reports.curves import Curve, axis_label, bytes_per_step, curve, scalar_metrics
from reports.numbers import NOT_RUN, Spread, metric_name, number
from reports.run_folder import RunRecord

COLOURS = {"centralized": "#0072B2", "federated": "#D55E00", "local": "#009E73"}
STYLES = {"centralized": "-", "federated": "-", "local": "-."}
LABELS = {"centralized": "centralized (pooled)", "federated": "federated", "local": "local (each alone)"}
DPI = 144
MAX_PANELS = 24
MAX_ANNOTATED = 15
GREY = "#5f6670"


def plots(comparison: Comparison) -> dict[str, Figure]:
    """Draw every picture that the runs have data for: file stem -> figure."""
    groups = groups_of(comparison.records)
    figures = {f"{name}_curve": metric_curve(groups, name) for name in curve_metrics(comparison.records)}
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
    return figures | confusion_matrices(comparison)


@contextlib.contextmanager
def literal_text() -> Iterator[None]:
    """Take names as they are, not as formulas."""
    with rc_context({"text.parse_math": False}):
        yield


def groups_of(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Group runs with a history by setting."""
    present = {setting: [one for one in records if one.setting == setting and one.steps] for setting in COLOURS}
    return {setting: group for setting, group in present.items() if group}


def curve_metrics(records: Sequence[RunRecord]) -> list[str]:
    """Name the metrics that get a curve, the loss first."""
    names = {*scalar_metrics(records, "train"), *scalar_metrics(records, "val")}
    return sorted(names, key=lambda name: (name != "loss", name))


def metric_curve(groups: dict[str, list[RunRecord]], metric: str) -> Figure:
    """Draw a metric over training: validation solid, training (where recorded) dotted, a band over seeds."""
    figure, axes = _figure(5.2, 3.6)
    everyone = [record for group in groups.values() for record in group]
    for setting, group in groups.items():
        val = curve(group, everyone, "val", "pooled", metric)
        train = curve(group, everyone, "train", "pooled", metric)
        _draw(axes, val, COLOURS[setting], STYLES[setting], f"{LABELS[setting]}, val")
        _draw(axes, train, COLOURS[setting], ":", f"{LABELS[setting]}, train")
    _finish_time_axis(axes, everyone, metric)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure


def per_client_curves(groups: dict[str, list[RunRecord]], clients: Sequence[str], metric: str) -> Figure:
    """Draw one panel per client: its validation metric in every setting."""
    shown = list(clients[:MAX_PANELS])
    columns = min(2 if len(shown) <= 4 else 3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(5.2 if columns < 3 else 8.4, 1.75 * rows + 0.8), layout="constrained")
    everyone = [record for group in groups.values() for record in group]
    panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)).ravel()
    for panel, client in zip(panels, shown, strict=False):
        _bare(panel)
        for setting, group in groups.items():
            one = curve(group, everyone, "val", client, metric)
            _draw(panel, one, COLOURS[setting], STYLES[setting], LABELS[setting])
        panel.set_title(client, fontsize=9.5, loc="left")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    more = f" (first {MAX_PANELS} of {len(clients)} clients)" if len(clients) > MAX_PANELS else ""
    figure.supxlabel(axis_label(everyone) + more, fontsize=9.5)
    figure.supylabel(f"{metric_name(metric)}, validation", fontsize=9.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def per_client_bars(comparison: Comparison) -> Figure:
    """Draw each client's own test set under every setting; whiskers are 95 % intervals, else ± sd over seeds."""
    settings, rows = comparison.settings, comparison.per_client
    height = 0.8 / len(settings)
    figure, axes = _figure(5.2, _height(comparison))
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
    figure, axes = _figure(5.2, _height(comparison))
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
    figure, axes = _figure(max(5.2, 1.9 + wide * len(names)), max(2.6, 1.6 + high * len(matrix.models)))
    colour_map = "cividis" if comparison.higher_is_better else "cividis_r"
    image = axes.imshow(values, cmap=colour_map, aspect="auto")
    _matrix_axes(axes, names, matrix.models)
    axes.set(xlabel="test set", ylabel="model")
    if annotated:
        _annotate(axes, values, lambda row, column: _short(matrix.scores[row][column]), comparison.higher_is_better)
    figure.colorbar(image, ax=axes, label=metric_name(comparison.primary), fraction=0.05)
    return figure


def confusion_matrices(comparison: Comparison) -> dict[str, Figure]:
    """Draw a confusion matrix per setting; for a single local run also one per client's model."""
    classes = [str(name) for record in comparison.scored[:1] for name in record.evaluation.get("classes") or []]
    figures = {}
    for setting in comparison.settings:
        group = [record for record in comparison.scored if record.setting == setting]
        stem = "confusion_matrix" if len(comparison.settings) == 1 else f"confusion_matrix_{setting}"
        title = f"{LABELS[setting]}, {_place(comparison)}"
        counts = _sum_matrices([(one, model) for one in group for model in one.models], comparison.main_data)
        if counts is not None:
            figures[stem] = confusion_matrix(counts, classes, title)
        if setting == "local" and len(comparison.records) == 1:
            for client in group[0].models:
                own = _sum_matrices([(group[0], client)], comparison.main_data)
                if own is not None:
                    title = f"model of {client}, {_place(comparison)}"
                    figures[f"confusion_matrix_{client}"] = confusion_matrix(own, classes, title)
    return figures


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw counts (rows truth), coloured by the share of each true class."""
    names = list(classes) if len(classes) == len(counts) else [str(index) for index in range(len(counts))]
    size = min(12.0, max(3.9, 1.9 + 0.36 * len(names)))
    figure, axes = _figure(size * 1.22, size)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    _matrix_axes(axes, names, names)
    axes.set(xlabel="predicted", ylabel="true class")
    axes.set_title(title, fontsize=9.5, loc="left")
    if len(names) <= MAX_ANNOTATED:
        _annotate(axes, 1 - shares, lambda row, column: f"{counts[row, column]:,.0f}", True)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046)
    return figure


def bytes_per_round(records: Sequence[RunRecord]) -> Figure:
    """Draw what all clients together sent and received in each round."""
    figure, axes = _figure(5.2, 3.2)
    steps, up = bytes_per_step(records, "bytes_up")
    down = bytes_per_step(records, "bytes_down")[1]
    unit, divisor = ("kB", 1e3) if max([*up, *down]) < 1e6 else ("MB", 1e6)
    at = np.asarray(steps, dtype=float)
    axes.bar(at - 0.2, np.asarray(up) / divisor, 0.4, color="#56B4E9", label="up, clients to server")
    axes.bar(at[: len(down)] + 0.2, np.asarray(down) / divisor, 0.4, color="#E69F00", label="down, server to clients")
    axes.set(xlabel="round", ylabel=f"{unit} per round, all clients")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.grid(axis="x", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _bare(axes)
    return figure, axes


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa1ab")
    axes.grid(color="#e6e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#9aa1ab")


def _draw(axes: Axes, one: Curve, colour: str, style: str, label: str) -> None:
    if not one.x:
        return
    marker = "o" if len(one.x) <= 20 and style != ":" else None
    axes.plot(one.x, one.mean, style, color=colour, label=label, marker=marker, markersize=2.6, linewidth=1.5)
    if one.low != one.high and style != ":":
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15, linewidth=0)


def _finish_time_axis(axes: Axes, records: Sequence[RunRecord], metric: str) -> None:
    axes.set(xlabel=axis_label(records), ylabel=metric_name(metric))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _height(comparison: Comparison) -> float:
    """Give the height in inches of a picture with a row per client; many clients stand closer."""
    few = len(comparison.per_client) <= MAX_PANELS
    row = 0.12 + 0.2 * len(comparison.settings) if few else 0.06 + 0.06 * len(comparison.settings)
    return max(2.4, 1.1 + row * len(comparison.per_client))


def _finish_clients(figure: Figure, axes: Axes, rows: Sequence[ClientRow]) -> None:
    axes.set_yticks(range(len(rows)), [row.client for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)


def _whisker(spread: Spread, interval: object) -> tuple[float, float]:
    low, high = getattr(interval, "low", None), getattr(interval, "high", None)
    if low is not None and high is not None:
        return max(0.0, spread.mean - low), max(0.0, high - spread.mean)
    return (0.0, 0.0) if math.isnan(spread.sd) else (spread.sd, spread.sd)


def _matrix_axes(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    small = 8.5 if max(len(columns), len(rows)) <= MAX_ANNOTATED else 6
    steep = any(len(name) > 4 for name in columns)
    rotation: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if steep else {}
    axes.set_xticks(range(len(columns)), columns, fontsize=small, **rotation)
    axes.set_yticks(range(len(rows)), rows, fontsize=small)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _annotate(axes: Axes, values: np.ndarray, text: Callable[[int, int], str], bright_is_high: bool) -> None:
    """Write into every cell, dark on bright and bright on dark."""
    defined = values[~np.isnan(values)]
    middle = (defined.min() + defined.max()) / 2 if defined.size else 0.0
    for (row, column), value in np.ndenumerate(values):
        bright = math.isnan(value) or (value > middle) == bright_is_high or defined.min() == defined.max() == 1
        axes.text(
            column, row, text(row, column), ha="center", va="center", fontsize=8, color="#111" if bright else "#fff"
        )


def _short(spread: Spread) -> str:
    if not spread.values:
        return NOT_RUN
    return "undef." if math.isnan(spread.mean) else number(spread.mean)


def _place(comparison: Comparison) -> str:
    return "held-out set" if comparison.main_data == "held_out" else "own test sets together"


def _sum_matrices(models: Sequence[tuple[RunRecord, str]], data: str) -> np.ndarray | None:
    """Add the confusion matrices of models; the pooled test sets of the local setting are scored by their owners."""
    if data == "pooled":
        models = [(record, record.setting) for record in {id(one): one for one, _ in models}.values()]
    rows = [record.row(model, data) for record, model in models]
    known = [np.asarray(row["arrays"]["confusion_matrix"]) for row in rows if row and _has_matrix(row)]
    same = {matrix.shape for matrix in known}
    return np.sum(known, axis=0) if len(same) == 1 and len(known[0].shape) == 2 else None


def _has_matrix(row: object) -> bool:
    arrays = row.get("arrays", {}) if isinstance(row, dict) else {}
    return bool(arrays.get("confusion_matrix"))
