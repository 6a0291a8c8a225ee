"""How the headline metric, and the share of clients that take part, fall with the rate of faults."""

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.comparison import Comparison
from reports.drawing import GREY, grid, legend_above
from reports.numbers import Spread, metric_name
from reports.run_folder import RunRecord
from reports.tables import DATA_NAMES, Cell, Table
from reports.variants import NO_FAULTS, fault_kinds, fault_rate, strategy_name

LINES = (("#0072B2", "o"), ("#D55E00", "D"), ("#009E73", "s"), ("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "P"))
"""Colours of the Okabe-Ito palette and markers, taken in turn."""


@dataclass(frozen=True)
class Point:
    """The runs of one strategy under one kind and rate of faults."""

    strategy: str
    kinds: str
    rate: float
    runs: list[RunRecord]
    metric: Spread
    """Headline metric on the main test set, of the runs that have one."""
    participation: Spread
    """Updates that were used, as a share of those asked for, in the rounds that were finished."""

    @property
    def failed(self) -> int:
        """Count the runs that ended without a result."""
        return sum(record.status == "failed" for record in self.runs)


def points(comparison: Comparison) -> list[Point]:
    """Group the runs of a study, by strategy, then kind, then rate; empty where there is no study."""
    groups: dict[tuple[str, str, float], list[RunRecord]] = {}
    for record in comparison.study:
        key = (strategy_name(record, comparison.study), fault_kinds(record), round(fault_rate(record), 9))
        groups.setdefault(key, []).append(record)
    return [
        Point(*key, runs, Spread(tuple(_value(comparison, one) for one in runs if one.rows)), _shares(runs))
        for key, runs in sorted(groups.items(), key=lambda one: (one[0][0], one[0][2], one[0][1]))
    ]


def fault_table(comparison: Comparison) -> Table:
    """Strategy and fault x rate, runs, how they ended, metric and participation."""
    metric = metric_name(comparison.primary) if comparison.primary else "score"
    main = next((record for record in comparison.records if record.setting == "federated"), None)
    chosen = f"{strategy_name(main, comparison.study)}, {fault_kinds(main)}" if main else ""
    note = (
        f"{metric}: on the {DATA_NAMES[comparison.main_data]}. Rate: share of the requests to train that a fault is "
        "expected to strike. Participation: updates used, as a share of those asked for, in finished rounds. All other "
        f"tables and pictures have of the federated runs only those with {chosen}."
    )
    table = Table(["strategy", "fault", "rate", "runs", "degraded", "failed", metric, "participation"], note=note)
    for one in points(comparison):
        ended = [sum(record.status == state for record in one.runs) for state in ("degraded", "failed")]
        numbers = [f"{one.rate:.4g}", str(len(one.runs)), *map(str, ended)]
        scores = [Cell(one.metric.text()), Cell(one.participation.text())]
        table.rows.append([Cell(one.strategy, "text"), Cell(one.kinds, "text"), *map(Cell, numbers), *scores])
    return table


def fault_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give one row per run of the study."""
    return [
        {
            "strategy": one.strategy, "fault": one.kinds, "rate": one.rate, "seed": record.seed,
            "status": record.status, "data": comparison.main_data, "rounds": len(record.steps),
            comparison.primary or "score": _value(comparison, record), "participation": _shares([record]).mean,
            "failures": len(record.failures), "run_folder": record.folder.name,
        }
        for one in points(comparison)
        for record in one.runs
    ]  # fmt: skip


def fault_plots(comparison: Comparison) -> dict[str, Figure]:
    """Draw the study where there is one: file stem -> figure."""
    found = points(comparison)
    return {"faults": against_rate(comparison, found)} if found else {}


def against_rate(comparison: Comparison, found: list[Point]) -> Figure:
    """Draw metric and participation against the rate, a line per strategy and fault, whiskers over seeds."""
    figure, panels = grid(1, 2, 8.4, 3.7, sharex=True)
    score, share = panels[0]
    share.plot([0, 1], [1, 0], linestyle=(0, (4, 3)), color=GREY, linewidth=0.9, label="1 - rate")
    for at, (label, line) in enumerate(lines(found).items()):
        colour, marker = LINES[at % len(LINES)]
        _draw(score, line, [one.metric for one in line], colour, marker, label)
        _draw(share, line, [one.participation for one in line], colour, marker, label)
        failed = [one for one in line if one.failed]
        height = 0.03 + 0.045 * (at % 6)
        score.plot([one.rate for one in failed], [height] * len(failed), "x", color=colour, markersize=7,
                   transform=score.get_xaxis_transform())  # fmt: skip
    score.set(xlabel="rate of faults", ylabel=metric_name(comparison.primary) if comparison.primary else "score")
    share.set(xlabel="rate of faults", ylabel="participation", ylim=(-0.03, 1.05))
    highest = max(one.rate for one in found)
    score.set_xlim(-0.05 * highest, 1.05 * highest)
    legend_above(figure, share, columns=4)
    return figure


def lines(found: list[Point]) -> dict[str, list[Point]]:
    """Give the points of each strategy and fault by rate; runs without faults begin all lines of their strategy."""
    named: dict[str, list[Point]] = {}
    for strategy in dict.fromkeys(one.strategy for one in found):
        own = [one for one in found if one.strategy == strategy]
        kinds = list(dict.fromkeys(one.kinds for one in own if one.kinds != NO_FAULTS)) or [NO_FAULTS]
        for kind in kinds:
            some = [one for one in own if one.kinds in (kind, NO_FAULTS)]
            named[f"{strategy}: {kind}"] = sorted(some, key=lambda one: one.rate)
    return named


def _draw(axes: Axes, line: list[Point], spreads: list[Spread], colour: str, marker: str, label: str) -> None:
    known = [(one.rate, spread) for one, spread in zip(line, spreads, strict=True) if spread.defined]
    rates, means = [rate for rate, _ in known], [spread.mean for _, spread in known]
    axes.plot(rates, means, marker=marker, color=colour, linewidth=1.5, markersize=5.5, label=label)
    for rate, spread in known:
        axes.plot([rate, rate], [min(spread.defined), max(spread.defined)], color=colour, linewidth=1)


def _value(comparison: Comparison, record: RunRecord) -> float:
    return record.value(record.setting, comparison.main_data, comparison.primary)


def _shares(runs: list[RunRecord]) -> Spread:
    """Give the participation of each run, averaged over its rounds; NaN where none was finished."""
    values = []
    for record in runs:
        shares = [len(step["train"]) / len(step["participants"]) for step in record.steps if step.get("participants")]
        values.append(sum(shares) / len(shares) if shares else math.nan)
    return Spread(tuple(values))
