"""What a hyperparameter search has found: a table of its trials, and two pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic, write_text
from reports.drawing import COLOURS, DPI, GREY, legend_above, literal_text, single

MOST_KEYS = 20
"""Keys in the picture of importances."""


def write_trials(folder: Path, trials: Sequence[Mapping[str, Any]]) -> Path:
    """Write trials.csv, one row per trial; what a trial does not have stays empty."""
    columns = dict.fromkeys(name for trial in trials for name in trial)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(trials)
    path = folder / "trials.csv"
    write_text(path, stream.getvalue())
    return path


def draw_history(
    folder: Path, metric: str, completed: Mapping[int, float], stopped: Mapping[int, float], *, higher_is_better: bool
) -> Path:
    """Draw the values of trials, and the best so far, into history.png.

    Args:
        folder: Where.
        metric: Name of what is searched for.
        completed: Trial -> its value.
        stopped: Trial -> its last value, of those that were not worth their time.
        higher_is_better: Which of two values is better.
    """
    numbers = sorted(completed)
    values = np.array([completed[number] for number in numbers])
    best = (np.maximum if higher_is_better else np.minimum).accumulate(values)
    with literal_text():
        figure, axes = single(7, 4)
        axes.step(numbers, best, where="post", color=COLOURS["federated"], label="best so far")
        axes.plot(numbers, values, "o", markersize=4, color=COLOURS["centralized"], label="completed")
        if stopped:
            axes.plot([*stopped], [*stopped.values()], "x", markersize=5, color=GREY, label="stopped early")
        axes.set_xlabel("trial")
        axes.set_ylabel(f"validation {metric}")
        legend_above(figure, axes)
        path = folder / "history.png"
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=DPI)
    return path


def draw_importances(folder: Path, importances: Mapping[str, float]) -> Path:
    """Draw the share of each key in how far the values of trials differ into importances.png, the largest on top."""
    kept = sorted(importances.items(), key=lambda pair: pair[1])[-MOST_KEYS:]
    with literal_text():
        figure, axes = single(7, 1 + 0.3 * len(kept))
        axes.barh([name for name, _ in kept], [share for _, share in kept], color=COLOURS["centralized"])
        axes.set_xlabel("importance (shares of 1, PED-ANOVA)")
        axes.grid(visible=False, axis="y")
        path = folder / "importances.png"
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=DPI)
    return path
