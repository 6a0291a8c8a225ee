"""Which client and which split each nucleus belongs to: read from the class table, or made here by nucleus."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import UserError
from datasets.nuclei_table import Row
from datasets.placement import HELD_OUT, Placement
from datasets.unit_splits import SPLITS, split_by_class

Place = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class NucleiPlacement(Placement):
    """How nuclei are given to clients and splits.

    Attributes:
        split_key: Column of the class table with train, val, test; None to make splits.
    """

    split_key: str | None = None

    @property
    def keys(self) -> list[str]:
        """Columns of the class table that are read."""
        return [key for key in (self.client_key, self.split_key) if key is not None]


def place(path: Path, rows: Sequence[Row], placement: NucleiPlacement) -> dict[str, Place]:
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


def _clients(path: Path, rows: Sequence[Row], placement: NucleiPlacement) -> dict[str, str]:
    samples = [row.sample for row in rows]
    if placement.client_key is not None:
        named = {row.sample: _value(path, row, placement.client_key) for row in rows}
        return {sample: placement.owner(name) for sample, name in named.items()}
    return placement.divide(samples, [row.class_name for row in rows])


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
