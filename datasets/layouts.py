"""Where the cells of each client and split lie: in a folder of files, or in the rows of one file."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from datasets.cells_h5ad import H5adTable
from datasets.cells_parquet import ParquetTable, read_genes
from datasets.count_table import CountTable, missing_column
from datasets.unit_splits import SPLITS, spatial_blocks, split_units

HELD_OUT_FILES = ("held_out.h5ad", "held_out_batch.parquet")


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of one file.

    Attributes:
        table: The file.
        rows: Rows, ascending; None for all of them.
        units: Biological unit of each of these rows, None where nothing is known.
    """

    table: CountTable
    rows: npt.NDArray[np.int64] | None = None
    units: npt.NDArray[np.str_] | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """A study, taken apart.

    Attributes:
        parts: (client, split) to rows.
        held_out: Rows that belong to nobody.
        borrowed: Test splits that stand for a missing one and repeat the val split.
    """

    parts: Mapping[tuple[str, str], Part]
    held_out: Part | None
    borrowed: frozenset[tuple[str, str]] = frozenset()


def refuse_without_effect(data: Path, **options: object) -> None:
    """Refuse options that a folder of files leaves nothing to do.

    Raises:
        UserError: One of them is set.
    """
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{data}: {name}: {value!r} has no effect here; remove it, or give one h5ad file as data")


def of_folder(data: Path, unit_key: str | None, counts_layer: str | None) -> Layout:
    """Read `clients/<name>/{train,val,test}.h5ad`, or the same as parquet tables.

    Raises:
        UserError: A file is missing or cannot be used.
    """
    folders = sorted(path for path in data.glob("clients/*") if path.is_dir() and not path.name.startswith("."))
    outside = next((data / name for name in HELD_OUT_FILES if (data / name).exists()), None)
    if not folders and outside is None:
        raise UserError(f"{data}: no folder clients/<name>/; give such a folder, or one h5ad file")
    parts: dict[tuple[str, str], Part] = {}
    borrowed: set[tuple[str, str]] = set()
    for folder in folders:
        for split in SPLITS:
            path = _split_file(folder, split)
            if split == "test" and path.suffix == ".parquet" and not path.exists():
                borrowed.add((folder.name, split))
                path = path.with_stem("val")
            if not path.exists():
                needed = ", ".join(f"{name}{path.suffix}" for name in SPLITS)
                raise UserError(f"{path}: no such file; every client folder needs {needed}")
            parts[folder.name, split] = _whole(path, data, unit_key, counts_layer)
    held_out = None if outside is None else _whole(outside, data, unit_key, counts_layer)
    _warn_of_parquet(data, parts, borrowed)
    return Layout(parts, held_out, frozenset(borrowed))


def _split_file(folder: Path, split: str) -> Path:
    tables = (folder / "train.parquet").exists() and not (folder / "train.h5ad").exists()
    return folder / f"{split}{'.parquet' if tables else '.h5ad'}"


def _whole(path: Path, data: Path, unit_key: str | None, counts_layer: str | None) -> Part:
    table = open_table(path, data, counts_layer)
    return Part(table, units=None if unit_key is None else _unit_column(table, unit_key))


def open_table(path: Path, folder: Path, counts_layer: str | None) -> CountTable:
    """Open a file of cells: parquet by its suffix, else h5ad.

    Args:
        path: The file.
        folder: Where `genes.txt` is, for parquet.
        counts_layer: Layer with the raw counts of an h5ad file; None for `X`.

    Raises:
        UserError: The file cannot be used.
    """
    if path.suffix != ".parquet":
        return H5adTable.open(path, counts_layer)
    refuse_without_effect(path, counts_layer=counts_layer)
    return ParquetTable.open(path, read_genes(folder / "genes.txt"))


def _unit_column(table: CountTable, key: str) -> npt.NDArray[np.str_]:
    if key not in table.columns:
        raise missing_column(table.path, key, table.columns, "unit_key")
    return table.column(key).astype(np.str_)


def _warn_of_parquet(data: Path, parts: Mapping[tuple[str, str], Part], borrowed: set[tuple[str, str]]) -> None:
    if any(part.table.path.suffix == ".parquet" for part in parts.values()):
        text = "log-normalised tables; tokens are made from expm1 of them, the original counts are lost"
        warnings.warn(f"{data}: {text}", stacklevel=4)
    if borrowed:
        names = ", ".join(sorted(client for client, _ in borrowed))
        text = f"no test.parquet for {names}; the val split stands in, so test figures are optimistic"
        warnings.warn(f"{data}: {text}", stacklevel=4)


