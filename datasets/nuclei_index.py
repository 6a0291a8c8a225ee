"""The index of a nuclei study: what is on disk of each nucleus, checked slice by slice once and then remembered."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from core.files import sha256_json
from datasets.nuclei_sidecar import remember
from datasets.nuclei_slices import SliceFiles, list_slices, read_slice

INDEX = "nuclei_index.json"
DTYPES = ("uint8", "uint16", "float16", "float32", "float64")


@dataclass(frozen=True)
class Volume:
    """The volume and mask of one nucleus on disk.

    Attributes:
        root: Its folder, with `raw/` and `mask/`.
        shape: Depth, height, width in voxels.
        dtype: Of the raw slices.
        raw: File names of the raw slices along z.
        mask: File names of their mask slices; None where a slice has none.
        sha256: Of shape, dtype, and decoded content of raw and mask.
        low: Smallest raw value.
        high: Largest raw value.
        non_finite: Voxels that are NaN or infinite; they are read as 0.
    """

    root: Path
    shape: tuple[int, int, int]
    dtype: str
    raw: tuple[str, ...]
    mask: tuple[str | None, ...]
    sha256: str
    low: float
    high: float
    non_finite: int

    @property
    def missing_masks(self) -> list[str]:
        """Raw slices without a mask slice."""
        return [raw for raw, mask in zip(self.raw, self.mask, strict=True) if mask is None]


def find_folders(data: Path, samples: Sequence[str]) -> dict[str, str]:
    """Give sample -> folder; a sample without folder, `raw/` or `mask/` is left out with one warning.

    Raises:
        UserError: A sample has a folder with leading zeros and one without.
    """
    found = {}
    for sample in samples:
        folder, fault = find_folder(data, sample)
        if fault:
            warnings.warn(f"{data}: sample {sample} is skipped: {fault}", stacklevel=2)
        else:
            found[sample] = folder
    return found


def find_folder(data: Path, sample: str) -> tuple[str, str]:
    """Give the folder of a sample, and what is wrong with it: that it, `raw/` or `mask/` is not there, or "".

    Raises:
        UserError: A sample has a folder with leading zeros and one without.
    """
    spellings = dict.fromkeys((sample, str(int(sample))) if sample.isdecimal() else (sample,))
    names = [name for name in spellings if (data / name).is_dir()]
    if len(names) > 1:
        raise UserError(f"{data}: folders {names[0]} and {names[1]} are both sample {sample}; remove one")
    if not names:
        return "", "no folder"
    missing = [part for part in ("raw", "mask") if not (data / names[0] / part).is_dir()]
    return names[0], f"no folder {missing[0]}/ in {names[0]}" if missing else ""


def nucleus_folders(data: Path) -> list[str]:
    """Give the names of all folders that hold raw slices, listed in the class table or not."""
    return sorted(path.parent.name for path in data.glob("[!.]*/raw") if path.is_dir())


def index_volumes(data: Path, folders: Sequence[str]) -> dict[str, Volume]:
    """Give the volume in each folder, from the index beside the data where the folder has not changed since.

    Whether it has is told by names, number, size and latest modification time of its files.

    Raises:
        UserError: A nucleus cannot be used; the message names the file.
    """
    listed = {folder: _listing(data / folder) for folder in folders}
    stamps = {folder: _stamp(*pair) for folder, pair in listed.items()}
    path = data / ".cache" / INDEX

    def scanned(folder: str) -> dict[str, Any]:
        volume = asdict(_scan(data / folder, *listed[folder]))
        return {key: value for key, value in volume.items() if key != "root"}

    entries = remember(path, stamps, scanned, "indexing nuclei")
    return {folder: _volume(data / folder, entry) for folder, entry in entries.items()}


def _listing(root: Path) -> tuple[SliceFiles, SliceFiles]:
    raw = list_slices(root / "raw")
    if not raw.names:
        raise UserError(f"{root / 'raw'}: holds no slices; add .tif files or remove the sample from the class table")
    gaps = max(raw.names) - min(raw.names) + 1 - len(raw.names)
    if gaps:
        warnings.warn(f"{root / 'raw'}: {gaps} slice numbers are missing; neighbours are joined", stacklevel=2)
    return raw, list_slices(root / "mask")


def _stamp(raw: SliceFiles, mask: SliceFiles) -> str:
    return sha256_json([[list(part.names.values()), part.size, part.newest] for part in (raw, mask)])


def _volume(root: Path, entry: dict[str, Any]) -> Volume:
    depth, height, width = entry["shape"]
    rest = {key: value for key, value in entry.items() if key not in ("shape", "raw", "mask")}
    return Volume(root=root, shape=(depth, height, width), raw=tuple(entry["raw"]), mask=tuple(entry["mask"]), **rest)


def _scan(root: Path, raw: SliceFiles, mask: SliceFiles) -> Volume:
    """Decode all slices of a nucleus once: check and hash them."""
    content = hashlib.sha256()
    low, high, non_finite = np.inf, -np.inf, 0
    shape: tuple[int, ...] = ()
    dtype = ""
    for values in _alike(root / "raw", list(raw.names.values()), None):
        shape, dtype = values.shape, values.dtype.name
        if dtype not in DTYPES:
            raise UserError(f"{root / 'raw'}: slices of dtype {dtype}; convert them to one of {', '.join(DTYPES)}")
        content.update(np.ascontiguousarray(values).data)
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            non_finite += int(values.size - finite.sum())
            values = np.where(finite, values, 0)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    masks = [mask.names.get(number) for number in raw.names]
    for values in _alike(root / "mask", [name for name in masks if name], shape):
        content.update(np.packbits(values > 0).data)
    content.update(repr((len(masks), shape, dtype, [name is None for name in masks])).encode())
    return Volume(
        root=root,
        shape=(len(masks), shape[0], shape[1]),
        dtype=dtype,
        raw=tuple(raw.names.values()),
        mask=tuple(masks),
        sha256=content.hexdigest(),
        low=low,
        high=high,
        non_finite=non_finite,
    )


def _alike(folder: Path, names: Sequence[str], shape: tuple[int, ...] | None) -> Iterator[npt.NDArray[Any]]:
    """Decode slices and refuse one that differs in shape or dtype from the first."""
    dtype: np.dtype[Any] | None = None
    for name in names:
        values = read_slice(folder / name)
        shape, dtype = shape or values.shape, dtype or values.dtype
        if values.shape != shape:
            raise UserError(f"{folder / name}: shape {values.shape}, other slices {shape}; all must be equal")
        if values.dtype != dtype:
            raise UserError(f"{folder / name}: dtype {values.dtype}, other slices {dtype}; all must be equal")
        yield values
