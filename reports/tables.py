"""A comparison as tables: cells for the page, plain values for csv and json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.bootstrap import MIN_UNITS
from reports.comparison import ClientRow, Comparison, Headline
from reports.costs import Cost, size_range
from reports.numbers import NOT_RUN, UNDEFINED, Interval, Spread, amount, counted, metric_name, number
from reports.run_folder import RunRecord

DATA_NAMES = {
    "held_out": "held-out set",
    "pooled": "all clients' test sets",
    "mean": "weighted mean of the clients",
}


@dataclass(frozen=True)
class Cell:
    """Text, a second line in small print, and a kind: text, number, good, bad or muted."""

    text: str
    kind: str = "number"
    small: str = ""
    shade: float = 0.0
    """Strength of the background, 0 to 1."""
    href: str = ""
    """File that the text links to, relative to the page."""


@dataclass(frozen=True)
class Table:
    """Column heads and rows of cells."""

    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""


def headline_table(comparison: Comparison) -> Table:
    """Setting x metric on the held-out set, on the clients' test sets together, and as mean of the clients' scores."""
    metrics = comparison.main_metrics
    names = [metric_name(name) for name in (*metrics, *comparison.main_counts)]
    rows = [
        [
            Cell(line.setting, "text"),
            Cell(DATA_NAMES[line.data], "text"),
            *(_headline_cell(line, metric, comparison.primary) for metric in metrics),
            *(Cell(amount(line.counts.get(name, []))) for name in comparison.main_counts),
            Cell(f"{line.support:,}"),
        ]
        for line in comparison.headline
    ]
    return Table(["setting", "test set", *names, "samples"], rows, _headline_note(comparison))


def further_table(comparison: Comparison) -> Table:
    """Setting x metric, for those that had no room in the headline table, and numbers that are no scores."""
    metrics = [name for name in comparison.metrics if name not in comparison.main_metrics]
    counts = [name for name in comparison.counts if name not in comparison.main_counts]
    rows = [
        [
            Cell(line.setting, "text"),
            Cell(DATA_NAMES[line.data], "text"),
            *(_headline_cell(line, metric, comparison.primary) for metric in metrics),
            *(Cell(amount(line.counts.get(name, []))) for name in counts),
        ]
        for line in comparison.headline
    ]
    return Table(["setting", "test set", *map(metric_name, [*metrics, *counts])], rows if metrics or counts else [])


def client_table(comparison: Comparison) -> Table:
    """Client x setting in the primary metric, with the price of not pooling and the gain from joining."""
    settings = comparison.settings
    price, gain = {"centralized", "federated"} <= set(settings), {"federated", "local"} <= set(settings)
    extra = ["price of not pooling"] * price + ["gain from joining"] * gain
    table = Table(["client", "samples", *settings, *extra], note=_client_note(comparison, price, gain))
    for row in comparison.per_client:
        cells = [Cell(row.client, "text"), Cell(f"{row.support:,}")]
        cells += [_client_cell(row, setting) for setting in settings]
        cells += [_signed(row.price, None, good_above=False)] * price
        cells += [_signed(row.gain, row.gain_interval, good_above=True)] * gain
        table.rows.append(cells)
    return table


def cost_table(costs: Sequence[Cost]) -> Table:
    """What each setting took."""
    columns = ["setting", "length", "samples seen", "seconds", "bytes up", "bytes down", "peak memory, MB"]
    gpu = any(cost.peak_gpu_mb.values for cost in costs)
    table = Table([*columns, *["peak GPU memory, MB"] * gpu, "trained parameters", "all parameters"])
    for cost in costs:
        values = [cost.length, counted(cost.samples), _plain(cost.seconds), size_range(cost.bytes_up)]
        values += [size_range(cost.bytes_down), _plain(cost.peak_memory_mb), *[_plain(cost.peak_gpu_mb)] * gpu]
        values += [counted(cost.trainable), counted(cost.total)]
        table.rows.append([Cell(cost.setting, "text"), *(Cell(value) for value in values)])
    return table


def data_table(record: RunRecord) -> Table:
    """Split sizes and label counts of every client; shades show the share of a label within the client."""
    clients: Mapping[str, Mapping[str, Any]] = record.manifest.get("clients", {})
    labels = list(dict.fromkeys(label for one in clients.values() for label in one.get("labels") or {}))
    table = Table(["client", "train", "val", "test", *labels])
    for client, one in clients.items():
        counts = one.get("labels") or {}
        total = sum(counts.values()) or 1
        cells = [Cell(client, "text"), *(Cell(counted([one.get(split)])) for split in ("train", "val", "test"))]
        cells += [Cell(f"{counts.get(label, 0):,}", shade=counts.get(label, 0) / total) for label in labels]
        table.rows.append(cells)
    return table


def long_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give every number of a comparison as one row of a long table; undefined is None."""
    rows = []
    for line in comparison.headline:
        for metric, spread in line.scores.items():
            interval = line.intervals.get(metric)
            who = {"setting": line.setting, "model": _model_name(line), "data": line.data, "metric": metric}
            rows.append(long_row("headline", who, spread, interval, line.support, line.ranges.get(metric)))
        for name, values in line.counts.items():
            who = {"setting": line.setting, "model": _model_name(line), "data": line.data, "metric": name}
            rows.append(long_row("counts", who, Spread(tuple(values)), None, line.support))
    for row in comparison.per_client:
        base = {"data": row.client, "metric": comparison.primary}
        for setting, spread in row.scores.items():
            model = row.client if setting == "local" else setting
            who = {"setting": setting, "model": model, **base}
            rows.append(long_row("per_client", who, spread, row.intervals.get(setting), row.support))
        price = {"setting": "centralized - federated", "model": "", **base}
        gain = {"setting": "federated - local", "model": "", **base}
        rows.append(long_row("price_of_not_pooling", price, row.price, None, row.support))
        rows.append(long_row("gain_from_joining", gain, row.gain, row.gain_interval, row.support))
    matrix = comparison.cross_site
    for model, spreads in zip(matrix.models, matrix.scores, strict=True):
        setting = "local" if model in comparison.clients else model
        for data, spread in zip(matrix.data, spreads, strict=True):
            who = {"setting": setting, "model": model, "data": data, "metric": comparison.primary}
            rows.append(long_row("cross_site", who, spread))
    return rows


