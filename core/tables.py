"""Tables that are written as they are computed, so that their length costs no memory."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

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


def _texts(values: np.ndarray) -> list[object]:
    if not np.issubdtype(values.dtype, np.floating):
        return list(values.tolist())
    # As many digits as the type holds, and no more: 0.1 in float32 is no 0.10000000149011612.
    return ["" if np.isnan(value) else str(value) for value in values]
