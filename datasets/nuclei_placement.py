"""Which client and which split each nucleus belongs to: read from the class table, or made here by nucleus."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from core.errors import UserError
from datasets.nuclei_table import Row
from datasets.partitions import dirichlet, evenly, ranges
from datasets.unit_splits import SPLITS, check_fractions, split_by_class

HELD_OUT = "held_out"
Place = tuple[str, str]


@dataclass(frozen=True)
class Placement:
    """How nuclei are given to clients and splits. Either `client_key` or `partition` is set.

    Attributes:
        client_key: Column of the class table that names the client.
        held_out: Value of that column whose nuclei belong to nobody, as those with the value `held_out` always do.
        partition: How clients are made where no column names them.
        clients: Number of clients to make.
        alpha: Concentration of the `dirichlet` partition; small values skew labels.
        split_key: Column with train, val, test; None to make splits.
        fractions: Shares of train, val and test, in nuclei, for splits made here.
        seed: Seed of partition and splits.
    """

    client_key: str | None = None
    held_out: str = HELD_OUT
    partition: Literal["evenly", "ranges", "dirichlet"] | None = None
    clients: int | None = None
    alpha: float | None = None
    split_key: str | None = None
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself or has no effect."""
        check_fractions(self.fractions)
        if (self.client_key is None) == (self.partition is None):
            raise UserError(
                "client_key, partition: give one of the two, a column that names clients or a way to make them"
            )
        if self.client_key is None and self.held_out != HELD_OUT:
            raise UserError(f"held_out: {self.held_out!r} has no effect without client_key; leave it out")
        if (self.partition is None) != (self.clients is None):
            raise UserError("partition, clients: belong together; give both or neither")
        if (self.partition == "dirichlet") != (self.alpha is not None):
            raise UserError("alpha: belongs to partition: dirichlet; give both or neither")

    @property
    def keys(self) -> list[str]:
        """Columns of the class table that are read."""
        return [key for key in (self.client_key, self.split_key) if key is not None]


def place(path: Path, rows: Sequence[Row], placement: Placement) -> dict[str, Place]:
    """Give sample -> (client, split); held-out nuclei are at ("held_out", "test").

    Args:
        path: Class table, to name in errors.
        rows: Rows in use.
        placement: How.

    Raises:
        UserError: A column is empty or says something else than a split, or a client has too few nuclei.
    """
    client_of = _clients(path, rows, placement)
    placed: dict[str, Place] = {}
    for client in sorted(set(client_of.values())):
        own = [row for row in rows if client_of[row.sample] == client]
        if client == HELD_OUT:
            placed |= {row.sample: (HELD_OUT, "test") for row in own}
        elif placement.split_key is not None:
            placed |= {row.sample: (client, _split(path, row, placement.split_key)) for row in own}
            _require_all(path, client, {placed[row.sample][1] for row in own}, placement.split_key)
        else:
            units, labels = np.asarray([row.sample for row in own]), np.asarray([row.class_name for row in own])
            splits = split_by_class(
                units, labels, placement.fractions, seed=placement.seed, client=client, source=str(path)
            )
            placed |= {row.sample: (client, split) for row, split in zip(own, splits.tolist(), strict=True)}
    return placed


def _clients(path: Path, rows: Sequence[Row], placement: Placement) -> dict[str, str]:
    samples = [row.sample for row in rows]
    if placement.client_key is not None:
        named = {row.sample: _value(path, row, placement.client_key) for row in rows}
        return {sample: HELD_OUT if name == placement.held_out else name for sample, name in named.items()}
    assert placement.clients is not None
    if placement.partition == "evenly":
        return evenly(samples, placement.clients, seed=placement.seed)
    if placement.partition == "ranges":
        return ranges(samples, placement.clients)
    assert placement.alpha is not None
    labels = [row.class_name for row in rows]
    return dirichlet(samples, labels, placement.clients, alpha=placement.alpha, seed=placement.seed)


def _value(path: Path, row: Row, column: str) -> str:
    if not row.columns[column]:
        raise UserError(f"{path}: line {row.line}: {column} is empty; fill it in")
    return row.columns[column]


def _split(path: Path, row: Row, column: str) -> str:
    if (split := row.columns[column]) not in SPLITS:
        raise UserError(f"{path}: line {row.line}: {column} {split!r} is none of {', '.join(SPLITS)}; correct it")
    return split


def _require_all(path: Path, client: str, found: set[str], column: str) -> None:
    for split in SPLITS:
        if split not in found:
            raise UserError(f"{path}: {column}: client {client!r} has no {split} nucleus; assign at least one")