def long_row(
    table: str,
    who: dict[str, str],
    spread: Spread,
    interval: Interval | None = None,
    support: int | None = None,
    extremes: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Give a row of the long table: `who` says setting, model, data and metric."""
    return {
        "table": table,
        **who,
        "mean": _or_none(spread.mean),
        "sd": _or_none(spread.sd),
        "defined": len(spread.defined),
        "runs": len(spread.values),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "lowest_model": extremes[0] if extremes else None,
        "highest_model": extremes[1] if extremes else None,
        "support": support,
    }


def _model_name(line: Headline) -> str:
    if line.data == "mean":
        return "mean of the clients' scores"
    if line.setting != "local":
        return line.setting
    return "mean of the clients' models" if line.data == "held_out" else "each client's own"


def _headline_cell(line: Headline, metric: str, primary: str) -> Cell:
    spread = line.scores[metric]
    if math.isnan(spread.mean):
        return Cell(spread.text(), "muted")
    small = [line.intervals[metric].text()] if metric in line.intervals else []
    if metric in line.ranges:
        low, high = line.ranges[metric]
        small.append(f"models {number(low)} to {number(high)}")
    if metric == primary and line.models[0] < line.models[1]:
        small.append(f"{line.models[0]} of {line.models[1]} {'clients' if line.data == 'mean' else 'models'} defined")
    return Cell(spread.text(), small="\n".join(small))


def _client_cell(row: ClientRow, setting: str) -> Cell:
    spread, interval = row.scores.get(setting, Spread(())), row.intervals.get(setting)
    counts = {name: values for name, values in row.counts.get(setting, {}).items() if name.startswith(UNDEFINED)}
    small = [interval.text()] if interval else []
    small += [f"{metric_name(name)}: {amount(some)}" for name, some in counts.items() if any(one > 0 for one in some)]
    if math.isnan(spread.mean):
        return Cell(spread.text() + (f" (n = {row.support})" if spread.values else ""), "muted", "\n".join(small))
    return Cell(spread.text(), small="\n".join(small))


def _signed(spread: Spread, interval: Interval | None, *, good_above: bool) -> Cell:
    if math.isnan(spread.mean) or spread.mean == 0:
        return Cell(spread.text(signed=True), "muted")
    kind = "good" if (spread.mean > 0) == good_above else "bad"
    return Cell(spread.text(signed=True), kind, interval.text(signed=True) if interval else "")


def _client_note(comparison: Comparison, price: bool, gain: bool) -> str:
    notes = [f"Scores are {metric_name(comparison.primary)} on each client's own test set."]
    if price:
        notes.append(
            "Price of not pooling: how much better centralized is than federated (negative: federated is better)."
        )
    if gain:
        notes.append(
            "Gain from joining: how much better federated is than the client's own model (positive: joining pays)."
        )
    if any(row.gain_interval for row in comparison.per_client):
        notes.append(f"Brackets: bootstrap 95 % intervals over {_drawn(comparison)}, for the gain paired by sample.")
    elif not any(interval for row in comparison.per_client for interval in row.intervals.values()):
        notes.append(_no_interval(comparison))
    return " ".join(notes)


def _headline_note(comparison: Comparison) -> str:
    seeds = len({record.seed for record in comparison.scored})
    notes = [f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed."]
    if any(line.intervals for line in comparison.headline):
        notes.append(f"In brackets the bootstrap 95 % interval over {_drawn(comparison)}.")
    if comparison.headline and not any(comparison.primary in line.intervals for line in comparison.headline):
        notes.append(_no_interval(comparison))
    if "local" in comparison.settings:
        notes.append("Local: on the held-out set the mean over the clients' models with their range; on the clients' ")
        notes[-1] += "test sets every client's own model on its own samples."
    if any(line.data == "mean" for line in comparison.headline):
        notes.append(
            "Weighted mean of the clients: of their own scores, by their test samples, without undefined ones; "
        )
        notes[-1] += (
            "the score of all clients' test sets comes from all predictions at once, and may be another number."
        )
    return " ".join(notes)


def _no_interval(comparison: Comparison) -> str:
    return (
        f"No interval for {metric_name(comparison.primary)} where it does not follow from the stored predictions, or "
        f"where a test set has fewer than {MIN_UNITS} biological units."
    )


def _drawn(comparison: Comparison) -> str:
    """Say what the intervals draw again and again."""
    lines, rows = comparison.headline, comparison.per_client
    intervals = [one for line in lines for one in line.intervals.values()]
    intervals += [one for row in rows for one in row.intervals.values() if one]
    over = sorted({interval.over for interval in intervals})
    whole = " (all samples of a unit are drawn together)" if "biological units" in over else ""
    return f"{' or '.join(over)}{whole}"


def _plain(spread: Spread) -> str:
    if not spread.values:
        return NOT_RUN
    sd = "" if math.isnan(spread.sd) else f" ± {spread.sd:,.1f}"
    return f"{spread.mean:,.1f}{sd}"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
