"""Square patches of segmented images as samples: about rosettes and anywhere for training, about the centre else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import UserError
from core.randomness import torch_generator
from datasets.rosette_augmentation import Augmentation, augment

Corner = tuple[int, int]
"""Row and column of the first pixel of a patch."""


class Image(Protocol):
    """An image that gives parts of itself."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    @property
    def rosette(self) -> npt.NDArray[np.bool_]:
        """Whether each pixel is in a rosette, shape [H, W]."""
        ...

    def crop_channels(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Give the channels of a window, [C, h, w]."""
        ...

    def crop_target(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Give the target of a window, [1, h, w]."""
        ...


@dataclass(eq=False)
class CentrePatches:
    """The patch about the centre of each image; nothing is drawn.

    Samples hold `channels` [C, P, P], `target` [1, P, P] and `valid` [1, P, P], float32. A side of the image that is
    shorter than the patch is filled up with zeros at the bottom or the right, where `valid` is 0; elsewhere it is 1.

    Attributes:
        images: The images.
        names: Ids of the images.
        units: Unit of each image, such as the animal.
        size: Pixels per side, P; any number, since the network pads what it cannot halve four times.
    """

    images: Sequence[Image]
    names: Sequence[str]
    units: Sequence[str]
    size: int = 512

    def __post_init__(self) -> None:
        """Check the size.

        Raises:
            UserError: It is not positive.
        """
        if self.size < 1:
            raise UserError(f"patch_size = {self.size}: no patch has that size; give a number of pixels above 0")

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give the patch of one image.

        Raises:
            UserError: The image cannot be read.
        """
        return cut(self.images[index], self._corner(index), self.size)

    def _corner(self, index: int) -> Corner:
        return centre_corner(self.images[index].shape, self.size)


@dataclass(eq=False)
class Patches(CentrePatches):
    """A patch of each image, cut and changed anew in every epoch; for training alone.

    What is drawn is a pure function of the epoch's seed and the name of the image: the same in whatever order and in
    whichever worker. A pool has a seed of its own, so its draws are not those of its clients.

    Attributes:
        anywhere: Probability of a patch anywhere in the image instead of about a rosette.
        augmentation: How patches are changed; not at all if None.
    """

    anywhere: float = 0.3
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        """Check size and probability, and start with the seed 0.

        Raises:
            UserError: The size is not positive, or the probability not within 0 and 1.
        """
        super().__post_init__()
        if not 0 <= self.anywhere <= 1:
            raise UserError(f"anywhere = {self.anywhere}: not a probability; give a number from 0 to 1")
        self.seed = 0

    def reseed(self, seed: int) -> None:
        """Take the seed of an epoch."""
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give a patch of one image.

        Raises:
            UserError: The image cannot be read.
        """
        patch = super().__getitem__(index)
        if self.augmentation is None:
            return patch
        return augment(patch, self.augmentation, torch_generator(self.seed, "augmentation", self.names[index]))

    def _corner(self, index: int) -> Corner:
        random = torch_generator(self.seed, "patch", self.names[index])
        return draw_corner(self.images[index], self.size, self.anywhere, random)


def draw_corner(image: Image, size: int, anywhere: float, random: torch.Generator) -> Corner:
    """Draw where a patch begins: about a pixel of a rosette, or anywhere.

    Args:
        image: What is cut.
        size: Pixels per side.
        anywhere: Probability of a window anywhere, each as likely; where there is no rosette it is 1. Else all pixels
            of rosettes are as likely to be in the centre.
        random: Source of the draws.
    """
    if torch.rand((), generator=random).item() >= anywhere:
        rosette = image.rosette
        pixels = np.flatnonzero(rosette)
        if len(pixels):
            row, column = divmod(int(pixels[_below(len(pixels), random)]), rosette.shape[1])
            return corner_about(row, column, image.shape, size)
    top, left = (_below(max(length - size, 0) + 1, random) for length in image.shape)
    return top, left


def corner_about(row: int, column: int, shape: tuple[int, int], size: int) -> Corner:
    """Give the corner of the patch about a pixel, as far as the image reaches; 0 along a side that is too short."""
    height, width = shape
    return _clamped(row - size // 2, height - size), _clamped(column - size // 2, width - size)


def centre_corner(shape: tuple[int, int], size: int) -> Corner:
    """Give the corner of the patch about the centre of an image; 0 along a side that is too short."""
    height, width = shape
    return max((height - size) // 2, 0), max((width - size) // 2, 0)


def cut(image: Image, corner: Corner, size: int) -> dict[str, Tensor]:
    """Cut a patch out, filled up with zeros to its size.

    Returns:
        `channels` [C, P, P], `target` [1, P, P] and `valid` [1, P, P].
    """
    rows, columns = (slice(first, first + size) for first in corner)
    channels, target = image.crop_channels(rows, columns), image.crop_target(rows, columns)
    return {
        "channels": _filled_up(channels, size),
        "target": _filled_up(target, size),
        "valid": _filled_up(np.ones_like(target), size),
    }


def _filled_up(values_CHW: npt.NDArray[Any], size: int) -> Tensor:
    height, width = values_CHW.shape[1:]
    filled = np.zeros((len(values_CHW), size, size), dtype=np.float32)
    filled[:, :height, :width] = values_CHW
    return torch.from_numpy(filled)


def _below(end: int, random: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=random))


def _clamped(value: int, high: int) -> int:
    return max(0, min(value, high))
