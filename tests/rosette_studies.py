"""Small rosette files in each layout, and studies of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

NAMES = {
    "layers": ("segmentation_outlines", "rosettes_binary", "rosettes_individual", "raw_data"),
    "patches": ("mask", "rosette_mask", None, "raw_image"),
}


def layers(height: int = 6, width: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Labels, target, instances and intensity of a made-up image."""
    random = np.random.default_rng(seed)
    labels = np.kron(random.integers(0, 5, (-(-height // 2), -(-width // 2))), np.ones((2, 2)))[:height, :width]
    instances = np.where(labels > 2, labels - 2, 0)
    intensity = random.integers(0, 4000, (height, width))
    return {
        "labels": labels.astype(np.uint16),
        "target": (instances > 0).astype(np.uint8) * 3,
        "instances": instances.astype(np.uint16),
        "intensity": intensity.astype(np.uint16),
    }


def write(path: Path, datasets: Mapping[str, Any], **options: Any) -> Path:
    """Write datasets by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, **options)
    return path


def write_as(path: Path, generation: str, made: Mapping[str, np.ndarray]) -> Path:
    """Write an image in one of the three layouts."""
    if generation == "stack":
        return write(path, {"data": np.stack(list(made.values()))})
    named = {name: values for name, values in zip(NAMES[generation], made.values(), strict=True) if name is not None}
    if generation == "patches":
        named |= {"patches": np.zeros((2, 3, 3), np.uint8), "patch_labels": np.zeros(2, np.int64)}
    return write(path, named)


def write_study(folder: Path, ids: Sequence[str], **shape: int) -> Path:
    """Write a folder per sample, each with an image of its own."""
    for number, name in enumerate(ids):
        write_as(folder / name / f"processed_data_{name}.h5", "layers", layers(seed=number, **shape))
    return folder


def sample_ids(replicates: Sequence[str] = ("R1", "R2", "R3"), animals: int = 4, images: int = 2) -> list[str]:
    """Ids of a study in which each replicate has animals 1, 2, ... with several images each."""
    return [
        f"{replicate}_T4_{animal}_{image:04d}"
        for replicate in replicates
        for animal in range(1, animals + 1)
        for image in range(1, images + 1)
    ]
