"""Image tiles as tensors: RGB, one size, values in [0, 1], normalised, and for training changed at random."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from core.errors import UserError
from core.randomness import generator
from datasets.array_cache import ArrayCache

EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "La", "RGBa")
"""Pillow's modes with at most eight bits per channel: only those convert to RGB without being clipped."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""


@functools.cache
def tile_cache(size: int) -> ArrayCache:
    """Give this process's decoded tiles of one size; who opens a study sets the limit in bytes."""
    return ArrayCache()


def read_tile(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """Decode an image: alpha dropped, grey repeated, resized to a square by an antialiased bilinear filter.

    Returns:
        Red, green and blue, shape [3, size, size].

    Raises:
        UserError: The file is missing, no image, cut off, or has more than eight bits per channel.
    """
    with _opened(path) as image:
        resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def image_digest(path: Path) -> str:
    """Give the SHA-256 of an image file, having looked whether it is an image that can be used.

    Raises:
        UserError: The file is missing, no image, or has more than eight bits per channel; for PNG also: cut off.
    """
    check_image(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_image(path: Path) -> None:
    """Look whether a file is an image that can be used.

    Raises:
        UserError: As for `image_digest`.
    """
    with _opened(path) as image:
        image.verify()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, and name the file where that or what is done with the image fails."""
    try:
        with Image.open(path) as image:
            if image.mode not in EIGHT_BIT:
                raise UserError(f"{path}: image mode {image.mode} has more than 8 bits a channel; convert it to 8 bits")
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image file; restore it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, for damaged files
        said = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable image ({said}); restore the file or drop its row") from error


def channel_sums(files: Sequence[Path], size: int) -> dict[str, list[float]]:
    """Give pixel count, sum and sum of squares of each channel, of values in 0 ... 255: whole numbers, so exact."""
    total, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for file in files:
        values = tile_cache(size).get(file, lambda path: read_tile(path, size)).astype(np.int64)
        total += values.sum(axis=(1, 2))
        squares += (values**2).sum(axis=(1, 2))
    count = np.full(3, len(files) * size * size)
    named = {"pixels": count, "pixel_sum": total, "pixel_squares": squares}
    return {name: values.astype(np.float64).tolist() for name, values in named.items()}


@dataclass(eq=False)
class Tiles:
    """Tiles: `image` [3, S, S], and where it is known the expression, `target` [K] in original units and `scaled` [K].

    Attributes:
        files: Images.
        names: Ids of the images.
        units: Group of each image, where there are groups.
        size: Pixels per side, S.
        mean: Subtracted from each channel, of values in [0, 1].
        deviation: Each channel is divided by it.
        targets: Shape [N, K], float32; None where nobody knows the expression.
        scaled: The same, scaled as trained on.
    """

    files: Sequence[Path]
    names: Sequence[str]
    units: Sequence[str] | None
    size: int
    mean: Sequence[float]
    deviation: Sequence[float]
    targets: Tensor | None = None
    scaled: Tensor | None = None

    def __len__(self) -> int:
        """Count the tiles."""
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give one tile."""
        pixels = tile_cache(self.size).get(self.files[index], lambda path: read_tile(path, self.size))
        image = self.changed(torch.tensor(pixels).float() / 255, index)
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        known = {"target": self.targets, "scaled": self.scaled}
        expression = {key: values[index] for key, values in known.items() if values is not None}
        return {"image": (image - mean) / deviation, **expression}

    def changed(self, image_3SS: Tensor, index: int) -> Tensor:
        """Give the image as it goes on to normalisation."""
        return image_3SS


@dataclass(eq=False)
class AugmentedTiles(Tiles):
    """Tiles mirrored, turned and coloured anew in each epoch, by a pure function of the epoch's seed and their names.

    Attributes:
        geometry: Whether tiles are mirrored and turned by quarters.
        jitter: Largest relative change of brightness, contrast and saturation.
    """

    geometry: bool = True
    jitter: float = 0.0

    def __post_init__(self) -> None:
        """Start with the seed 0."""
        self.seed = 0

    def reseed(self, seed: int) -> None:
        """Take the seed of an epoch."""
        self.seed = seed

    def changed(self, image_3SS: Tensor, index: int) -> Tensor:
        """Change the image at random."""
        random = generator(self.seed, "tile", self.names[index])
        quarters, mirrored = int(random.integers(4)), bool(random.integers(2))
        factors = 1 + self.jitter * random.uniform(-1, 1, 3)
        if self.geometry:
            image_3SS = torch.rot90(image_3SS.flip(2) if mirrored else image_3SS, quarters, (1, 2))
        return jittered(image_3SS, *factors.tolist()) if self.jitter else image_3SS


def jittered(image_3SS: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Scale brightness, then contrast about the mean grey, then saturation about the grey of each pixel."""
    luma = torch.tensor(LUMA)[:, None, None]
    image_3SS = (image_3SS * brightness).clamp(0, 1)
    mean_grey = (image_3SS * luma).sum(dim=0).mean()
    image_3SS = (mean_grey + contrast * (image_3SS - mean_grey)).clamp(0, 1)
    grey_SS = (image_3SS * luma).sum(dim=0)
    return (grey_SS + saturation * (image_3SS - grey_SS)).clamp(0, 1)
