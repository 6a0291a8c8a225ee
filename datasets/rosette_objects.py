"""From probabilities to rosettes: the mask that is kept, its parts, and what a sample holds.

Arrays are images [H, W]; lengths are in pixels, areas in pixels squared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from core.errors import UserError

Column = npt.NDArray[Any]

ALL_EIGHT = np.ones((3, 3), dtype=bool)
"""The neighbours that make one rosette; scipy's default are the four that share an edge."""


@dataclass(frozen=True, eq=False)
class SampleReport:
    """What one sample holds; a share or mean of nothing is NaN, which tables leave empty.

    Attributes:
        rosettes: Number of rosettes.
        area: Pixels in rosettes.
        mean_probability: Mean over those pixels.
        cells: Number of cells.
        cells_in_rosettes: Number of cells with at least one pixel in a rosette.
        fraction_in_rosettes: Their share.
        rosettes_per_1000_cells: Rosettes for every thousand cells.
        objects: The table of rosettes, see `rosette_table`.
    """

    rosettes: int
    area: int
    mean_probability: float
    cells: int
    cells_in_rosettes: int
    fraction_in_rosettes: float
    rosettes_per_1000_cells: float
    objects: Mapping[str, Column]


def rosette_mask(probability: npt.NDArray[Any], threshold: float = 0.5, min_size: int = 10) -> npt.NDArray[np.bool_]:
    """Give the pixels whose probability exceeds a threshold, without small parts.

    Args:
        probability: From 0 to 1.
        threshold: What a pixel must exceed.
        min_size: Least area of a part that stays; parts are pixels joined by their edges.

    Raises:
        UserError: The threshold is not within 0 and 1, or the area is negative.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold = {threshold}: no probability; give a number from 0 to 1")
    if min_size < 0:
        raise UserError(f"min_size = {min_size}: no area; give a number of pixels from 0 on")
    parts, _ = ndimage.label(probability > threshold)
    kept = np.bincount(parts.ravel()) >= min_size
    kept[0] = False
    return np.asarray(kept[parts], dtype=np.bool_)


def label_rosettes(mask: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Number the rosettes of a mask from 1 on, in the order of their first pixels; pixels may touch at a corner."""
    return np.asarray(ndimage.label(mask, ALL_EIGHT)[0], dtype=np.int32)


def sample_report(
    probability: npt.NDArray[Any], mask: npt.NDArray[np.bool_], labels: npt.NDArray[np.integer[Any]]
) -> SampleReport:
    """Count and measure the rosettes of a sample.

    Args:
        probability: From 0 to 1.
        mask: Where rosettes are, as `rosette_mask` gives it.
        labels: Number of the cell at each pixel, 0 for background.

    Raises:
        ValueError: The shapes differ.
    """
    if not probability.shape == mask.shape == labels.shape:
        raise ValueError(f"shapes {probability.shape}, {mask.shape} and {labels.shape} are not those of one image")
    objects = rosette_table(label_rosettes(mask))
    rosettes, area = len(objects["area"]), int(np.count_nonzero(mask))
    cells, touched = (int(np.count_nonzero(np.unique(values))) for values in (labels, labels[mask]))
    return SampleReport(
        rosettes=rosettes,
        area=area,
        mean_probability=float(probability[mask].mean(dtype=np.float64)) if area else np.nan,
        cells=cells,
        cells_in_rosettes=touched,
        fraction_in_rosettes=touched / cells if cells else np.nan,
        rosettes_per_1000_cells=1000 * rosettes / cells if cells else np.nan,
        objects=objects,
    )


def rosette_table(numbered: npt.NDArray[np.integer[Any]]) -> dict[str, Column]:
    """Measure every rosette of an image of numbers, 0 for none.

    Axes and eccentricity are those of the ellipse with the same second central moments. They are computed from the
    centres of the pixels, as scikit-image's `regionprops` does (4 times the root of an eigenvalue of the covariance,
    divided by the area): without the 1/12 per axis that some programs add for the extent of a pixel, so that a line
    of single pixels has a minor axis of 0.

    Returns:
        A row per rosette: `rosette` (its number), `area`, `row` and `column` of the centroid, `eccentricity` (0 for
        a single pixel), `major_axis` and `minor_axis`.
    """
    rows, columns = np.nonzero(numbered)
    numbers, owners = np.unique(numbered[rows, columns], return_inverse=True)
    area = np.bincount(owners)

    def mean(values: Column) -> Column:
        return np.bincount(owners, weights=values, minlength=len(area)) / area

    row, column = mean(rows), mean(columns)
    down, across = rows - row[owners], columns - column[owners]
    # The eigenvalues of the symmetric matrix [[a, b], [b, c]].
    a, b, c = mean(down * down), mean(down * across), mean(across * across)
    spread = np.hypot(a - c, 2 * b)
    major, minor = (a + c + spread) / 2, np.maximum((a + c - spread) / 2, 0)
    return {
        "rosette": numbers,
        "area": area,
        "row": row,
        "column": column,
        "eccentricity": np.sqrt(np.divide(spread, major, out=np.zeros_like(major), where=major > 0)),
        "major_axis": 4 * np.sqrt(major),
        "minor_axis": 4 * np.sqrt(minor),
    }