@dataclass(frozen=True)
class FileOptions:
    """How one file is cut into clients and splits; the fields are those of `datasets.cells.Study.open`."""

    client_key: str | None
    split_key: str
    unit_key: str | None
    held_out: str | None
    fractions: tuple[float, ...]
    seed: int
    blocks: int | None


def of_file(table: H5adTable, options: FileOptions) -> Layout:
    """Take one file apart by its obs columns.

    Raises:
        UserError: A column is missing or its values cannot be used.
    """
    has_split = options.split_key in table.columns
    if has_split and options.blocks is not None:
        key = f"obs[{options.split_key!r}]"
        raise UserError(f"{table.path}: blocks: {options.blocks} has no effect beside {key}; remove one of the two")
    clients = _client_rows(table, options.client_key)
    units_N = _units(table, options, has_split)
    held_out = _take_held_out(table, clients, units_N, options)
    splits_N = table.column(options.split_key).astype(np.str_) if has_split else None
    parts = {}
    for client, rows in clients.items():
        units = None if units_N is None else units_N[rows]
        if splits_N is not None:
            splits = _checked(splits_N[rows], table.path, options.split_key, client)
        else:
            assert units is not None, "without a split column, _units gives units or refuses"
            splits = split_units(units, options.fractions, seed=options.seed, client=client, source=str(table.path))
        for split in SPLITS:
            wanted = splits == split
            parts[client, split] = Part(table, rows[wanted], None if units is None else units[wanted])
    return Layout(parts, held_out)


def _client_rows(table: H5adTable, client_key: str | None) -> dict[str, npt.NDArray[np.int64]]:
    if client_key is None:
        raise UserError(f"{table.path}: client_key is not set; name the obs column that tells the clients apart")
    names, client_of_cell = np.unique(table.column(client_key).astype(np.str_), return_inverse=True)
    return {str(name): np.flatnonzero(client_of_cell == place) for place, name in enumerate(names)}


def _units(table: H5adTable, options: FileOptions, has_split: bool) -> npt.NDArray[np.str_] | None:
    key = options.unit_key
    if has_split and key is None:
        return None
    if key is None and options.blocks is None:
        text = f"obs: no split column {options.split_key!r}; set unit_key or blocks to make splits"
        raise UserError(f"{table.path}: {text}")
    named = np.full(table.size, "all") if key is None else _unit_column(table, key)
    if options.blocks is None:
        return named
    return spatial_blocks(named, _coordinate(table, "x"), _coordinate(table, "y"), options.blocks, str(table.path))


def _coordinate(table: H5adTable, name: str) -> npt.NDArray[np.float64]:
    try:
        return table.column(name).astype(np.float64)
    except ValueError as error:
        raise UserError(f"{table.path}: obs[{name!r}]: not numbers; blocks need coordinates x and y") from error


def _take_held_out(
    table: H5adTable,
    clients: dict[str, npt.NDArray[np.int64]],
    units_N: npt.NDArray[np.str_] | None,
    options: FileOptions,
) -> Part | None:
    name = options.held_out
    if name is None:
        return None
    if name not in clients:
        known = ", ".join(clients)
        raise UserError(
            f"{table.path}: held_out: {name!r} is not in obs[{options.client_key!r}]; choose one of {known}"
        )
    rows = clients.pop(name)
    if not clients:
        raise UserError(f"{table.path}: held_out: {name!r} is the only client; leave some cells to train on")
    return Part(table, rows, None if units_N is None else units_N[rows])


def _checked(splits: npt.NDArray[np.str_], path: Path, key: str, client: str) -> npt.NDArray[np.str_]:
    if unknown := sorted(set(splits.tolist()).difference(SPLITS)):
        raise UserError(f"{path}: obs[{key!r}]: {unknown[0]!r} is not a split; use {', '.join(SPLITS)}")
    if empty := [split for split in SPLITS if split not in splits]:
        raise UserError(
            f"{path}: obs[{key!r}]: client {client!r} has no {empty[0]} cells; give every client all splits"
        )
    return splits
