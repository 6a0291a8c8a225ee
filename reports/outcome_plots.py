"""Segmented images: which pixels are right, wrong and missed, the settings side by side."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reports.comparison import Comparison
from reports.drawing import grid
from reports.outcomes import CODES, Image, Model, shown_images, shown_models

BACKGROUND = "#eceef1"
PIXELS = {"tp": "#56B4E9", "fp": "#D55E00", "fn": "#1c2128"}
"""They differ in brightness, too, so that they stay apart for every reader and in print."""
WORDS = {"tp": "found", "fp": "predicted, but not there", "fn": "there, but missed"}
PANEL = 2.55
"""Inches."""


def outcome_plots(comparison: Comparison) -> dict[str, Figure]:
    """Draw the best, the median and the worst images where the runs have stored pixels: file stem -> figure."""
    models = shown_models(comparison)
    images = shown_images(models, comparison.main_data) if models else []
    return {"images": outcomes(models, images)} if images else {}


def outcomes(models: list[Model], images: list[Image]) -> Figure:
    """Draw a row per image, a column per setting."""
    width = max(5.2, PANEL * len(models) + 0.5)
    figure, panels = grid(len(images), len(models), width, (PANEL + 0.25) * len(images) + 0.6)
    for row, image in zip(panels, images, strict=True):
        for axes, outcome, f1 in zip(row, image.outcomes, image.f1, strict=True):
            _draw(axes, outcome)
            axes.set_title(f"F1 {f1:.2f}", fontsize=8.5, loc="left")
        row[0].set_ylabel("\n".join([image.name, *image.why]), fontsize=8.5)
    for axes, model, f1 in zip(panels[0], models, images[0].f1, strict=True):
        whose = "" if model.name == model.setting else f", model of {model.name}"
        axes.set_title(f"{model.setting}{whose}\nF1 {f1:.2f}", fontsize=8.5, loc="left")
    handles = [Patch(facecolor=colour, label=WORDS[name]) for name, colour in PIXELS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def coloured(outcome_HW: np.ndarray) -> np.ndarray:
    """Give the colours of an image, [H, W, 3], 0 to 1."""
    palette = np.full((256, 3), to_rgb(BACKGROUND))
    for name, code in CODES.items():
        palette[code] = to_rgb(PIXELS[name])
    return np.asarray(palette[outcome_HW])


def _draw(axes: Axes, outcome_HW: np.ndarray) -> None:
    axes.imshow(coloured(outcome_HW), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
