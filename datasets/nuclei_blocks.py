"""Blocks of voxels out of a volume: only the slices a block needs are read, through the cache of the process."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from datasets.array_cache import process_cache
from datasets.nuclei_index import Volume
from datasets.nuclei_slices import read_slice

Triple = tuple[int, int, int]


def read_raw(volume: Volume, start: Triple, size: Triple) -> npt.NDArray[np.float32]:
    """Read raw values as stored; zeros beyond the far end and in slices without a mask slice.

    Args:
        volume: The nucleus.
        start: First voxel along z, y, x.
        size: Voxels along z, y, x.

    Returns:
        Shape `size`, float32; NaN and infinite values are 0.

    Raises:
        UserError: A slice cannot be read, or has changed since it was indexed.
    """
    block = np.zeros(size, dtype=np.float32)
    for place, number in enumerate(_slices(volume, start, size)):
        if volume.mask[number] is not None:
            values = _slice(volume, volume.root / "raw" / volume.raw[number], volume.dtype)
            _paste(block[place], values, start, size)
    if volume.non_finite:
        np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return block


def read_mask(volume: Volume, start: Triple, size: Triple) -> npt.NDArray[np.float32]:
    """Read mask values as stored, > 0 inside the nucleus; zeros beyond the far end and where a slice is missing.

    Raises:
        UserError: A slice cannot be read, or has changed since it was indexed.
    """
    block = np.zeros(size, dtype=np.float32)
    for place, number in enumerate(_slices(volume, start, size)):
        if (name := volume.mask[number]) is not None:
            _paste(block[place], _slice(volume, volume.root / "mask" / name, None), start, size)
    return block


def _slices(volume: Volume, start: Triple, size: Triple) -> range:
    return range(start[0], min(start[0] + size[0], volume.shape[0]))


def _slice(volume: Volume, path: Path, dtype: str | None) -> npt.NDArray[Any]:
    values = process_cache().get(path, read_slice)
    if values.shape != volume.shape[1:] or (dtype is not None and values.dtype.name != dtype):
        raise UserError(f"{path}: has changed since the index was made; start the command again")
    return values


def _paste(block: npt.NDArray[np.float32], values: npt.NDArray[Any], start: Triple, size: Triple) -> None:
    part = values[start[1] : start[1] + size[1], start[2] : start[2] + size[2]]
    block[: part.shape[0], : part.shape[1]] = part
