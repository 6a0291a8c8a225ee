"""HDF5 files of segmented tissue, one image each, in any of the three layouts that were written over the years.

Indexing a file reads names, types and shapes; a layer is decoded when it is asked for.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from core.errors import UserError, one_line

Generation = Literal["layers", "stack", "patches"]
"""One dataset per layer; one dataset of four planes; or masks beside patches that were cut from them."""
Layer = Literal["labels", "target", "instances", "intensity"]

PLANES: tuple[Layer, ...] = ("labels", "target", "instances", "intensity")
"""Order of the layers within a stack."""
DATASETS: Mapping[Generation, Mapping[Layer, tuple[str, ...]]] = {
    "layers": {
        "labels": ("segmentation_outlines",),
        "target": ("rosettes_binary",),
        "instances": ("rosettes_individual",),
        "intensity": ("raw_data", "raw_image"),
    },
    "stack": dict.fromkeys(PLANES, ("data",)),
    "patches": {
        "labels": ("mask",),
        "target": ("rosette_mask",),
        "instances": (),
        "intensity": ("raw_image", "raw_data"),
    },
}
"""Names that a layer may have, by generation in the order in which they are looked for."""
REMEDIES: Mapping[Layer, str] = {
    "labels": "the labels of the cells are needed, add them",
    "target": "the annotated rosettes are needed, add them or leave the file out",
    "intensity": "use_intensity asks for it, add it or set use_intensity to false",
}
EXPECTED = "segmentation_outlines and rosettes_binary, or data of shape (4, H, W), or mask and rosette_mask"


@dataclass(frozen=True)
class RosetteFile:
    """What one file holds.

    Attributes:
        path: The file.
        generation: Its layout.
        shape: Height and width of all layers, in pixels.
        datasets: Name of the dataset of each layer that is there.
    """

    path: Path
    generation: Generation
    shape: tuple[int, int]
    datasets: Mapping[Layer, str]

    @classmethod
    def open(cls, path: Path, *, use_intensity: bool = False, require_target: bool = True) -> "RosetteFile":
        """Look into a file without decoding it.

        Args:
            path: The file.
            use_intensity: Whether it must hold the intensity.
            require_target: Whether it must hold the annotated rosettes; false for new data.

        Raises:
            UserError: It is no HDF5 file, cut short, of an unknown layout, lacks a layer that is needed, or its layers
                are no images of one shape. The message names the file.
        """
        with _opened(path) as file:
            generation = _generation(path, file)
            datasets = _datasets(file, generation)
            needed: dict[Layer, bool] = {"labels": True, "target": require_target, "intensity": use_intensity}
            for layer, wanted in needed.items():
                if wanted and layer not in datasets:
                    names = " or ".join(DATASETS[generation][layer])
                    raise UserError(f"{path}: no dataset {names}; {REMEDIES[layer]}")
            shapes = {name: _image_shape(path, file, name, generation) for name in datasets.values()}
        first = datasets["labels"]
        for name, shape in shapes.items():
            if shape != shapes[first]:
                raise UserError(
                    f"{path}: {name} has {shape[0]} x {shape[1]} pixels but {first} {shapes[first][0]} x "
                    f"{shapes[first][1]}; all layers of an image have one shape, write the file anew"
                )
        return cls(path, generation, shapes[first], datasets)

    def read(self, layer: Layer) -> npt.NDArray[Any]:
        """Decode a layer that is there.

        Returns:
            Shape [H, W]: labels and instances int32, with 0 for background; target bool; intensity float32 as stored.

        Raises:
            UserError: It cannot be read, holds values that are not finite, or labels that are no whole numbers.
        """
        name = self.datasets[layer]
        with _opened(self.path) as file:
            stored = file[name]
            plane = (PLANES.index(layer),) if self.generation == "stack" else ()
            values = stored[(0,) * (stored.ndim - 2 - len(plane)) + plane]
        if values.shape != self.shape:
            raise UserError(f"{self.path}: {name} has changed since it was looked at; start the command again")
        if not np.isfinite(values).all():
            raise UserError(f"{self.path}: {layer} in {name} holds NaN or infinite values; write the file anew")
        if layer == "target":
            return np.asarray(values > 0)
        if layer == "intensity":
            return np.asarray(values, dtype=np.float32)
        with np.errstate(invalid="ignore"):
            labels = values.astype(np.int32)
        if (labels != values).any():
            raise UserError(f"{self.path}: {layer} in {name} are no whole numbers of 32 bits; write the file anew")
        return np.asarray(labels)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading, and name it where that or what is done with it fails."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except (OSError, KeyError, RuntimeError, ValueError) as error:  # h5py's, for files that are cut short or damaged
        raise UserError(f"{path}: not a readable HDF5 file ({one_line(error)}); restore the file") from error


def _generation(path: Path, file: h5py.File) -> Generation:
    for layer in PLANES[:2]:
        for generation, names in DATASETS.items():
            if any(name in file for name in names[layer]):
                return generation
    held = ", ".join(file) or "nothing"
    raise UserError(f"{path}: unknown layout, it holds {held}; expected {EXPECTED}")


def _datasets(file: h5py.File, generation: Generation) -> dict[Layer, str]:
    found: dict[Layer, str] = {}
    for layer, names in DATASETS[generation].items():
        for name in names:
            if name in file:
                found.setdefault(layer, name)
    return found


def _image_shape(path: Path, file: h5py.File, name: str, generation: Generation) -> tuple[int, int]:
    """Give height and width of a dataset, which may have leading axes of length one."""
    stored, planes = file[name], (len(PLANES),) if generation == "stack" else ()
    expected = "(4, height, width)" if planes else "(height, width)"
    if not isinstance(stored, h5py.Dataset) or stored.dtype.kind not in "biuf":
        raise UserError(f"{path}: {name} is no array of numbers; expected one of shape {expected}")
    shape: tuple[int, ...] = stored.shape or ()
    axes = len(planes) + 2
    single = all(length == 1 for length in shape[:-axes])
    if len(shape) < axes or not single or shape[-axes:-2] != planes or 0 in shape:
        raise UserError(f"{path}: {name} has shape {shape}; expected {expected}, after axes of length one if any")
    return int(shape[-2]), int(shape[-1])
