"""Made-up blood samples from five hospitals, measured on two proteomics platforms: antibodies (a) and aptamers (b).

Ten latent processes drive all proteins, in part by smooth curves and not by straight lines. Abundances are
log-normal. On top come what makes real studies hard: hospitals see other patients, and handle samples in a way that
shifts and stretches every protein; patients come twice; weak proteins fall below the limit of detection; some samples
reach one platform only. `hospital_coast` has platform a alone, and `hospital_east` is held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.errors import UserError
from core.files import refuse_occupied, write_text
from core.randomness import generator

NEXT = "python compare.py configs/joint_vae.yaml options.data={directory}"

Array = npt.NDArray[np.float64]

SAMPLES = {
    "hospital_north": 160,
    "hospital_south": 130,
    "hospital_west": 200,
    "hospital_coast": 150,
    "hospital_east": 150,
}
ONE_PLATFORM = "hospital_coast"
HELD_OUT = "hospital_east"
FEWEST_SAMPLES = 20

LATENT = 10
CASE_MIX = 0.5
"""Deviation of the hospitals' mean patient."""
VISIT = 0.5
"""Share of the latent variance that differs between two visits of one patient."""
SECOND_VISITS = 0.2

FEATURES = {"a": ("antibody", 40), "b": ("aptamer", 50)}
BASE = (0.5, 4.0)
STRAIGHT, CURVED, TURN = 0.4, 0.8, 0.5
"""How steep, how high and how quick the lines and curves are from latent processes to log abundances."""
NOISE = {"a": 0.4, "b": 0.5}
"""Deviation of what one platform measures and the other does not, in log units."""
HOSPITAL_SHIFT = 0.15
HOSPITAL_STRETCH = 0.05

LOST = 0.01
"""Share of cells that are missing for no reason."""
WEAK, BELOW_LIMIT = 6, 0.08
"""Proteins of platform a near the limit of detection, and the share of their values below it."""
UNPAIRED = 0.04
"""Share of samples that miss on platform a, and as many that miss on b."""


@dataclass(frozen=True)
class Proteins:
    """How the proteins of one platform follow from the latent processes.

    Attributes:
        base: Mean log abundance, [D].
        straight: Slopes, [LATENT, D].
        turns: Directions of the curves, [LATENT, D].
        curved: Their heights, [D].
        noise: Deviation of what the processes do not explain, in log units.
    """

    base: Array
    straight: Array
    turns: Array
    curved: Array
    noise: float

    @classmethod
    def drawn(cls, seed: int, platform: str) -> "Proteins":
        """Draw the proteins of a study."""
        random, (_, count) = generator(seed, "proteins", platform), FEATURES[platform]
        return cls(
            base=random.uniform(*BASE, count),
            straight=STRAIGHT * random.normal(size=(LATENT, count)) * (random.random((LATENT, count)) < 0.5),
            turns=TURN * random.normal(size=(LATENT, count)) * (random.random((LATENT, count)) < 0.5),
            curved=CURVED * random.normal(size=count),
            noise=NOISE[platform],
        )

    def signal(self, latent_NL: Array) -> Array:
        """Give the log abundances without noise, about the mean, [N, D]."""
        return latent_NL @ self.straight + self.curved * np.sin(latent_NL @ self.turns)


def make(directory: Path, seed: int = 0, scale: float = 1.0) -> None:
    """Write a study: `<hospital>/platform_a.csv` and, but for one hospital, `platform_b.csv`.

    The columns are sample, donor, and proteins `antibody_01` ... or `aptamer_01` ...; rows are shuffled. Abundances
    are positive: train on their logarithm.

    Args:
        directory: A folder that is missing or empty.
        seed: The same seed gives the same study.
        scale: Factor on the number of samples, which is 130 to 200 in each hospital.

    Raises:
        UserError: The folder holds something, cannot be written to, or there are too few samples.
    """
    refuse_occupied(directory)
    if scale * min(SAMPLES.values()) < FEWEST_SAMPLES:
        raise UserError(f"scale: {scale} leaves a hospital with fewer than {FEWEST_SAMPLES} samples; give 0.2 or more")
    for hospital, samples in SAMPLES.items():
        count = round(scale * samples)
        donors, latent_NL = _patients(seed, hospital, count)
        names = [f"{hospital[9].upper()}{number:04d}" for number in range(count)]
        platforms = ("a",) if hospital == ONE_PLATFORM else ("a", "b")
        missed = generator(seed, "missed", hospital).permutation(count)
        share = round(UNPAIRED * count) if len(platforms) > 1 else 0
        for place, platform in enumerate(platforms):
            rows = np.setdiff1d(np.arange(count), missed[place * share : (place + 1) * share])
            values = _measured(seed, hospital, platform, latent_NL)
            order = generator(seed, "order", hospital, platform).permutation(rows)
            text = _table(platform, [names[at] for at in order], [donors[at] for at in order], values[order])
            write_text(directory / hospital / f"platform_{platform}.csv", text)


def _patients(seed: int, hospital: str, count: int) -> tuple[list[str], Array]:
    """Draw the donor of each sample and its latent processes, [N, LATENT]."""
    random = generator(seed, "patients", hospital)
    again = random.random(count) < SECOND_VISITS
    again[0] = False
    number = np.cumsum(~again) - 1
    steady = random.normal(size=(number[-1] + 1, LATENT))
    centre = CASE_MIX * random.normal(size=LATENT)
    latent = centre + np.sqrt(1 - VISIT) * steady[number] + np.sqrt(VISIT) * random.normal(size=(count, LATENT))
    return [f"{hospital}_{donor:03d}" for donor in number.tolist()], latent


def _measured(seed: int, hospital: str, platform: str, latent_NL: Array) -> Array:
    """Give abundances, [N, D], NaN where missing."""
    proteins = Proteins.drawn(seed, platform)
    handling = generator(seed, "handling", hospital, platform)
    random = generator(seed, "measurement", hospital, platform)
    signal = proteins.signal(latent_NL)
    shift = handling.normal(0, HOSPITAL_SHIFT, signal.shape[1])
    stretch = np.exp(handling.normal(0, HOSPITAL_STRETCH, signal.shape[1]))
    logs = proteins.base + shift + stretch * signal + random.normal(0, proteins.noise, signal.shape)
    missing = random.random(logs.shape) < LOST
    if platform == "a":
        limits = np.quantile(logs[:, :WEAK], BELOW_LIMIT, axis=0)
        missing[:, :WEAK] |= logs[:, :WEAK] < limits
    return np.where(missing, np.nan, np.exp(logs))


def _table(platform: str, names: Sequence[str], donors: Sequence[str], values_ND: Array) -> str:
    word, count = FEATURES[platform]
    columns = [f"{word}_{number:02d}" for number in range(1, count + 1)]
    table = pd.DataFrame(np.round(values_ND, 4), columns=columns)
    table.insert(0, "sample", list(names))
    table.insert(1, "donor", list(donors))
    return table.to_csv(index=False, lineterminator="\n")
