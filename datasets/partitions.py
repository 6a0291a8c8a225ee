"""Units divided among clients where the data names none: evenly, by ranges of ids, or with skewed labels.

A unit (nucleus, slide, donor) goes to one client as a whole, and so do all samples cut from it. The answer depends on
the set of units and the seed, never on their order.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from core.errors import UserError
from core.randomness import generator

ATTEMPTS = 1000
PartitionName = Literal["evenly", "ranges", "dirichlet"]


def divide(
    units: Sequence[str],
    partition: PartitionName,
    clients: int,
    *,
    seed: int,
    labels: Sequence[str] = (),
    alpha: float | None = None,
) -> dict[str, str]:
    """Divide units by a partition named in a config; `dirichlet` needs their labels and `alpha`.

    Raises:
        UserError: There are fewer units than clients.
    """
    if partition == "evenly":
        return evenly(units, clients, seed=seed)
    if partition == "ranges":
        return ranges(units, clients)
    assert alpha is not None
    return dirichlet(units, labels, clients, alpha=alpha, seed=seed)


def client_names(clients: int) -> list[str]:
    """Give `client_01`, `client_02`, ... as many as asked for."""
    width = max(2, len(str(clients)))
    return [f"client_{number:0{width}d}" for number in range(1, clients + 1)]


def evenly(units: Sequence[str], clients: int, *, seed: int) -> dict[str, str]:
    """Deal shuffled units in turn, so that numbers of units differ by one at most.

    Args:
        units: Ids; repeats count once.
        clients: How many clients there shall be.
        seed: Seed of the partition.

    Returns:
        Unit to client name, in the order of the sorted units.

    Raises:
        UserError: There are fewer units than clients, or no client is asked for.
    """
    ordered = _distinct(units, clients)
    turns = generator(seed, "partition", "evenly").permutation(len(ordered))
    names = client_names(clients)
    return {unit: names[turn % clients] for unit, turn in zip(ordered, turns.tolist(), strict=True)}


def ranges(units: Sequence[str], clients: int) -> dict[str, str]:
    """Cut the sorted ids into runs of equal length, as when ids were given out site by site.

    Ids that are all whole numbers are sorted as numbers, others as text.

    Args:
        units: Ids; repeats count once.
        clients: How many clients there shall be.

    Returns:
        Unit to client name, in the order of the ids.

    Raises:
        UserError: There are fewer units than clients, or no client is asked for.
    """
    ordered = _distinct(units, clients)
    if all(unit.isdecimal() for unit in ordered):
        ordered.sort(key=int)
    runs = np.array_split(np.arange(len(ordered)), clients)
    return {
        ordered[place]: name for name, run in zip(client_names(clients), runs, strict=True) for place in run.tolist()
    }


def dirichlet(
    units: Sequence[str], labels: Sequence[str], clients: int, *, alpha: float, seed: int, minimum: int = 3
) -> dict[str, str]:
    """Divide each class by shares drawn from a symmetric Dirichlet distribution (Hsu et al. 2019, arXiv:1909.06335).

    A small alpha gives each client few classes, a large one gives all the same mixture. Shares are drawn again until
    every client has `minimum` units (Li et al. 2022, arXiv:2102.02079).

    Args:
        units: Ids, each once.
        labels: Class of each unit.
        clients: How many clients there shall be.
        alpha: Concentration, above 0.
        seed: Seed of the partition.
        minimum: Units each client needs; three can be split into train, val and test.

    Returns:
        Unit to client name, in the order of the sorted units.

    Raises:
        UserError: `alpha` is not positive, a unit repeats, or no draw gives every client enough units.
    """
    if not alpha > 0:
        raise UserError(f"alpha: {alpha} must be above 0; 0.1 skews labels strongly, 100 hardly")
    if len(_distinct(units, clients)) != len(units):
        raise UserError("partition: a unit occurs twice; give each unit once, with one class")
    if len(units) < clients * minimum:
        raise UserError(
            f"clients: {clients} x {minimum} units are more than the {len(units)} there are; ask for fewer clients"
        )
    pairs = sorted(zip(units, labels, strict=True))
    members = {label: [unit for unit, own in pairs if own == label] for label in sorted(set(labels))}
    for attempt in range(ATTEMPTS):
        placed = _draw(members, clients, alpha, generator(seed, "partition", "dirichlet", attempt))
        if min(np.bincount(list(placed.values()), minlength=clients)) >= minimum:
            names = client_names(clients)
            return {unit: names[placed[unit]] for unit, _ in pairs}
    raise UserError(
        f"alpha: {alpha} leaves a client with fewer than {minimum} of {len(units)} units in {ATTEMPTS} draws; "
        "raise alpha or ask for fewer clients"
    )


def _draw(members: dict[str, list[str]], clients: int, alpha: float, random: np.random.Generator) -> dict[str, int]:
    placed: dict[str, int] = {}
    for units in members.values():
        ends = np.round(np.cumsum(random.dirichlet([alpha] * clients)) * len(units))
        owners = np.searchsorted(ends[:-1], np.arange(len(units)), side="right")
        placed.update(zip(np.asarray(units)[random.permutation(len(units))].tolist(), owners.tolist(), strict=True))
    return placed


def _distinct(units: Sequence[str], clients: int) -> list[str]:
    ordered = sorted(set(units))
    if clients < 1:
        raise UserError(f"clients: {clients} must be 1 or more")
    if len(ordered) < clients:
        raise UserError(f"clients: {clients} are more than the {len(ordered)} units there are; ask for fewer clients")
    return ordered
