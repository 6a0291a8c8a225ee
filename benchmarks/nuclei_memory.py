"""What memory training takes when the data is far larger: 500 nuclei of 128 x 512 x 512 voxels, 17 GB of slices.

Run `python -m benchmarks.nuclei_memory` from the repository root. The nuclei are made in a new folder below `--folder`
and removed afterwards; `python -m centralized configs/vgg3d.yaml` indexes all of them and trains on crops of 80 voxels
out of random nuclei. Printed are the peak of the resident memory of the command and all its processes, sampled every
0.1 s, the peak that the system recorded for the largest of them, and seconds. The limit is 2 GB; exit code 1 above it.
"""

import io
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import psutil
import tifffile
import typer
from rich.console import Console
from rich.table import Table

from core.files import make_folder, write_text
from core.progress import bar
from core.randomness import generator

SHAPE = (128, 512, 512)
CLASSES = ("Glia", "Granular", "Clumped", "Diffuse")
CLIENTS = 3
LIMIT_MB = 2000
CROP = 80


def write_nuclei(folder: Path, count: int, shape: tuple[int, int, int] = SHAPE) -> None:
    """Write nuclei that all differ and hardly compress, and their class table.

    Every slice is a block of noise, shifted and scaled by a draw of the nucleus; masks are cylinders, compressed.
    """
    noise = generator(0, "noise").integers(0, 256, shape, dtype=np.uint8)
    mask = _tiff(_disc(shape[1:]), compression="zlib")
    rows = ["class_id,class_name,sample_id,site"]
    for number in bar(range(1, count + 1), count, "writing nuclei"):
        random = generator(0, "nucleus", number)
        levels = np.rint(np.arange(256) * random.uniform(0.5, 1)).astype(np.uint8)
        shift = tuple(int(random.integers(length)) for length in shape)
        root = folder / f"{number:04d}"
        raw_folder, mask_folder = make_folder(root / "raw"), make_folder(root / "mask")
        for z in range(shape[0]):
            values = np.roll(noise[(z + shift[0]) % shape[0]], shift[1:], axis=(0, 1))
            tifffile.imwrite(raw_folder / f"{z:04d}.tif", levels[values])
            (mask_folder / f"{z:04d}.tif").write_bytes(mask)
        kind = number % len(CLASSES)
        rows.append(f"{kind + 1},{CLASSES[kind]},{number:04d},site_{number // len(CLASSES) % CLIENTS}")
    write_text(folder / "classes.csv", "\n".join(rows) + "\n")


def _disc(shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    y, x = (np.linspace(-1, 1, length) for length in shape)
    return np.where(y[:, None] ** 2 + x**2 < 1, 255, 0).astype(np.uint8)


def _tiff(values: npt.NDArray[np.uint8], compression: str) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, compression=compression)
    return stream.getvalue()


def _resident_mb(process: psutil.Process) -> float:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def _watch(command: list[str]) -> Iterator[float]:
    """Run a command and give its resident memory every 0.1 s until it ends."""
    with subprocess.Popen(command) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                yield _resident_mb(process)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
    if running.returncode:
        raise typer.Exit(code=running.returncode)


def main(
    nuclei: Annotated[int, typer.Option(help="Number of nuclei, at least 24.")] = 500,
    steps: Annotated[int, typer.Option(help="Batches per epoch, in training and evaluation.")] = 40,
    workers: Annotated[int, typer.Option(help="Loader processes.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Where the data is made for the time being.")] = None,
) -> None:
    """Make the data, train on it through the real command, and print the peak of its memory."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        data = make_folder(Path(name) / "nuclei")
        start = time.perf_counter()
        write_nuclei(data, nuclei)
        made = time.perf_counter() - start
        size = sum(path.stat().st_size for path in data.rglob("*.tif")) / 1e9
        overrides = [
            f"options.data={data}",
            f"options.crop_size=[{CROP},{CROP},{CROP}]",
            "options.margin=10",
            "train.batch_size=4",
            "train.eval_batch_size=4",
            "train.epochs=2",
            f"train.limit_batches={steps}",
            f"train.loader_workers={workers}",
            f"--results={Path(name) / 'results'}",
        ]
        start = time.perf_counter()
        resident = list(_watch([sys.executable, "-m", "centralized", "configs/vgg3d.yaml", *overrides]))
        trained = time.perf_counter() - start
        shutil.rmtree(data)
    recorded = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    table = Table("figure", "value", title=f"{nuclei} nuclei of {' x '.join(map(str, SHAPE))} voxels, {size:.1f} GB")
    table.add_row("peak of resident memory, all processes, MB", f"{max(resident):,.0f}")
    table.add_row("peak recorded for the largest process, MB", f"{recorded:,.0f}")
    table.add_row("limit, MB", f"{LIMIT_MB:,}")
    table.add_row("making the data, s", f"{made:.0f}")
    table.add_row("indexing and training, s", f"{trained:.0f}")
    Console().print(table)
    raise typer.Exit(code=int(max(*resident, recorded) > LIMIT_MB))


if __name__ == "__main__":
    typer.run(main)
