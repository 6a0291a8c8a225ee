"""Images of segmented tissue as a network sees them: where cells meet, where cells are, and if asked for how bright.

By default a network sees the geometry of the cells alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datasets.array_cache import process_cache
from datasets.rosette_files import PLANES, Layer, RosetteFile

WHOLE = slice(None)


@dataclass(frozen=True)
class RosetteImage:
    """One image, decoded when it is asked for; the process keeps what was read last.

    Attributes:
        file: What is on disk.
        use_intensity: Whether there is a third channel.
    """

    file: RosetteFile
    use_intensity: bool = False

    @classmethod
    def open(cls, path: Path, *, use_intensity: bool = False, require_target: bool = True) -> "RosetteImage":
        """Look into a file without decoding it.

        Raises:
            UserError: See `RosetteFile.open`.
        """
        return cls(RosetteFile.open(path, use_intensity=use_intensity, require_target=require_target), use_intensity)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.file.shape

    @property
    def n_channels(self) -> int:
        """Count the channels: boundaries, cells, and with `use_intensity` the intensity."""
        return 3 if self.use_intensity else 2

    @property
    def channels(self) -> npt.NDArray[np.float32]:
        """Channels, shape [C, H, W]."""
        return self.crop_channels(WHOLE, WHOLE)

    @property
    def target(self) -> npt.NDArray[np.float32] | None:
        """1 in rosettes and 0 elsewhere, shape [1, H, W]; None where nobody has annotated them."""
        return self.crop_target(WHOLE, WHOLE) if "target" in self.file.datasets else None

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Number of the cell at each pixel, 0 for background, shape [H, W]; read-only."""
        return self._stored("labels")

    @property
    def instances(self) -> npt.NDArray[np.int32] | None:
        """Number of the rosette at each pixel, 0 for none, shape [H, W], read-only; None where the file has none."""
        return self._stored("instances") if "instances" in self.file.datasets else None

    @property
    def rosette(self) -> npt.NDArray[np.bool_]:
        """Whether each pixel is in a rosette, shape [H, W]; read-only. The file must hold a target."""
        return self._stored("target")

    def crop_channels(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Give the channels of a window, [C, h, w]; intensities are scaled by the maximum of the whole image."""
        geometry_2HW = process_cache().get((self.file.path, "geometry"), lambda _: geometry(self.file.read("labels")))
        cropped = geometry_2HW[:, rows, columns].astype(np.float32)
        if not self.use_intensity:
            return cropped
        brightness = process_cache().get(
            (self.file.path, "brightness"), lambda _: scaled_intensity(self.file.read("intensity"))
        )
        return np.concatenate([cropped, brightness[None, rows, columns]])

    def crop_target(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Give the target of a window, [1, h, w]. The file must hold a target."""
        return self.rosette[None, rows, columns].astype(np.float32)

    def digest(self) -> str:
        """Give a SHA-256 of all layers in use, decoded: the same in each layout, and proof that they can be read."""
        whole = hashlib.sha256(repr((self.shape, self.use_intensity)).encode())
        for layer in PLANES:
            if layer in self.file.datasets and (layer != "intensity" or self.use_intensity):
                whole.update(layer.encode() + self.file.read(layer).tobytes())
        return whole.hexdigest()

    def _stored(self, layer: Layer) -> npt.NDArray[Any]:
        return process_cache().get((self.file.path, layer), lambda _: self.file.read(layer))


def geometry(labels_HW: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Give the boundaries of the cells and the cells, shape [2, H, W]."""
    return np.stack([boundaries(labels_HW), labels_HW > 0])


def boundaries(labels_HW: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Mark each pixel that has another label than one of its four neighbours: thick boundaries, both sides marked.

    These are the pixels where grey dilation by a cross differs from grey erosion ("thick" boundaries of
    scikit-image's `find_boundaries`).
    """
    marked = np.zeros(labels_HW.shape, dtype=bool)
    below = labels_HW[1:] != labels_HW[:-1]
    beside = labels_HW[:, 1:] != labels_HW[:, :-1]
    marked[1:] |= below
    marked[:-1] |= below
    marked[:, 1:] |= beside
    marked[:, :-1] |= beside
    return marked


def scaled_intensity(raw_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Divide by the maximum of the image where that exceeds 1."""
    highest = float(raw_HW.max())
    return np.asarray(raw_HW / np.float32(highest + 1e-8) if highest > 1 else raw_HW, dtype=np.float32)


@dataclass(eq=False)
class WholeImages:
    """Whole images, each of its own size: `channels` [C, H, W] and `target` [1, H, W]; nothing is drawn at random.

    Attributes:
        images: The images.
        names: Ids of the images.
        units: Unit of each image, such as the animal.
        with_target: Whether samples hold the target; else they hold `labels` [H, W], the numbers of the cells.
        at_once: Images in a batch: together they would all take the memory of the largest.
    """

    images: Sequence[RosetteImage]
    names: Sequence[str]
    units: Sequence[str]
    with_target: bool = True
    at_once: ClassVar[int] = 1

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give one image."""
        image = self.images[index]
        known = {"target": image.crop_target(WHOLE, WHOLE)} if self.with_target else {"labels": image.labels.copy()}
        return {name: torch.from_numpy(values) for name, values in {"channels": image.channels, **known}.items()}
