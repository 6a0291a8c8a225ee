"""Made-up sheets of segmented cells from four replicates, some of which form rosettes.

A sheet is a Voronoi diagram of spaced points. In a rosette a ring of wedge-shaped cells meets in one point; in a
palisade cells are as long, but lie side by side, and that is no rosette. So the outlines of the cells tell what is
one, and no single cell does. On top come what makes real studies hard: replicates differ in the size of cells, in how
often rosettes are and of how many cells, and in how tightly and completely they were annotated; some animals were given
an inhibitor and have fewer of them. The fourth replicate is held out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from core.errors import UserError
from core.files import atomic, refuse_occupied, write_text
from core.randomness import generator

NEXT = "python compare.py configs/attention_unet.yaml options.data={directory}"

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Replicate:
    """What all images of a replicate have in common.

    Attributes:
        spacing: Least distance of cells in pixels, on average over animals.
        cells: Fewest and most cells of a rosette.
        rosettes: Rosettes per image on average, without an inhibitor.
        margin: Pixels by which annotations reach beyond the cells, or stay within them where negative.
        overlooked: Share of rosettes that were not annotated.
        gain: Brightness of membranes.
    """

    spacing: float
    cells: tuple[int, int]
    rosettes: float
    margin: int = 0
    overlooked: float = 0.0
    gain: float = 1500.0


REPLICATES: Mapping[str, Replicate] = {
    "R1": Replicate(spacing=7.5, cells=(6, 8), rosettes=4.5, gain=2400),
    "R2": Replicate(spacing=11.0, cells=(6, 8), rosettes=2.5, margin=1, gain=900),
    "R3": Replicate(spacing=9.0, cells=(7, 9), rosettes=2.5, overlooked=0.1),
    "R4": Replicate(spacing=9.0, cells=(6, 9), rosettes=3.0),
}
HELD_OUT = "R4"
ANIMAL_SPREAD = 0.12
"""Deviation of the logarithm of `spacing` among the animals of a replicate."""
SIDES = (96, 104, 112, 120, 128)
"""Pixels; height and width of an animal's images are drawn from these."""
TIMEPOINTS = ("T2", "T4", "T8")
INHIBITED = 0.6
"""Factor of an inhibitor on the number of rosettes."""
PALISADES = 1.2
"""Palisades per image on average."""

REACH = 1.15
"""Radius of a rosette over that of a disc with the area of its cells, were they ordinary ones."""
RING = 0.55
"""Distance of the points of the ring from the centre, over the radius of the rosette."""
DARTS = 15
"""Points tried, over the squares of `spacing` that fit into the image; those apart from all others are kept."""
WARP = 1.2
"""Displacement of outlines, in pixels."""
BACKGROUND, MEMBRANE, NOISE = 200.0, 0.8, 60.0


@dataclass(frozen=True)
class Motif:
    """Points around a place that make a rosette or a palisade: the first `members` are its cells, others bound it."""

    points_N2: Array
    members: int
    radius: float
    rosette: bool


