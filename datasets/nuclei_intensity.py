"""How raw values become network input: one rule per volume, never per crop."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from datasets.nuclei_index import Volume
from datasets.nuclei_sidecar import remember
from datasets.nuclei_slices import read_slice

Scaling = Literal["dtype", "reference", "percentile", "zscore"]
FULL = {"uint8": 255.0, "uint16": 65535.0}
PERCENTILES = (0.5, 99.5)
BINS = 65536


@dataclass(frozen=True)
class Statistics:
    """Measures of all voxels of one volume.

    Attributes:
        mean: Mean.
        deviation: Standard deviation, dividing by n.
        low: 0.5th percentile; exact for whole numbers, within 1/65536 of the range for others.
        high: 99.5th percentile.
    """

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Intensity:
    """Scaling of one volume: `(v - offset) / gain` lies in [0, 1], where augmentation happens.

    Attributes:
        offset: Raw value that becomes 0.
        gain: Raw difference that becomes 1.
        mean: Subtracted at the end.
        deviation: Divided by at the end.
    """

    offset: float
    gain: float
    mean: float = 0.0
    deviation: float = 1.0

    def to_unit(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Bring raw values into [0, 1]."""
        return np.asarray(np.clip((values - np.float32(self.offset)) / np.float32(self.gain), 0, 1))

    def finish(self, unit: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Standardise, or map to [-1, 1], what was augmented in [0, 1]."""
        if (self.mean, self.deviation) == (0.0, 1.0):
            return unit
        return (unit - np.float32(self.mean)) / np.float32(self.deviation)


def intensities(data: Path, volumes: Mapping[str, Volume], scaling: Scaling, *, signed: bool) -> dict[str, Intensity]:
    """Give the scaling of each volume; statistics are measured once and kept beside the data.

    Args:
        data: Folder of the study.
        volumes: Sample to volume.
        scaling: `dtype` divides by the largest value of the type and takes floats as they are; `percentile` maps the
            0.5th and 99.5th percentile to 0 and 1; `zscore` standardises by mean and deviation; `reference` is the
            rule per crop of `nuclei_transforms.published`.
        signed: Map [0, 1] to [-1, 1] at the end.

    Raises:
        UserError: Floats outside [0, 1] under `dtype`, `zscore` with `signed`, or a volume of one value only.
    """
    if signed and scaling == "zscore":
        raise UserError("signed: has no meaning after scaling: zscore; set one of them differently")
    end = (0.5, 0.5) if signed else (0.0, 1.0)
    if scaling == "reference":
        return {name: Intensity(0.0, 1.0, *end) for name in volumes}
    if scaling == "dtype":
        return {name: Intensity(0.0, _full(volume), *end) for name, volume in volumes.items()}
    stamps = {name: volume.sha256 for name, volume in volumes.items()}
    path = data / ".cache" / "nuclei_intensity.json"
    entries = remember(path, stamps, lambda name: asdict(measure(volumes[name])), "measuring intensities")
    measured = {name: Statistics(**entry) for name, entry in entries.items()}
    for name, one in measured.items():
        if one.deviation == 0 or one.high <= one.low:
            raise UserError(f"{volumes[name].root}: all voxels are about {one.mean}; leave this sample out")
    if scaling == "percentile":
        return {name: Intensity(one.low, one.high - one.low, *end) for name, one in measured.items()}
    return {name: _standard(volumes[name], one) for name, one in measured.items()}


def measure(volume: Volume) -> Statistics:
    """Measure all voxels of a volume, a slice at a time."""
    whole = volume.dtype in FULL
    low, bins = (0.0, int(FULL[volume.dtype]) + 1) if whole else (volume.low, BINS)
    width = 1.0 if whole else (volume.high - volume.low) / (BINS - 1) or 1.0
    histogram = np.zeros(bins, dtype=np.int64)
    total = squares = 0.0
    for values in _slices(volume):
        places = values if whole else np.rint((values - low) / width).astype(np.int64)
        histogram += np.bincount(places.ravel(), minlength=bins)
        exact = values.astype(np.float64)
        total, squares = total + float(exact.sum()), squares + float(np.square(exact).sum())
    count = int(histogram.sum())
    ends = np.searchsorted(histogram.cumsum(), [count * part / 100 for part in PERCENTILES])
    mean = total / count
    return Statistics(
        mean=mean,
        deviation=float(np.sqrt(max(squares / count - mean**2, 0.0))),
        low=low + width * float(ends[0]),
        high=low + width * float(ends[1]),
    )


def _slices(volume: Volume) -> Iterator[npt.NDArray[Any]]:
    for name in volume.raw:
        values = read_slice(volume.root / "raw" / name)
        yield np.where(np.isfinite(values), values, 0) if volume.non_finite else values


def _full(volume: Volume) -> float:
    if volume.dtype in FULL:
        return FULL[volume.dtype]
    if volume.low < 0 or volume.high > 1:
        raise UserError(
            f"{volume.root / 'raw'}: float values from {volume.low:g} to {volume.high:g}; set scaling to percentile "
            "or zscore, or store values from 0 to 1"
        )
    return 1.0


def _standard(volume: Volume, measured: Statistics) -> Intensity:
    """Standardise after a first mapping to [0, 1] by the type's range, or by the volume's for floats."""
    if volume.dtype in FULL:
        offset, gain = 0.0, FULL[volume.dtype]
    else:
        offset, gain = volume.low, volume.high - volume.low
    return Intensity(offset, gain, (measured.mean - offset) / gain, measured.deviation / gain)
