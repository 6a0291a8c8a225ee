"""Slices of a nucleus: one single-channel 2-D TIFF per file, whose name is its number along z."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from core.errors import UserError

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class SliceFiles:
    """The slices in one folder.

    Attributes:
        names: Slice number to file name, by ascending number.
        size: Bytes of all files.
        newest: Latest modification time, in nanoseconds.
    """

    names: dict[int, str]
    size: int
    newest: int


def list_slices(folder: Path) -> SliceFiles:
    """List the slices of a folder, ordered by number and not by text.

    Raises:
        UserError: A name is not a whole number, or two names are the same number.
    """
    names: dict[int, str] = {}
    size = newest = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 - a Path per slice would double the time
            if suffix.lower() not in SUFFIXES or stem.startswith("."):
                continue
            if not (stem.isascii() and stem.isdecimal()):
                raise UserError(f"{entry.path}: the name is no slice number; name slices 0000.tif, 0001.tif, ...")
            if (other := names.setdefault(int(stem), entry.name)) != entry.name:
                raise UserError(f"{folder}: {other} and {entry.name} are the same slice; remove one")
            stat = entry.stat()
            size, newest = size + stat.st_size, max(newest, stat.st_mtime_ns)
    return SliceFiles(dict(sorted(names.items())), size, newest)


def read_slice(path: Path) -> npt.NDArray[Any]:
    """Decode one slice, shape [height, width], in the byte order of this machine.

    Raises:
        UserError: The file is missing, cut short or damaged, or holds several pages or channels.
    """
    try:
        with tifffile.TiffFile(path) as file:
            pages = len(file.pages)
            page = file.pages.first
            shape = page.shape
            ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
            whole = max(ends, default=0) <= file.filehandle.size
            values = page.asarray() if pages == 1 and len(shape) == 2 and whole else None
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such slice; restore the file") from error
    except Exception as error:  # tifffile and its codecs let through whatever a damaged byte brings about
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a readable TIFF file ({said}); restore the file") from error
    if pages != 1 or len(shape) != 2:
        raise UserError(f"{path}: {pages} pages of shape {shape}; a slice is one single-channel 2-D image")
    if values is None or values.shape != shape:
        raise UserError(f"{path}: the TIFF file is cut short; restore the file")
    return np.asarray(values.astype(values.dtype.newbyteorder("="), copy=False))
