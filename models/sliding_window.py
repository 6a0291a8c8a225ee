"""Prediction of images of any size by overlapping windows, whose probabilities are averaged.

MONAI's `sliding_window_inference` differs in two points. It pads a short axis on both sides, so what it predicts for
images smaller than a window is another number (by up to 0.19 in the recorded cases). And it takes the overlap as a
share, from which rounding makes a step one pixel short for every fifth pair of patch and overlap up to 1024 pixels
(such as 100 and 34). Windows and averages are otherwise the same.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from core.errors import UserError
from models.padding import pad_to


def sliding_window(
    predict: Callable[[Tensor], Tensor], image_CHW: Tensor, patch: int, overlap: int, batch: int = 8
) -> Tensor:
    """Average the predictions of all windows, each distinct window once, at the size of the image.

    Args:
        predict: Windows [B, C, patch, patch] -> probabilities [B, 1, patch, patch]; called without gradients.
        image_CHW: An image of any size. An axis shorter than the patch is mirrored at its end, or filled with zeros
            where it is too short for that.
        patch: Side of a window, in pixels.
        overlap: Pixels that neighbouring windows share; the last window of an axis, flush with its end, shares more.
        batch: Windows predicted at once.

    Returns:
        Shape [1, H, W], float32, on the device of the image.

    Raises:
        UserError: The patch is not positive, or the overlap not in 0 ... patch - 1.
        ValueError: `batch` is not positive.
    """
    check_windows(patch, overlap)
    if batch < 1:
        raise ValueError(f"batch: {batch} windows at once; give at least 1")
    height, width = image_CHW.shape[-2:]
    padded = pad_to(image_CHW, patch, patch)
    corners = list(itertools.product(*(window_starts(side, patch, overlap) for side in padded.shape[-2:])))
    total = padded.new_zeros(1, *padded.shape[-2:], dtype=torch.float32)
    windows_over_pixel = torch.zeros_like(total)
    with torch.no_grad():
        for start in range(0, len(corners), batch):
            places = [
                (slice(None), slice(top, top + patch), slice(left, left + patch))
                for top, left in corners[start : start + batch]
            ]
            predicted = predict(torch.stack([padded[place] for place in places])).to(total)
            for place, probabilities in zip(places, predicted, strict=True):
                total[place] += probabilities
                windows_over_pixel[place] += 1
    return (total / windows_over_pixel)[:, :height, :width]


def window_starts(side: int, patch: int, overlap: int) -> list[int]:
    """Give where windows begin along an axis of at least `patch` pixels: every patch - overlap, the last at the end."""
    last, step = side - patch, patch - overlap
    return [min(number * step, last) for number in range(math.ceil(last / step) + 1)]


def check_windows(patch: int, overlap: int) -> None:
    """Check that windows cover an image.

    Raises:
        UserError: The patch is not positive, or the overlap not in 0 ... patch - 1.
    """
    if patch < 1:
        raise UserError(f"patch: {patch} pixels are no window; give at least 1")
    if not 0 <= overlap < patch:
        raise UserError(f"overlap: {overlap} pixels with a patch of {patch}; give 0 ... {patch - 1}")
