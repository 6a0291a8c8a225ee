"""Whether loading holds up training: patches of 512 cut and changed by one worker, against the steps they feed.

Run `python -m benchmarks.rosette_augmentation` from the repository root. Images of 1024 x 1024 pixels are made in a
temporary folder, as HDF5 files compressed by gzip, and are in the cache of the system when they are read; the worker
decodes each of them once per epoch. The step is forward, backward and AdamW of the network at its full widths, on one
thread of the CPU.

Seconds are those for which a core was busy, with the worker or with the step: on a free core they are what passes, and
on a shared machine the figures stay comparable. No GPU is used: what loading would be beside one is worked out from a
step that is assumed to take `--gpu-step` seconds.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import h5py
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

from core.randomness import generator, seeded_torch
from datasets.rosette_augmentation import Augmentation
from datasets.rosette_channels import RosetteImage
from datasets.rosette_patches import Patches
from models.attention_unet import AttentionUNet
from models.segmentation_loss import BceDice
from training.device import threads
from training.loading import load_batches, shuffled_batches
from training.task import Batch

SIDE, PATCH, BATCH = 1024, 512, 4
CELLS = 2500
ROSETTE = 24
"""Radius in pixels."""

WAYS: dict[str, Augmentation | None] = {
    "cut alone": None,
    "default probabilities": Augmentation(),
    "every change": Augmentation(1, 1, 1, 1, 1, 1),
}


def write_images(folder: Path, count: int) -> list[RosetteImage]:
    """Write images of cells about random points, with five round rosettes each; all are one image, rolled."""
    random = generator(0, "images")
    rows, columns = np.mgrid[:SIDE, :SIDE]
    points = random.uniform(0, SIDE, (CELLS, 2))
    _, nearest = cKDTree(points).query(np.stack([rows.ravel(), columns.ravel()], axis=1))
    labels = (nearest.reshape(SIDE, SIDE) + 1).astype(np.int32)
    centres = random.uniform(0, SIDE, (5, 2))
    rosettes = np.any([np.hypot(rows - row, columns - column) < ROSETTE for row, column in centres], axis=0)
    images = []
    for number in range(count):
        path = folder / f"processed_data_R1_T1_1_{number:04d}.h5"
        shift = random.integers(0, SIDE, 2).tolist()
        with h5py.File(path, "w") as file:
            for name, plane in (("segmentation_outlines", labels), ("rosettes_binary", rosettes.astype(np.uint8))):
                file.create_dataset(name, data=np.roll(plane, shift, (0, 1)), compression="gzip")
        images.append(RosetteImage.open(path))
    return images


def busy_seconds() -> float:
    """Give the processor time of all workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_per_batch(samples: Patches, epochs: int) -> float:
    """Load epochs by one worker each, whose start counts."""
    begin, count = busy_seconds(), 0
    for epoch in range(epochs):
        samples.reseed(epoch)
        batches = shuffled_batches(len(samples), BATCH, 0, "client", epoch)
        count += sum(1 for _ in load_batches(samples, batches, 1, 0, "client", epoch))
    return (busy_seconds() - begin) / count


def seconds_per_step(batch: Batch, steps: int) -> float:
    """Train on one batch."""
    with seeded_torch(0, "network"):
        network = AttentionUNet()
    optimizer, loss = torch.optim.AdamW(network.parameters()), BceDice()
    begin = time.process_time()
    for _ in range(steps):
        total, _ = loss.from_logits(network(batch["channels"]), batch["target"], batch["valid"])
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - begin) / steps


def main(
    images: Annotated[int, typer.Option(help="Images, each one patch per epoch; 48 are 12 batches.")] = 48,
    epochs: Annotated[int, typer.Option(help="Epochs of each way.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of the network.")] = 1,
    gpu_step: Annotated[float, typer.Option(help="Seconds a step is assumed to take on a GPU.")] = 0.15,
) -> None:
    """Print batches per second of every way, and how many times longer than a batch the steps take."""
    title = f"{images} images of {SIDE}^2, batches of {BATCH} patches of {PATCH}^2, one worker"
    with tempfile.TemporaryDirectory() as name, threads(1):
        opened = write_images(Path(name), images)
        names = [image.file.path.stem for image in opened]
        ways = {way: Patches(opened, names, names, PATCH, augmentation=change) for way, change in WAYS.items()}
        loaded = {way: seconds_per_batch(samples, epochs) for way, samples in ways.items()}
        (batch,) = load_batches(ways["default probabilities"], [list(range(BATCH))], 0, 0)
        step = seconds_per_step(batch, steps)
    table = Table("patches", "batches/s", "CPU step / batch", "GPU step / batch", title=title)
    for way, seconds in loaded.items():
        table.add_row(way, f"{1 / seconds:.1f}", f"{step / seconds:.0f}", f"{gpu_step / seconds:.1f}")
    Console().print(table)
    Console().print(f"step on one thread: {step:.1f} s; step on a GPU: {gpu_step:g} s, assumed and not measured")


if __name__ == "__main__":
    typer.run(main)
