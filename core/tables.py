"""Tables and arrays that are written as they are computed, so that their length costs no memory."""

import contextlib
import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from core.files import atomic


def write_table(path: Path, parts: Iterable[Mapping[str, np.ndarray]]) -> Path:
    """Write a CSV from its parts, each a mapping of the same columns to values per row; NaN stays empty.

    Returns:
        The path, where the table stands only once it is whole.
    """
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for number, part in enumerate(parts):
            if number == 0:
                writer.writerow(part)
            writer.writerows(zip(*(_texts(values) for values in part.values()), strict=True))
    return path


@contextlib.contextmanager
def growing_array(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that appends rows to a .npy file, which stands only once the block has ended well."""
    shape: tuple[int, ...] = (0,)
    dtype = np.dtype(np.float32)
    with atomic(path) as temporary, temporary.open("wb") as stream:
        _write_header(stream, shape, dtype)

        def append(rows: np.ndarray) -> None:
            nonlocal shape, dtype
            shape, dtype = (shape[0] + len(rows), *rows.shape[1:]), rows.dtype
            stream.write(rows.tobytes())

        yield append
        stream.seek(0)
        _write_header(stream, shape, dtype)


def _write_header(stream: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Write the header of an array; numpy leaves room for its first axis to grow, so its length stays."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _texts(values: np.ndarray) -> list[object]:
    if not np.issubdtype(values.dtype, np.floating):
        return list(values.tolist())
    # As many digits as the type holds, and no more: 0.1 in float32 is no 0.10000000149011612.
    return ["" if np.isnan(value) else str(value) for value in values]
