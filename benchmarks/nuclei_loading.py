"""How fast crops of nuclei are read: only the slices a crop needs, through a cache, against the whole stack per crop.

Run `python -m benchmarks.nuclei_loading` from the repository root. All ways read the same crops of 80 voxels of the
same nuclei of 128 x 512 x 512 voxels, raw alone; the files are in the cache of the system for all of them. "shuffled"
is the order of training, "nucleus by nucleus" that of evaluation.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.nuclei_memory import CROP, SHAPE, write_nuclei
from core.randomness import generator
from datasets.array_cache import DEFAULT_BYTES, process_cache
from datasets.nuclei_blocks import Triple, read_raw
from datasets.nuclei_index import Volume, index_volumes
from datasets.nuclei_positions import grid
from datasets.nuclei_slices import read_slice
from datasets.nuclei_transforms import Values

SIZE: Triple = (CROP, CROP, CROP)
Where = tuple[Volume, Triple]


def _whole_stack(volume: Volume, start: Triple, size: Triple) -> Values:
    """Read all slices and cut the crop out of them, as published."""
    stack = np.stack([read_slice(volume.root / "raw" / name) for name in volume.raw])
    part = stack[tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))]
    block = np.zeros(size, dtype=np.float32)
    block[: part.shape[0], : part.shape[1], : part.shape[2]] = part
    return block


def _measure(read: Callable[[Volume, Triple, Triple], Values], crops: Sequence[Where], limit: int) -> tuple[float, str]:
    """Give crops per second, and a hash of all that was read."""
    cache = process_cache()
    cache.clear()
    cache.limit = limit
    content = hashlib.sha256()
    seconds = 0.0
    for volume, start in crops:
        begin = time.perf_counter()
        block = read(volume, start, SIZE)
        seconds += time.perf_counter() - begin
        content.update(block.data)
    return len(crops) / seconds, content.hexdigest()


def main(
    nuclei: Annotated[int, typer.Option(help="Number of nuclei; 40 are 1.3 GB, five times the cache.")] = 40,
    crops: Annotated[int, typer.Option(help="Crops read in every way.")] = 200,
    folder: Annotated[Path | None, typer.Option(help="Where the data is made for the time being.")] = None,
) -> None:
    """Print crops per second of every way and order, and their ratio to reading the whole stack."""
    table = Table("order", "way", "crops/s", "ratio", "same crops", title=f"{nuclei} nuclei, {crops} crops of {CROP}^3")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        data = Path(name)
        write_nuclei(data, nuclei, SHAPE)
        volumes = index_volumes(data, [f"{number:04d}" for number in range(1, nuclei + 1)])
        places = [(volume, crop.start) for volume in volumes.values() for crop in grid(volume.shape, SIZE)]
        drawn = generator(0, "shuffle").permutation(len(places))
        orders = {"shuffled": [places[place] for place in drawn.tolist()], "nucleus by nucleus": places}
        for order, chosen in orders.items():
            rival, expected = _measure(_whole_stack, chosen[:crops], 0)
            table.add_row(order, "whole stack per crop", f"{rival:.1f}", "1.0", "")
            for way, limit in (("needed slices", 0), ("needed slices, 256 MiB cache", DEFAULT_BYTES)):
                rate, content = _measure(read_raw, chosen[:crops], limit)
                same = "yes" if content == expected else "NO"
                table.add_row(order, way, f"{rate:.1f}", f"{rate / rival:.1f}", same)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
