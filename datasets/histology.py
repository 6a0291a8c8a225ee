"""A study of image tiles with expression values: which tile belongs to which client and split.

A CSV holds one row per tile (`datasets.histology_table`). Clients are a column of it, or groups dealt evenly; splits
are a file (`datasets.histology_splits`) or drawn here. A group (patient, slide, donor) is never cut.
"""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from core.files import sha256_json
from datasets.histology_table import Table, read_columns, read_table, refuse_shared, row_name
from datasets.histology_tiles import image_digest
from datasets.placed import Placed, Rows
from datasets.placement import HELD_OUT, Placement
from datasets.unit_splits import SPLITS

METADATA = "metadata.csv"


@dataclass(frozen=True, kw_only=True)
class TilePlacement(Placement):
    """How tiles are given to clients and splits.

    Attributes:
        split: CSV with path, group_id and split; None to draw splits here.
    """

    split: Path | None = None


@dataclass(frozen=True, eq=False)
class Study(Placed):
    """All tiles, opened once.

    Attributes:
        table: The tiles with their groups and targets.
        split_file: The split CSV, where there is one.
    """

    table: Table
    split_file: Path | None

    @classmethod
    def open(
        cls,
        data: Path,
        placement: TilePlacement,
        *,
        path_key: str = "path",
        group_key: str = "group_id",
        target_dim: int | None = None,
        root: Path | None = None,
    ) -> "Study":
        """Read the metadata and the split; images are decoded when they are asked for.

        Args:
            data: CSV, or a folder with `metadata.csv`.
            placement: How tiles are given to clients and splits.
            path_key: Column of the image file.
            group_key: Column of the patient, slide or donor.
            target_dim: Expected number of genes; None for as many as there are.
            root: Where relative paths start; None for the folder of the CSV.

        Raises:
            UserError: The data cannot be used; the message names file, row and remedy.
        """
        source = metadata_file(data)
        columns = {"path_col": path_key, "group_col": group_key, "client_col": placement.client_key}
        table = read_table(source, **columns, target_dim=target_dim, root=root)  # type: ignore[arg-type]
        clients_N = _clients(table, placement)
        if placement.split is None:
            groups = {"kind": "groups", "remedy": "add groups or use fewer clients"}
            splits_N = placement.draw(table.groups, clients_N, source=table.source, **groups)
        else:
            splits_N = _joined(table, placement.split)
        splits_N[(clients_N == HELD_OUT) & (splits_N != "")] = "test"
        borrowed = "test" not in splits_N[clients_N != HELD_OUT]
        study = cls(table, placement.split, clients_N=clients_N, splits_N=splits_N, borrowed=borrowed)
        study._refuse_empty()
        return study

    def manifest(self, client: str) -> dict[str, Any]:
        """Describe the splits so that they can be stored: file, tiles, groups and SHA-256 of the content."""
        entries = super().manifest(client)
        entries["test"]["borrowed_from"] = "val" if self.borrowed else None
        return entries

    def _entry(self, rows: Rows) -> dict[str, Any]:
        facts = [
            [
                self.table.paths[at].item(),
                self.table.groups[at].item(),
                self.table.targets[at].tolist(),
                self._image(at),
            ]
            for at in rows.tolist()
        ]
        return {
            "file": self.table.source.name if self.split_file is None else self.split_file.name,
            "tiles": len(rows),
            "units": sorted(set(self.table.groups[rows].tolist())),
            "sha256": sha256_json(facts),
        }

    @functools.cached_property
    def _hashes(self) -> dict[int, str]:
        return {}

    def _image(self, at: int) -> str:
        """Check and hash an image file, once."""
        if at not in self._hashes:
            self._hashes[at] = image_digest(self.table.files[at])
        return self._hashes[at]

    def _levels(self, rows: Rows) -> dict[str, list[str]]:
        groups = sorted(set(self.table.groups[rows].tolist()))
        return {"tile": self.table.paths[rows].tolist(), "group": groups}

    def _refuse_empty(self) -> None:
        for client, split in self._empty_splits():
            raise UserError(
                f"{self.split_file}: no {split} rows for client {client!r}; split each client by itself "
                "(`python -m datasets split --client-col`) or leave options.split out"
            )


def metadata_file(data: Path) -> Path:
    """Give the CSV: `data` itself, or `metadata.csv` in that folder."""
    return data / METADATA if data.is_dir() else data


def _clients(table: Table, placement: TilePlacement) -> npt.NDArray[np.str_]:
    """Give the client of every tile."""
    if table.clients is None:
        owner = placement.divide(table.groups.tolist())
        return np.asarray([owner[group] for group in table.groups.tolist()], dtype=np.str_)
    return np.asarray([placement.owner(name) for name in table.clients.tolist()], dtype=np.str_)


def _joined(table: Table, source: Path) -> npt.NDArray[np.str_]:
    """Look up the splits in a CSV by path; what is only in one of the two is warned of and left out."""
    rows = read_columns(source, ["path", "group_id", "split"])
    paths, groups, splits = (rows[name].tolist() for name in ("path", "group_id", "split"))
    _refuse_rows(source, paths, splits)
    refuse_shared(np.asarray(groups), np.asarray(splits), f"{source}: group", "split")
    place = {path: at for at, path in enumerate(paths)}
    found = [place.get(path, -1) for path in table.paths.tolist()]
    matched = np.asarray(found) >= 0
    if not matched.any():
        raise UserError(f"{source}: no path of it is in {table.source}; give the split that was made from this table")
    for at, row in enumerate(found):
        if row >= 0 and groups[row] != table.groups[at]:
            raise UserError(
                f"{source}: {row_name(row)}: group {groups[row]!r} of {paths[row]} is {table.groups[at].item()!r} in "
                f"{table.source}; make the split anew"
            )
    absent = {str(table.source): len(table) - int(matched.sum()), str(source): len(paths) - int(matched.sum())}
    for file, count in absent.items():
        if count:
            warnings.warn(f"{file}: {count} rows have no partner in the other file; left out", stacklevel=4)
    return np.asarray([splits[row] if row >= 0 else "" for row in found], dtype="<U5")


def _refuse_rows(source: Path, paths: Sequence[str], splits: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for at, (path, split) in enumerate(zip(paths, splits, strict=True)):
        if split not in SPLITS:
            raise UserError(f"{source}: {row_name(at)}: split = {split!r}; write one of {', '.join(SPLITS)}")
        if first.setdefault(path, at) != at:
            raise UserError(f"{source}: {row_name(at)}: path {path} is that of {row_name(first[path])} again; drop one")
