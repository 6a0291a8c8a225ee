"""Made-up tiles of stained tissue from four hospitals, with the expression that their look goes with.

Every tile has four statistics: how many nuclei, how strong the stain, how fibrous the ground, how brown the hue. Each
gene is a linear function of them. On top come what makes real studies hard: patients and hospitals shift both, each
hospital sees a part of the range only and scans with colours of its own, and one gene is never detected. The fourth
hospital is held out.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from core.errors import UserError
from core.files import atomic, refuse_occupied, write_text
from core.randomness import generator

NEXT = "python compare.py configs/image_expression.yaml options.data={directory}"

Array = npt.NDArray[np.float64]

STATISTICS = ("nuclei", "stain", "fibres", "brown")
CENTRES: Mapping[str, tuple[float, ...]] = {
    "hospital_north": (0.35, 0.62, 0.41, 0.59),
    "hospital_south": (0.65, 0.47, 0.59, 0.38),
    "hospital_west": (0.47, 0.35, 0.65, 0.65),
    "hospital_east": (0.50, 0.50, 0.50, 0.50),
}
HELD_OUT = "hospital_east"
REACH = {"hospital_east": 0.28}
"""Deviation of the statistics within the hospital that is held out: it sees the whole range."""
USUAL_REACH = 0.2
PATIENT_SHIFT = 0.06

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
BROWN = (0.27, 0.57, 0.78)
"""Optical density of the stains in red, green and blue (Ruifrok & Johnston 2001)."""
MOST_NUCLEI = 30
FIBRE_PERIOD = 6.0
GAIN_SPREAD = 0.02
PIXEL_NOISE = 4.0

N_GENES = 24
BASE = (2.0, 6.0)
SLOPE = 1.6
GENES_SHIFT = {"hospital": 0.10, "patient": 0.12, "tile": 0.20}
"""Deviations of what no tile shows, in log units."""
SILENT = "silent"


def make(directory: Path, seed: int = 0, patients: int = 10, tiles_per_patient: int = 6, size: int = 48) -> None:
    """Write a study: `metadata.csv` with path, group_id, site and y0 ... y23, `genes.txt`, and PNG tiles in `tiles/`.

    Args:
        directory: A folder that is missing or empty.
        seed: The same seed gives the same study.
        patients: Patients of each of the four hospitals.
        tiles_per_patient: Tiles of each patient.
        size: Pixels per side.

    Raises:
        UserError: The folder holds something, cannot be written to, or there are too few patients or tiles.
    """
    refuse_occupied(directory)
    if patients < 3 or tiles_per_patient < 2:
        raise UserError(
            f"patients: {patients} with {tiles_per_patient} tiles are too few to split; give 3 with 2 or more"
        )
    genes = [*(f"gene_{number:02d}" for number in range(N_GENES - 1)), SILENT]
    random = generator(seed, "genes")
    base_K = random.uniform(*BASE, N_GENES)
    slopes_4K = SLOPE * random.normal(size=(len(STATISTICS), N_GENES)) * (random.random((4, N_GENES)) < 0.6)
    rows: list[list[str | float]] = []
    for site in CENTRES:
        for number in range(patients):
            patient = f"{len(rows) // tiles_per_patient:03d}"
            looks_N4, shifts_NK = _patient(seed, site, number, tiles_per_patient)
            expression_NK = np.maximum(base_K + (looks_N4 - 0.5) @ slopes_4K + shifts_NK, 0)
            expression_NK[:, -1] = 0
            for tile, (look, expression) in enumerate(zip(looks_N4, expression_NK, strict=True)):
                path = f"tiles/{site}/{patient}_{tile:02d}.png"
                pixels = draw_tile(look, _gain(seed, site), size, generator(seed, "tile", site, number, tile))
                with atomic(directory / path) as temporary:
                    Image.fromarray(pixels).save(temporary)
                rows.append([path, patient, site, *np.round(expression, 4)])
    table = pd.DataFrame(rows, columns=["path", "group_id", "site", *(f"y{gene}" for gene in range(N_GENES))])
    write_text(directory / "genes.txt", "\n".join(genes) + "\n")
    write_text(directory / "metadata.csv", table.to_csv(index=False, lineterminator="\n"))


def draw_tile(look_4: Array, gain_3: Array, size: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a tile from its statistics, each in 0 ... 1, through the light that each stain absorbs.

    Returns:
        Red, green and blue, shape [size, size, 3].
    """
    nuclei, stain, fibres, brown = look_4
    y, x = np.mgrid[:size, :size].astype(np.float64)
    angle = random.uniform(0, np.pi)
    waves = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / FIBRE_PERIOD + random.uniform(0, 6))
    ground = (0.15 + 0.5 * stain) * (1 + 0.8 * fibres * waves)
    cells = np.zeros((size, size))
    for _ in range(round(2 + MOST_NUCLEI * nuclei * (size / 48) ** 2)):
        centre_y, centre_x = random.uniform(0, size, 2)
        distance = np.hypot(y - centre_y, x - centre_x)
        cells = np.maximum(cells, np.clip(random.uniform(1.6, 2.8) - distance + 0.5, 0, 1))
    tint = (1 - brown) * np.asarray(EOSIN) + brown * np.asarray(BROWN)
    density = ground[..., None] * tint + 0.9 * cells[..., None] * np.asarray(HAEMATOXYLIN)
    light = 245 * gain_3 * np.exp(-density) + random.normal(0, PIXEL_NOISE, (size, size, 3))
    return np.asarray(np.clip(np.round(light), 0, 255), np.uint8)


def _patient(seed: int, site: str, number: int, tiles: int) -> tuple[Array, Array]:
    """Draw the statistics of a patient's tiles, [N, 4], and what shifts their expression without being seen, [N, K]."""
    random = generator(seed, "patient", site, number)
    centre = np.asarray(CENTRES[site]) + random.normal(0, PATIENT_SHIFT, len(STATISTICS))
    looks_N4 = np.clip(random.normal(centre, REACH.get(site, USUAL_REACH), (tiles, len(STATISTICS))), 0, 1)
    hospital = generator(seed, "hospital", site).normal(0, GENES_SHIFT["hospital"], N_GENES)
    patient = random.normal(0, GENES_SHIFT["patient"], N_GENES)
    return looks_N4, hospital + patient + random.normal(0, GENES_SHIFT["tile"], (tiles, N_GENES))


def _gain(seed: int, site: str) -> Array:
    """Draw the colour balance of a hospital's scanner."""
    return np.asarray(generator(seed, "scanner", site).normal(1, GAIN_SPREAD, 3))
