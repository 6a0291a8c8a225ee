"""Made-up nuclei in 3-D electron microscopy from three institutes, and from a fourth that is held out.

Chromatin is band-limited noise; classes differ in grain, in how much of it is condensed, and in condensation at the
rim. On top of it come what makes real studies hard: every institute has its own brightness and contrast, nuclei of a
class differ, and the institutes see the classes in different proportions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

from core.errors import UserError
from core.files import make_folder, refuse_occupied, write_text
from core.randomness import generator
from datasets.nuclei_table import UNCLASSIFIED_ID, UNCLASSIFIED_NAME

NEXT = "python compare.py configs/vgg3d.yaml options.data={directory}"

CLASS_TABLE = "classes.csv"
SHAPE = (32, 48, 48)
NUCLEI_PER_SITE = 18
GRAIN_SPREAD = 0.06
DENSITY_SPREAD = 0.12
NOISE = 0.1


@dataclass(frozen=True)
class Chromatin:
    """How the chromatin of a class looks.

    Attributes:
        class_id: Number in the class table.
        name: Name in the class table.
        grain: Correlation length in voxels.
        density: Share of condensed voxels.
        rim: Additional share at the rim.
    """

    class_id: int
    name: str
    grain: float
    density: float
    rim: float


@dataclass(frozen=True)
class Site:
    """What an institute does to intensities, `gain * v ** gamma + offset`, and which classes it sees.

    Attributes:
        gain: Contrast.
        offset: Brightness.
        gamma: Exponent.
        proportions: Share of each class.
    """

    gain: float
    offset: float
    gamma: float
    proportions: tuple[float, ...]


CLASSES = (
    Chromatin(1, "Glia", grain=3.0, density=0.4, rim=0.4),
    Chromatin(2, "Granular", grain=0.7, density=0.35, rim=0.0),
    Chromatin(4, "Clumped", grain=1.9, density=0.28, rim=0.0),
    Chromatin(18, "Diffuse", grain=1.2, density=0.5, rim=0.0),
)
HELD_OUT = "held_out"
SITES: Mapping[str, Site] = {
    "institute_north": Site(gain=1.0, offset=0.0, gamma=1.0, proportions=(0.44, 0.22, 0.17, 0.17)),
    "institute_south": Site(gain=0.85, offset=0.12, gamma=0.85, proportions=(0.17, 0.17, 0.44, 0.22)),
    "institute_west": Site(gain=0.85, offset=0.0, gamma=1.25, proportions=(0.17, 0.44, 0.17, 0.22)),
    HELD_OUT: Site(gain=0.9, offset=0.06, gamma=1.1, proportions=(0.25, 0.25, 0.25, 0.25)),
}


def make(
    directory: Path,
    seed: int = 0,
    nuclei_per_site: int = NUCLEI_PER_SITE,
    shape: tuple[int, int, int] = SHAPE,
) -> None:
    """Write a study: `0001/raw/0000.tif`, `0001/mask/0000.tif`, ... and `classes.csv` with a column `site`.

    Nuclei of the site `held_out` belong to nobody; one nucleus more is unclassified. Slices are 8 bit, masks are
    compressed.

    Args:
        directory: A folder that is missing or empty.
        seed: The same seed gives the same study.
        nuclei_per_site: Nuclei of each of the four sites.
        shape: Depth, height, width in voxels.

    Raises:
        UserError: The folder holds something, cannot be written to, or there are too few nuclei.
    """
    refuse_occupied(directory)
    if nuclei_per_site < 2 * len(CLASSES):
        raise UserError(f"nuclei_per_site: {nuclei_per_site} is too few; give at least {2 * len(CLASSES)}")
    make_folder(directory)
    planned = [(site, kind) for site in SITES for kind in _kinds(seed, site, nuclei_per_site)]
    planned.append(("institute_north", Chromatin(UNCLASSIFIED_ID, UNCLASSIFIED_NAME, 1.5, 0.4, 0.1)))
    lines = ["class_id,class_name,sample_id,site"]
    for number in generator(seed, "order").permutation(len(planned)).tolist():
        site, kind = planned[number]
        sample = f"{len(lines):04d}"
        raw, mask = nucleus(kind, SITES[site], shape, generator(seed, "nucleus", number))
        _write(directory / sample, raw, mask)
        lines.append(f"{kind.class_id},{kind.name},{sample},{site}")
    write_text(directory / CLASS_TABLE, "\n".join(lines) + "\n")


def nucleus(
    kind: Chromatin, site: Site, shape: tuple[int, int, int], random: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one nucleus as an institute records it: 8-bit volume and mask (255 inside), both of this shape."""
    depth = _depth_below_surface(shape, random)
    inside = depth > 0
    rim = np.exp(-((depth / 0.12) ** 2)) * inside
    density = kind.density * math.exp(random.normal(0, DENSITY_SPREAD))
    grain = kind.grain * math.exp(random.normal(0, GRAIN_SPREAD))
    condensed = _sharp(_band(shape, grain, random), density) * (1 - kind.rim * rim) + kind.rim * rim
    cytoplasm = 0.55 + 0.06 * _band(shape, 3.0, random)
    value = np.where(inside, 0.8 - 0.55 * condensed, cytoplasm) + random.normal(0, NOISE, shape)
    recorded = site.gain * random.normal(1, 0.05) * np.clip(value, 0, 1) ** site.gamma + site.offset
    return np.rint(255 * np.clip(recorded, 0, 1)).astype(np.uint8), np.where(inside, 255, 0).astype(np.uint8)


def _kinds(seed: int, site: str, count: int) -> list[Chromatin]:
    """Give the classes of a site's nuclei: the nearest whole numbers to its proportions, at least one of each."""
    shares = np.asarray(SITES[site].proportions)
    numbers = np.maximum(1, np.floor(shares * count)).astype(int)
    for place in np.argsort(numbers - shares * count, kind="stable")[: count - int(numbers.sum())]:
        numbers[place] += 1
    return [kind for kind, number in zip(CLASSES, numbers.tolist(), strict=True) for _ in range(number)]


def _depth_below_surface(shape: tuple[int, int, int], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Give 1 at the centre of an ellipsoid that nearly fills the volume, 0 on its surface, less outside."""
    axes = [np.linspace(-1, 1, length) for length in shape]
    radii = random.uniform(1.15, 1.35, 3)
    squares = [(axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)]
    return np.asarray(1 - np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2]))


def _band(shape: tuple[int, int, int], grain: float, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw smooth noise of a correlation length, with mean 0 and deviation 1."""
    field = ndimage.gaussian_filter(random.standard_normal(shape), grain, mode="wrap")
    return np.asarray((field - field.mean()) / field.std())


def _sharp(field: npt.NDArray[np.float64], density: float) -> npt.NDArray[np.float64]:
    """Condense the highest values: near 1 for a share of the voxels, near 0 elsewhere."""
    threshold = np.quantile(field, 1 - min(density, 0.95))
    return np.asarray(1 / (1 + np.exp(-8 * (field - threshold))))


def _write(folder: Path, raw: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> None:
    for name in ("raw", "mask"):
        make_folder(folder / name)
    for number, (values, inside) in enumerate(zip(raw, mask, strict=True)):
        tifffile.imwrite(folder / "raw" / f"{number:04d}.tif", values)
        tifffile.imwrite(folder / "mask" / f"{number:04d}.tif", inside, compression="zlib")
