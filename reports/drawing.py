"""What all pictures share: sizes, colours, axes, and names that are never formulas.

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

COLOURS = {"centralized": "#0072B2", "federated": "#D55E00", "local": "#009E73"}
STYLES = {"centralized": "-", "federated": "-", "local": "-."}
MARKERS = {"centralized": "o", "federated": "D", "local": "s"}
LABELS = {"centralized": "centralized (pooled)", "federated": "federated", "local": "local (each alone)"}
DPI = 144
MAX_ANNOTATED = 15
GREY = "#5f6670"


@contextlib.contextmanager
def literal_text() -> Iterator[None]:
    """Take names as they are, not as formulas."""
    with rc_context({"text.parse_math": False}):
        yield


def single(width: float, height: float) -> tuple[Figure, Axes]:
    """Give a figure with one pair of axes; sizes in inches."""
    figure, panels = grid(1, 1, width, height)
    return figure, panels[0, 0]


def grid(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """Give a figure with panels [rows, columns]; sizes in inches, options are those of `Figure.subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    for panel in panels.ravel():
        bare(panel)
    return figure, panels


def legend_above(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Put the legend of one pair of axes over all of them."""
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns, frameon=False, fontsize=9
    )


def bare(axes: Axes) -> None:
    """Leave out what carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa1ab")
    axes.grid(color="#e6e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#9aa1ab")


def matrix_axes(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Name the columns and rows of a matrix."""
    small = 8.5 if max(len(columns), len(rows)) <= MAX_ANNOTATED else 6
    steep = any(len(name) > 4 for name in columns)
    rotation: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if steep else {}
    axes.set_xticks(range(len(columns)), columns, fontsize=small, **rotation)
    axes.set_yticks(range(len(rows)), rows, fontsize=small)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def annotate(
    axes: Axes,
    values: np.ndarray,
    text: Callable[[int, int], str],
    *,
    bright_is_high: bool,
    middle: float | None = None,
) -> None:
    """Write into every cell, dark on bright and bright on dark; `middle` is that of the colours, else of the values."""
    defined = values[~np.isnan(values)]
    if middle is None:
        middle = (defined.min() + defined.max()) / 2 if defined.size else 0.0
    for (row, column), value in np.ndenumerate(values):
        bright = math.isnan(value) or (value > middle) == bright_is_high
        axes.text(
            column, row, text(row, column), ha="center", va="center", fontsize=8, color="#111" if bright else "#fff"
        )
