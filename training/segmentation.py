"""How well a binary segmentation agrees with the truth: by pixels, by images, and by objects.

Everything is counted, so the scores of several clients together are exactly those of their pooled images.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric

from models.segmentation_loss import check_shapes

Mask = npt.NDArray[np.bool_]

SMOOTHING = 1e-6
"""Added above and below in the scores of one image: empty prediction and empty truth score 1."""
NEIGHBOURS = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a side or a corner belong to one object."""


class Counts(NamedTuple):
    """Pixels or objects: right, predicted but not there, there but not predicted. A score of nothing is NaN."""

    tp: int
    fp: int
    fn: int

    @property
    def iou(self) -> float:
        """Share of right ones among all that are predicted or there."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, also known as Dice."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Share of right ones among those predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of right ones among those that are there."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def image_iou(self) -> float:
        """IoU of one image, with 1e-6 above and below: defined for an empty one, too."""
        return (self.tp + SMOOTHING) / (self.tp + self.fp + self.fn + SMOOTHING)

    @property
    def image_f1(self) -> float:
        """F1 of one image, likewise."""
        return (2 * self.tp + SMOOTHING) / (2 * self.tp + self.fp + self.fn + SMOOTHING)


class SegmentationScores(Metric):
    """All scores of predicted probabilities at one threshold, which a probability must exceed.

    `compute` gives

    - `iou`, `f1`, `precision`, `recall` of all pixels together. They are NaN where there is nothing to divide by:
      precision without a predicted pixel, recall without a true one, IoU and F1 with neither;
    - `image_iou`, `image_f1`: means over images, as the published rosette pipeline computes them of one image. An image
      without foreground scores 1 if nothing is predicted and about 0 otherwise, so read them beside `empty_targets`,
      the share of such images;
    - `object_precision`, `object_recall`, `object_f1`: of connected parts, a predicted and a true one being a match
      where their IoU is at least 0.5 (Kirillov et al. 2019, arXiv:1801.00868, ask for more than 0.5).
    """

    higher_is_better = MappingProxyType(  # type: ignore[assignment]
        dict.fromkeys(
            [
                *("iou", "f1", "precision", "recall", "image_iou", "image_f1"),
                *("object_precision", "object_recall", "object_f1"),
            ],
            True,
        )
    )
    full_state_update = False
    pixels: Tensor
    objects: Tensor
    images: Tensor
    empty: Tensor
    image_iou: Tensor
    image_f1: Tensor

    def __init__(self, threshold: float = 0.5, *, tidy: Callable[[Mask], Mask] | None = None, **settings: Any) -> None:
        """Take the threshold.

        Args:
            threshold: What a probability must exceed.
            tidy: What becomes of a predicted mask [H, W] before its objects are counted, such as the removal of small
                parts; pixels are counted without it.
            settings: Of torchmetrics.
        """
        super().__init__(**settings)
        self.threshold, self.tidy = threshold, tidy
        for name in ("pixels", "objects"):
            self.add_state(name, default=torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("images", "empty"):
            self.add_state(name, default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("image_iou", "image_f1"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Count images.

        Args:
            probability: Shape [B, 1, H, W].
            target: Above 0 where there is foreground, same shape.
            valid: Nonzero where a pixel counts, same shape; None where all do.

        Raises:
            ValueError: Shapes differ.
        """
        predicted_BHW, target_BHW = _masks(probability, target, valid, self.threshold)
        for predicted, truth in zip(predicted_BHW, target_BHW, strict=True):
            pixels = counts_from_masks(predicted, truth)
            objects = object_counts(self.tidy(predicted) if self.tidy else predicted, truth)
            self.pixels = self.pixels + torch.tensor(pixels)
            self.objects = self.objects + torch.tensor(objects)
            self.images = self.images + 1
            self.empty = self.empty + int(pixels.tp + pixels.fn == 0)
            self.image_iou = self.image_iou + pixels.image_iou
            self.image_f1 = self.image_f1 + pixels.image_f1

    def compute(self) -> dict[str, Tensor]:
        """Give the scores by name, in float64."""
        pixels, objects = Counts(*self.pixels.tolist()), Counts(*self.objects.tolist())
        images = int(self.images)
        values = {
            "iou": pixels.iou,
            "f1": pixels.f1,
            "precision": pixels.precision,
            "recall": pixels.recall,
            "image_iou": _ratio(float(self.image_iou), images),
            "image_f1": _ratio(float(self.image_f1), images),
            "empty_targets": _ratio(int(self.empty), images),
            "object_precision": objects.precision,
            "object_recall": objects.recall,
            "object_f1": objects.f1,
        }
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def counts_from_masks(
    predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: npt.NDArray[Any] | None = None
) -> Counts:
    """Count pixels of masks of any equal shape, one image or many; nonzero is foreground, or valid.

    Raises:
        ValueError: Shapes differ.
    """
    shapes = {mask.shape for mask in (predicted, target, valid) if mask is not None}
    if len(shapes) > 1:
        raise ValueError(f"shapes {', '.join(map(str, sorted(shapes)))}: give equal ones")
    predicted, target = predicted.astype(bool, copy=False), target.astype(bool, copy=False)
    if valid is not None:
        predicted, target = predicted & (valid != 0), target & (valid != 0)
    right = int(np.count_nonzero(predicted & target))
    return Counts(right, int(np.count_nonzero(predicted)) - right, int(np.count_nonzero(target)) - right)


def object_counts(predicted_HW: Mask, target_HW: Mask) -> Counts:
    """Count the connected parts of two masks; a pair whose IoU is at least 0.5 is a match."""
    predicted, predicted_count = ndimage.label(predicted_HW, NEIGHBOURS)
    target, target_count = ndimage.label(target_HW, NEIGHBOURS)
    both = predicted_HW & target_HW
    pairs, overlap = np.unique(predicted[both].astype(np.int64) * (target_count + 1) + target[both], return_counts=True)
    area_predicted, area_target = np.bincount(predicted.ravel()), np.bincount(target.ravel())
    union = area_predicted[pairs // (target_count + 1)] + area_target[pairs % (target_count + 1)] - overlap
    # No object is in two matches: with an IoU of half or more, two partners would fill it exactly, half each, and
    # would thus touch in it, which parts of one mask do not.
    matches = int(np.count_nonzero(2 * overlap >= union))
    return Counts(matches, predicted_count - matches, target_count - matches)


def _masks(probability: Tensor, target: Tensor, valid: Tensor | None, threshold: float) -> tuple[Mask, Mask]:
    """Give predicted and true foreground [B, H, W] where pixels count; the threshold is compared in float32."""
    check_shapes(probability, target, valid)
    predicted = probability[:, 0].float().cpu().numpy() > np.float32(threshold)
    truth = target[:, 0].cpu().numpy() > 0
    if valid is None:
        return predicted, truth
    counts = valid[:, 0].cpu().numpy() != 0
    return predicted & counts, truth & counts


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
