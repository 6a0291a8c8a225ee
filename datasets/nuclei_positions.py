"""Where the crops of a nucleus lie: on a grid from the origin, or around the parts of its mask."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from datasets.nuclei_blocks import Triple, read_mask
from datasets.nuclei_index import Volume
from datasets.nuclei_slices import read_slice

Counting = Literal["exact", "reference"]
CELL = 40
"""Voxels of the coarse grid on which parts of a mask are found, as in the published variant."""


@dataclass(frozen=True)
class Crop:
    """One crop of a nucleus.

    Attributes:
        name: Place in the nucleus, such as `z0y1x0` or `part2`.
        start: First voxel along z, y, x.
        inside_only: Whether voxels outside the mask are set to 0.
    """

    name: str
    start: Triple
    inside_only: bool = False


def crop_count(length: int, size: int, counting: Counting = "exact") -> int:
    """Count the crops along one axis of `length` voxels.

    `exact` counts all that fit; `reference` is the published formula, which loses the last one where it ends with the
    volume. A short axis has one crop, padded.
    """
    return max(1, (length if counting == "exact" else length - size + 1) // size)


def grid(shape: Triple, size: Triple, counting: Counting = "exact") -> list[Crop]:
    """Lay non-overlapping crops from the origin, x fastest."""
    counts = [crop_count(length, one, counting) for length, one in zip(shape, size, strict=True)]
    return [Crop(f"z{z}y{y}x{x}", (z * size[0], y * size[1], x * size[2])) for z, y, x in np.ndindex(*counts)]


def grid_fractions(volume: Volume, size: Triple, counting: Counting) -> npt.NDArray[np.float64]:
    """Measure the share of mask voxels in each crop of the grid; what is padded counts as outside.

    Returns:
        One number per crop, in the order of `grid`.
    """
    counts = [crop_count(length, one, counting) for length, one in zip(volume.shape, size, strict=True)]
    voxels = np.zeros(counts)
    edges = [np.arange(count) * one for count, one in zip(counts[1:], size[1:], strict=True)]
    height, width = (count * one for count, one in zip(counts[1:], size[1:], strict=True))
    for z, inside in _mask_slices(volume):
        if z // size[0] < counts[0]:
            voxels[z // size[0]] += _block_sums(inside[:height, :width], edges[0], edges[1])
    return np.asarray(voxels.ravel() / math.prod(size))


def mask_parts(volume: Volume, size: Triple, min_fraction: float) -> list[Crop]:
    """Centre one crop on each part of the mask, shifted as far as needed to lie in the volume.

    Parts are found on a coarse grid of 40-voxel cells: cells that hold mask voxels and share a face belong together.
    A crop with a smaller share of mask than `min_fraction` shows nothing outside the mask.
    """
    cells = [math.ceil(length / CELL) for length in volume.shape]
    moments = np.zeros((4, *cells))  # voxels, and sums of z, y, x
    ys, xs = (np.arange(count) * CELL for count in cells[1:])
    rows, columns = (np.arange(length, dtype=np.float64) for length in volume.shape[1:])
    for z, inside in _mask_slices(volume):
        layer = moments[:, z // CELL]
        voxels = _block_sums(inside, ys, xs)
        layer[0] += voxels
        layer[1] += z * voxels
        layer[2] += _block_sums(inside * rows[:, None], ys, xs)
        layer[3] += _block_sums(inside * columns, ys, xs)
    labels, count = ndimage.label(moments[0] > 0)
    sums = [ndimage.sum_labels(moment, labels, np.arange(1, count + 1)) for moment in moments]
    crops = []
    for part in range(count):
        centre = [float(sums[axis + 1][part] / sums[0][part]) for axis in range(3)]
        start = _around(centre, size, volume.shape)
        fraction = float((read_mask(volume, start, size) > 0).mean())
        crops.append(Crop(f"part{part}", start, inside_only=fraction < min_fraction))
    return crops


def _around(centre: Sequence[float], size: Triple, shape: Triple) -> Triple:
    z, y, x = (
        min(max(round(middle - (one - 1) / 2), 0), max(length - one, 0))
        for middle, one, length in zip(centre, size, shape, strict=True)
    )
    return z, y, x


def _mask_slices(volume: Volume) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Read mask slices one after another, past the cache, as 0 and 1."""
    for z, name in enumerate(volume.mask):
        if name is not None:
            yield z, (read_slice(volume.root / "mask" / name) > 0).astype(np.float64)


def _block_sums(values: npt.NDArray[Any], ys: npt.NDArray[Any], xs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.add.reduceat(np.add.reduceat(values, ys, axis=0), xs, axis=1))
