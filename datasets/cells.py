"""A study of single cells: which cells belong to which client and split, read lazily from three layouts.

1. A folder `clients/<name>/{train,val,test}.h5ad`, optionally with `held_out.h5ad`.
2. One h5ad file with an obs column that names the client, and either an obs column that names the split or a
   biological unit (section, donor, spatial block) by which splits are made.
3. A folder of log-normalised parquet tables (`datasets.cells_parquet`).
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from core.errors import UserError
from datasets.cells_h5ad import H5adTable
from datasets.count_table import CountTable, missing_column
from datasets.layouts import FileOptions, of_file, of_folder, refuse_without_effect
from datasets.unit_splits import SPLITS, check_fractions

CHUNK = 4096
PROBE = 256
HELD_OUT = "held_out"


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one client and split: rows of one file.

    Attributes:
        table: The file.
        client: Client name, or "held_out" for cells that belong to nobody.
        split: "train", "val" or "test".
        rows: Rows of the file, ascending; None for all of them.
        units: Biological unit of every cell, where the study knows one.
    """

    table: CountTable
    client: str
    split: str
    rows: npt.NDArray[np.int64] | None = None
    units: npt.NDArray[np.str_] | None = None

    def __len__(self) -> int:
        """Count the cells."""
        return len(self.table.names) if self.rows is None else len(self.rows)

    @property
    def path(self) -> Path:
        """The file these cells are in."""
        return self.table.path

    @property
    def names(self) -> npt.NDArray[np.str_]:
        """Cell ids."""
        return self._mine(self.table.names)

    @property
    def var_names(self) -> tuple[str, ...]:
        """Gene ids, in column order."""
        return self.table.var_names

    def has(self, name: str) -> bool:
        """Tell whether there is an obs column of this name."""
        return name in self.table.columns

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read one obs column: numbers as stored, text and categories as numpy strings.

        Raises:
            UserError: There is no such column (the message lists those there are), or text is missing in it.
        """
        return self._mine(self.table.column(name))

    def chunks(self, size: int = CHUNK) -> Iterator[sp.csr_matrix]:
        """Read the counts, `size` cells at a time, genes in the order of `var_names`.

        Raises:
            UserError: The values are not raw counts (or, in parquet tables, not log1p of counts per 10,000).
        """
        rows = np.arange(len(self), dtype=np.int64) if self.rows is None else self.rows
        return self.table.read(rows, size)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of gene ids, cell ids and counts; the same content gives the same digest in any file."""
        parts = [hashlib.sha256() for _ in range(3)]
        for chunk in self.chunks():
            counts = sp.csr_matrix(chunk, copy=True)
            counts.sum_duplicates()
            counts.eliminate_zeros()
            arrays = (np.diff(counts.indptr).astype(np.int64), counts.indices.astype(np.int64), counts.data)
            for part, array in zip(parts, arrays, strict=True):
                part.update((array if array.dtype == np.int64 else array.astype(np.float64)).tobytes())
        whole = hashlib.sha256(json.dumps([list(self.var_names), self.names.tolist()]).encode())
        for part in parts:
            whole.update(part.digest())
        return whole.hexdigest()

    def _mine(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values if self.rows is None else np.asarray(values[self.rows])


@dataclass(frozen=True, eq=False)
class Study:
    """All clients of a study.

    Attributes:
        data: The folder or file it was opened from.
        parts: (client, split) to cells.
        held_out: Cells that belong to nobody, if the study has some.
        borrowed: Pairs of `parts` that have no cells of their own: a test split that stands for a missing one.
    """

    data: Path
    parts: Mapping[tuple[str, str], Cells]
    held_out: Cells | None
    borrowed: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        client_key: str | None,
        split_key: str,
        unit_key: str | None,
        held_out: str | None,
        fractions: Sequence[float] = (0.7, 0.15, 0.15),
        seed: int,
        blocks: int | None,
        counts_layer: str | None = None,
    ) -> "Study":
        """Open a study; reads ids and obs columns, and the counts of a few cells per split to check them.

        Args:
            data: Folder with `clients/`, or one h5ad file.
            client_key: obs column that names the client (one file only).
            split_key: obs column with train, val, test, used if it is there (one file only).
            unit_key: obs column of the section or donor; splits are made by it where `split_key` is not there.
            held_out: Value of `client_key` that belongs to nobody (one file only).
            fractions: Shares of train, val and test, in units, for splits made here.
            seed: Seed of the splits made here.
            blocks: Cut every section into blocks x blocks regions and split by those (one file only).
            counts_layer: Layer with the raw counts; None for `X`.

        Raises:
            UserError: The data cannot be used; the message names file, key and remedy.
        """
        check_fractions(fractions)
        if not data.exists():
            raise UserError(f"{data}: no such file or folder; check the path, or make data with `python -m datasets`")
        if data.is_dir():
            refuse_without_effect(data, client_key=client_key, held_out=held_out, blocks=blocks)
            layout = of_folder(data, unit_key, counts_layer)
        else:
            options = FileOptions(client_key, split_key, unit_key, held_out, tuple(fractions), seed, blocks)
            layout = of_file(H5adTable.open(data, counts_layer), options)
        parts = {place: Cells(part.table, *place, part.rows, part.units) for place, part in layout.parts.items()}
        outside = None
        if (part := layout.held_out) is not None:
            outside = Cells(part.table, HELD_OUT, "test", part.rows, part.units)
        study = cls(data, parts, outside, layout.borrowed)
        study._probe()
        return study

    @property
    def clients(self) -> list[str]:
        """Names of the clients, sorted."""
        return sorted({client for client, _ in self.parts})

    def cells(self, client: str, split: str) -> Cells:
        """Give the cells of one client and split.

        Raises:
            UserError: There is no such client or split.
        """
        if (client, split) not in self.parts:
            known = ", ".join(self.clients)
            raise UserError(f"{self.data}: no split {split!r} of client {client!r}; clients: {known}; splits: {SPLITS}")
        return self.parts[client, split]

    def members(self, *keys: str) -> dict[tuple[str, str], dict[str, Sequence[str]]]:
        """Say what occurs where, in the form `datasets.leakage.check_disjoint` takes.

        The level "cell" is always there, "unit" where the study knows units; `keys` adds obs columns, such as
        `donor_id`. Borrowed splits are left out, held-out cells are ("held_out", "test").

        Raises:
            UserError: A file lacks one of the columns.
        """
        places = {place: cells for place, cells in self.parts.items() if place not in self.borrowed}
        if self.held_out is not None:
            places[HELD_OUT, "test"] = self.held_out
        return {place: _levels(cells, keys) for place, cells in places.items()}

    def require(self, columns: Mapping[str, str]) -> None:
        """Check that every file has the obs columns that will be read from it.

        Args:
            columns: Column to the option that asks for it.

        Raises:
            UserError: A file lacks one of them.
        """
        for cells in self._all:
            for name, option in columns.items():
                if not cells.has(name):
                    raise missing_column(cells.path, name, cells.table.columns, option)

    def manifest(self) -> dict[str, Any]:
        """Describe the splits so that they can be stored: file, cell count, units and SHA-256 of the content.

        Returns:
            `{"clients": {client: {split: {...}}}, "held_out": {...} or None}`, fit for JSON.
        """
        clients = {
            client: {split: self._entry(self.parts[client, split]) for split in SPLITS} for client in self.clients
        }
        return {"clients": clients, "held_out": None if self.held_out is None else self._entry(self.held_out)}

    def _entry(self, cells: Cells) -> dict[str, Any]:
        return {
            "file": cells.path.relative_to(self.data).as_posix() if self.data.is_dir() else cells.path.name,
            "cells": len(cells),
            "units": None if cells.units is None else np.unique(cells.units).tolist(),
            "borrowed_from": "val" if (cells.client, cells.split) in self.borrowed else None,
            "sha256": cells.digest,
        }

    @property
    def _all(self) -> list[Cells]:
        return [*self.parts.values(), *([] if self.held_out is None else [self.held_out])]

    def _probe(self) -> None:
        for cells in self._all:
            rows = np.arange(len(cells)) if cells.rows is None else cells.rows
            for _ in cells.table.read(rows[:PROBE], PROBE):
                break


def _levels(cells: Cells, keys: Sequence[str]) -> dict[str, Sequence[str]]:
    levels: dict[str, Sequence[str]] = {"cell": cells.names.tolist()}
    if cells.units is not None:
        levels["unit"] = np.unique(cells.units).tolist()
    for key in keys:
        levels[key] = np.unique(cells.column(key).astype(np.str_)).tolist()
    return levels
