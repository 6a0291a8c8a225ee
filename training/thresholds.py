"""Precision, recall and F1 of a binary segmentation at every threshold, from counts that add up over clients."""

from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from models.segmentation_loss import check_shapes

THRESHOLDS = np.linspace(0.01, 0.99, 100)
SMOOTHING = 1e-6
CELLS = 128
"""Cells that 0 ... 1 is cut into to find the place of a probability. A power of two, so that this is exact in float32,
and narrow enough that no cell holds two thresholds."""


class ThresholdSweep(Metric):
    """All pixels together at 100 thresholds from 0.01 to 0.99, each of which a probability must exceed.

    `compute` gives the arrays `threshold`, `precision_at`, `recall_at` and `f1_at`, and of the first threshold with the
    highest F1 `best_threshold` and `best_f1`; these two are NaN without a foreground pixel. As in the published rosette
    pipeline, 1e-6 is added above and below in precision and recall, and below in F1.

    `best_f1` is optimistic for the images that it was found on: find the threshold on validation images, and score it
    on others.
    """

    higher_is_better = MappingProxyType({"best_f1": True})  # type: ignore[assignment]
    full_state_update = False
    background: Tensor
    foreground: Tensor

    def __init__(self, **settings: Any) -> None:
        """Start with nothing counted; `settings` are torchmetrics' own."""
        super().__init__(**settings)
        for name in ("background", "foreground"):
            # How many pixels exceed exactly 0, 1, ... 100 thresholds.
            counts = torch.zeros(len(THRESHOLDS) + 1, dtype=torch.int64)
            self.add_state(name, default=counts, dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Count pixels; arguments and errors as in `training.segmentation.SegmentationScores`."""
        check_shapes(probability, target, valid)
        bins = len(THRESHOLDS) + 1
        place = thresholds_exceeded(probability.float().cpu().numpy().ravel())
        place += bins * (target.cpu().numpy().ravel() > 0)
        if valid is not None:
            place[valid.cpu().numpy().ravel() == 0] = 2 * bins
        counts = torch.from_numpy(np.bincount(place, minlength=2 * bins))
        self.background = self.background + counts[:bins]
        self.foreground = self.foreground + counts[bins : 2 * bins]

    def compute(self) -> dict[str, Tensor]:
        """Give arrays and scalars by name, in float64."""
        hits = _exceeding(self.foreground)
        predicted = hits + _exceeding(self.background)
        precision = (hits + SMOOTHING) / (predicted + SMOOTHING)
        recall = (hits + SMOOTHING) / (self.foreground.sum().double() + SMOOTHING)
        f1 = 2 * precision * recall / (precision + recall + SMOOTHING)
        threshold = torch.from_numpy(THRESHOLDS)
        best = int(f1.argmax())
        undefined = torch.tensor(torch.nan, dtype=torch.float64)
        defined = bool(self.foreground.any())
        return {
            "threshold": threshold,
            "precision_at": precision,
            "recall_at": recall,
            "f1_at": f1,
            "best_threshold": threshold[best] if defined else undefined,
            "best_f1": f1[best] if defined else undefined,
        }


def thresholds_exceeded(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Count for each probability the thresholds that it exceeds, compared in float32; NaN exceeds none."""
    within = np.fmin(np.fmax(probability, 0), 1)
    cell = (within * CELLS).astype(np.intp)
    return np.asarray(_BELOW_CELL.take(cell) + (within > _FIRST_FROM_CELL.take(cell)), np.intp)


def _exceeding(counts: Tensor) -> Tensor:
    """Turn pixels by number of exceeded thresholds into pixels that exceed each threshold, in float64."""
    return counts.flip(0).cumsum(0).flip(0)[1:].double()


_ROUNDED = THRESHOLDS.astype(np.float32)
_BELOW_CELL = np.searchsorted(_ROUNDED, np.arange(CELLS + 1) / CELLS)
_FIRST_FROM_CELL = np.append(_ROUNDED, np.float32(np.inf))[_BELOW_CELL]
