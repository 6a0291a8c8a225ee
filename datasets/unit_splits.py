"""Train, val and test by the biological unit: a section, donor or spatial block goes to one split as a whole.

Neighbouring cells of one section are near-duplicates; cells drawn one by one would put copies of the training data
into the test set.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from core.randomness import generator

SPLITS = ("train", "val", "test")


def check_fractions(fractions: Sequence[float]) -> None:
    """Refuse fractions that are not three positive numbers with the sum 1.

    Raises:
        UserError: They are not.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise UserError(
            f"fractions: {tuple(fractions)} must be three positive numbers with sum 1; e.g. 0.7, 0.15, 0.15"
        )


def split_units(
    units_N: npt.NDArray[np.str_], fractions: Sequence[float], *, seed: int, client: str, source: str
) -> npt.NDArray[np.str_]:
    """Deal the units of one client to the three splits, in an order drawn from the seed.

    Val and test each get their fraction of the units, rounded, but at least one; train gets the others.

    Args:
        units_N: Unit of every cell.
        fractions: Shares of train, val and test, of the number of units.
        seed: Seed of the experiment.
        client: Whose cells these are; the order differs between clients.
        source: File to name in an error.

    Returns:
        Name of the split of every cell, shape [cells].

    Raises:
        UserError: There are fewer than three units.
    """
    check_fractions(fractions)
    units, unit_of_cell = np.unique(units_N, return_inverse=True)
    if len(units) < 3:
        raise UserError(
            f"{source}: client {client!r} has {len(units)} units ({', '.join(map(str, units))}), three needed for "
            "train, val and test; set blocks: 4 to cut each section into spatial blocks, or choose another unit_key"
        )
    n_val, n_test = (max(1, round(fraction * len(units))) for fraction in fractions[1:])
    while len(units) - n_val - n_test < 1:
        n_val, n_test = (n_val - 1, n_test) if n_val >= n_test else (n_val, n_test - 1)
    order = generator(seed, "split", client).permutation(len(units))
    split_of_unit = np.full(len(units), SPLITS[0], dtype="<U5")
    split_of_unit[order[:n_val]] = SPLITS[1]
    split_of_unit[order[n_val : n_val + n_test]] = SPLITS[2]
    return np.asarray(split_of_unit[unit_of_cell])


def split_by_class(
    units_N: npt.NDArray[np.str_],
    labels_N: npt.NDArray[np.str_],
    fractions: Sequence[float],
    *,
    seed: int,
    client: str,
    source: str,
) -> npt.NDArray[np.str_]:
    """Deal the units of one client to the three splits so that each split sees the classes in like proportions.

    Class by class, in an order drawn from the seed, a unit goes where most is owed, counted both within its class and
    over all. The first of each class goes to train and the second to test: a class that is missing in one of them can
    be learned but not judged, or judged but not learned.

    Args:
        units_N: Units, each once.
        labels_N: Class of each unit.
        fractions: Shares of train, val and test.
        seed: Seed of the experiment.
        client: Whose units these are; the order differs between clients.
        source: File to name in an error.

    Returns:
        Name of the split of every unit, shape [units]; each split has at least one.

    Raises:
        UserError: There are fewer than three units.
    """
    check_fractions(fractions)
    if len(units_N) < 3:
        raise UserError(
            f"{source}: client {client!r} has {len(units_N)} units ({', '.join(map(str, units_N))}), three needed for "
            "train, val and test; give it more or leave it out"
        )
    drawn = np.argsort(units_N)[generator(seed, "split", client).permutation(len(units_N))]
    splits = np.zeros(len(units_N), dtype=np.int64)
    shares, dealt = np.asarray(fractions), np.zeros(3)
    for label in np.unique(labels_N):
        own = np.zeros(3)
        for number, unit in enumerate(drawn[labels_N[drawn] == label], start=1):
            owed = shares * (number + dealt.sum() + 1) - own - dealt
            splits[unit] = {1: 0, 2: 2}.get(number, int(owed.argmax()))
            own[splits[unit]] += 1
            dealt[splits[unit]] += 1
    for missing in np.flatnonzero(dealt == 0):
        commonest = max(np.unique(labels_N[splits == 0]), key=lambda label: np.sum((labels_N == label) & (splits == 0)))
        splits[drawn[(labels_N[drawn] == commonest) & (splits[drawn] == 0)][-1]] = missing
    return np.asarray(SPLITS)[splits]


def spatial_blocks(
    sections_N: npt.NDArray[np.str_],
    x_N: npt.NDArray[np.float64],
    y_N: npt.NDArray[np.float64],
    blocks: int,
    source: str,
) -> npt.NDArray[np.str_]:
    """Cut every section into `blocks` x `blocks` regions of equal cell number: strips along x, each cut along y.

    Coordinates are compared within a section only, since sections are not registered to each other. Cells on both
    sides of a border stay neighbours, so blocks separate less cleanly than sections.

    Args:
        sections_N: Section of every cell.
        x_N: Position, any unit.
        y_N: Position, any unit.
        blocks: Strips per direction, at least 2.
        source: File to name in an error.

    Returns:
        Unit names such as `section 1/x0y2`, shape [cells].

    Raises:
        UserError: `blocks` is below 2 or a coordinate is not finite.
    """
    if blocks < 2:
        raise UserError(f"{source}: blocks: {blocks} gives too few blocks to split; set blocks to 2 or more")
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        raise UserError(
            "obs: x or y is not finite in some cells; remove these cells or split by unit_key, without blocks"
        )
    names = np.empty(len(sections_N), dtype=object)
    for section in np.unique(sections_N):
        in_section = np.flatnonzero(sections_N == section)
        strips = _quantile(x_N[in_section], blocks)
        for strip in range(blocks):
            cells = in_section[strips == strip]
            names[cells] = [f"{section}/x{strip}y{part}" for part in _quantile(y_N[cells], blocks)]
    return names.astype(np.str_)


def _quantile(values: npt.NDArray[np.float64], parts: int) -> npt.NDArray[np.int64]:
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return ranks * parts // max(len(values), 1)