def make(directory: Path, seed: int = 0, animals: int = 10, images_per_animal: int = 2) -> None:
    """Write a study: `metadata.csv`, and `<sample>/processed_data_<sample>.h5` with labels, rosettes and intensity.

    Args:
        directory: A folder that is missing or empty.
        seed: The same seed gives the same study.
        animals: Animals of each of the four replicates, numbered within it.
        images_per_animal: Images of each animal, of one size.

    Raises:
        UserError: The folder holds something, cannot be written to, or there are too few animals or images.
    """
    refuse_occupied(directory)
    if animals < 3 or images_per_animal < 1:
        raise UserError(
            f"animals: {animals} with {images_per_animal} images are too few to split; give 3 with 1 or more"
        )
    rows: list[dict[str, Any]] = []
    for name, replicate in REPLICATES.items():
        for animal in range(1, animals + 1):
            random = generator(seed, "animal", name, animal)
            shape = (int(random.choice(SIDES)), int(random.choice(SIDES)))
            timepoint, treated = str(random.choice(TIMEPOINTS)), animal % 2 == 0
            own = replace(replicate, spacing=replicate.spacing * random.lognormal(0, ANIMAL_SPREAD))
            for image in range(1, images_per_animal + 1):
                sample = f"{name}_{timepoint}_{animal}_{image:04d}"
                layers = draw_image(own, shape, treated, generator(seed, "image", name, animal, image))
                _write(directory / sample / f"processed_data_{sample}.h5", layers)
                rows.append(
                    {
                        "unique_sample_id": sample,
                        "experiment_type": "inhibitor" if treated else "time_series",
                        "replicate": name,
                        "timepoint": timepoint,
                        "treatment": "inhibitor" if treated else "none",
                        "is_control": not treated,
                        "animal_id": f"{name}_{animal}",
                        "image_id": f"{image:04d}",
                    }
                )
    write_text(directory / "metadata.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def draw_image(
    replicate: Replicate, shape: tuple[int, int], treated: bool, random: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """Draw an image of a replicate: its datasets by name, each of this shape."""
    n_rosettes = random.poisson(replicate.rosettes * (INHIBITED if treated else 1.0))
    motifs = [rosette(replicate, random) for _ in range(n_rosettes)]
    motifs += [palisade(replicate.spacing, random) for _ in range(random.poisson(PALISADES))]
    placed = _placed(motifs, shape, random)
    owners, cells_HW = _sheet(placed, replicate.spacing, shape, random)
    labels, rosettes = _labelled(cells_HW, owners)
    for number in range(1, int(rosettes.max()) + 1):
        if random.random() < replicate.overlooked:
            rosettes[rosettes == number] = 0
    annotated = _annotated(rosettes, replicate.margin)
    return {
        "segmentation_outlines": labels.astype(np.uint16),
        "rosettes_binary": (annotated > 0).astype(np.uint8),
        "rosettes_individual": annotated.astype(np.uint16),
        "raw_data": _intensity(labels, replicate.gain, random),
    }


def rosette(replicate: Replicate, random: np.random.Generator) -> Motif:
    """Place a ring of points, whose cells meet in the centre, and points around that bound these cells."""
    low, high = replicate.cells
    members = int(random.integers(low, high + 1))
    radius = REACH * replicate.spacing * np.sqrt(members / np.pi)
    outer = (2 - RING) * radius
    around = round(2 * np.pi * outer / replicate.spacing)
    ring, bound = _circle(members, RING * radius, 0.12, random), _circle(around, outer, 0.2, random)
    return Motif(np.concatenate([ring, bound]), members, outer + replicate.spacing / 2, True)


def palisade(spacing: float, random: np.random.Generator) -> Motif:
    """Place points in a row, whose cells are as long and thin as those of a rosette but share no centre."""
    members = int(random.integers(4, 7))
    width, length = 0.75 * spacing, 1.7 * spacing
    along = (np.arange(members) - (members - 1) / 2) * width
    rows = [np.column_stack([np.full(members, side), along]) for side in (0.0, -length, length)]
    points = np.concatenate(rows) + random.normal(0, 0.04 * spacing, (3 * members, 2))
    angle = random.uniform(0, np.pi)
    turn = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Motif(points @ turn.T, members, float(np.hypot(along[-1], length)) + spacing / 2, False)


def _circle(count: int, radius: float, jitter: float, random: np.random.Generator) -> Array:
    """Give points on a circle, moved along it by up to `jitter` of their distance."""
    steps = np.arange(count) + random.uniform(-jitter, jitter, count) + random.uniform()
    angles = 2 * np.pi * steps / count
    radii = radius * random.uniform(0.97, 1.03, count)
    return np.column_stack([radii * np.sin(angles), radii * np.cos(angles)])


def _placed(motifs: Sequence[Motif], shape: tuple[int, int], random: np.random.Generator) -> list[tuple[Array, Motif]]:
    """Give each motif a centre at which it neither meets another nor the border; leave out what finds no room."""
    placed: list[tuple[Array, Motif]] = []
    for motif in motifs:
        room = np.asarray(shape) - 2 * motif.radius
        for centre in motif.radius + random.random((60, 2)) * room if room.min() > 0 else ():
            if all(np.hypot(*(centre - other)) > motif.radius + one.radius for other, one in placed):
                placed.append((centre, motif))
                break
    return placed


def _sheet(
    placed: Sequence[tuple[Array, Motif]], spacing: float, shape: tuple[int, int], random: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Fill the image with cells.

    Returns:
        Rosette of every cell, 0 for none; and the cell at every pixel, shape [H, W].
    """
    points = [centre + motif.points_N2 for centre, motif in placed]
    owners = [
        np.where(np.arange(len(motif.points_N2)) < motif.members, number if motif.rosette else 0, 0)
        for number, (_, motif) in enumerate(placed, start=1)
    ]
    low, high = -2 * spacing, np.asarray(shape) + 2 * spacing
    darts = low + random.random((round(DARTS * np.prod(high - low) / spacing**2), 2)) * (high - low)
    for centre, motif in placed:
        darts = darts[np.hypot(*(darts - centre).T) > motif.radius]
    points.append(_spaced(darts, np.concatenate([np.empty((0, 2)), *points]), spacing))
    owners.append(np.zeros(len(points[-1]), dtype=np.int64))
    pixels = np.indices(shape, dtype=np.float64)
    warp = np.stack([ndimage.gaussian_filter(random.normal(size=shape), 2.5) for _ in range(2)])
    moved = pixels + WARP * warp / warp.std()
    _, nearest = cKDTree(np.concatenate(points)).query(moved.reshape(2, -1).T)
    return np.concatenate(owners), np.asarray(nearest).reshape(shape)


def _spaced(darts_N2: Array, taken_M2: Array, spacing: float) -> Array:
    """Keep darts, in the order thrown, that are further than `spacing` from what is taken and from those kept."""
    if len(taken_M2):
        darts_N2 = darts_N2[cKDTree(taken_M2).query(darts_N2)[0] > spacing]
    free = np.ones(len(darts_N2), dtype=bool)
    kept = []
    for at, near in enumerate(cKDTree(darts_N2).query_ball_point(darts_N2, spacing)):
        if free[at]:
            kept.append(at)
            free[near] = False
    return darts_N2[kept]


def _labelled(cells_HW: npt.NDArray[np.int64], owners: npt.NDArray[np.int64]) -> tuple[Labels, Labels]:
    """Number cells and rosettes from 1, without cells that the border cuts and rosettes that lose one by that."""
    border = np.concatenate([cells_HW[0], cells_HW[-1], cells_HW[:, 0], cells_HW[:, -1]])
    whole = np.isin(np.arange(len(owners)), cells_HW) & ~np.isin(np.arange(len(owners)), border)
    cut = np.unique(owners[~whole])
    kept = np.unique(owners[whole & ~np.isin(owners, cut) & (owners > 0)])
    labels = np.where(whole, np.cumsum(whole), 0)[cells_HW]
    numbers = np.searchsorted(kept, owners, side="left") + 1
    rosettes = np.where(np.isin(owners, kept) & whole, numbers, 0)[cells_HW]
    return labels.astype(np.int32), rosettes.astype(np.int32)


def _annotated(rosettes_HW: Labels, margin: int) -> Labels:
    """Let annotations reach beyond the cells by some pixels, or stay within them."""
    inside = rosettes_HW > 0
    if margin < 0:
        return np.where(ndimage.binary_erosion(inside, iterations=-margin), rosettes_HW, 0).astype(np.int32)
    distance, (rows, columns) = ndimage.distance_transform_edt(~inside, return_indices=True)
    nearest = rosettes_HW[rows, columns] if inside.any() else rosettes_HW
    return np.where(distance <= margin, nearest, 0).astype(np.int32)


def _intensity(labels_HW: Labels, gain: float, random: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Draw bright membranes over a dim ground, as a microscope sees them."""
    edges = ndimage.grey_dilation(labels_HW, 3) != ndimage.grey_erosion(labels_HW, 3)
    membranes = ndimage.gaussian_filter(edges.astype(np.float64), MEMBRANE)
    light = BACKGROUND + gain * membranes + random.normal(0, NOISE, labels_HW.shape)
    return np.asarray(np.clip(np.round(light), 0, 65535), np.uint16)


def _write(path: Path, layers: Mapping[str, npt.NDArray[Any]]) -> None:
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in layers.items():
            file.create_dataset(name, data=values, compression="gzip")
