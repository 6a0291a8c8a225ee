"""Cells in an h5ad file, read lazily: opening looks at names only, and counts come a few rows at a time."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem

from core.errors import UserError
from datasets.count_table import check_values, missing_column, plain_column

GAP = 64
"""Unwanted rows that are read along rather than starting another read."""


@dataclass(frozen=True)
class H5adTable:
    """A `CountTable` in the AnnData on-disk format (version 0.8 and later).

    Attributes:
        path: The file.
        counts_key: Where the raw counts lie: `X` or `layers/<name>`.
        var_names: Gene ids, in column order.
        columns: Columns of `obs`.
        size: Number of cells.
    """

    path: Path
    counts_key: str
    var_names: tuple[str, ...]
    columns: tuple[str, ...]
    size: int

    @classmethod
    def open(cls, path: Path, counts_layer: str | None = None) -> "H5adTable":
        """Look into a file without reading its counts.

        Raises:
            UserError: The file is missing, empty, not AnnData, or has no cells, genes or counts.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file; check the path")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty file (0 bytes); copy or make it anew")
        if not h5py.is_hdf5(path):
            raise UserError(f"{path}: not an h5ad file (no HDF5 signature); save it with anndata's write_h5ad")
        try:
            with h5py.File(path, "r") as file:
                return cls._from(file, path, "X" if counts_layer is None else f"layers/{counts_layer}")
        except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged h5ad file ({error}); copy or make it anew") from error

    @classmethod
    def _from(cls, file: h5py.File, path: Path, counts_key: str) -> "H5adTable":
        for part in ("obs", "var"):
            if not isinstance(file.get(part), h5py.Group) or "_index" not in file[part].attrs:
                raise UserError(f"{path}: no AnnData table /{part}; save it anew with anndata 0.8 or later")
        if "__categories" in file["obs"]:
            raise UserError(f"{path}: /obs is in the format before anndata 0.8; save it anew with a later version")
        if counts_key not in file:
            layers = ", ".join(file.get("layers", {})) or "none"
            raise UserError(f"{path}: no matrix {counts_key!r}; give counts_layer, one of the layers: {layers}")
        encoding = str(file[counts_key].attrs.get("encoding-type", "array"))
        if encoding not in ("csr_matrix", "array"):
            raise UserError(
                f"{path}: {counts_key} is stored as {encoding}, by columns; save it as CSR, adata.X.tocsr()"
            )
        obs, var = file["obs"], file["var"]
        columns = tuple(str(name) for name in obs if name != obs.attrs["_index"])
        names = tuple(str(name) for name in read_elem(var[var.attrs["_index"]]))
        size = int(obs[obs.attrs["_index"]].shape[0])
        if size == 0:
            raise UserError(f"{path}: holds no cells; check how it was filtered")
        if not names:
            raise UserError(f"{path}: var is empty: no gene ids; give Ensembl ids as var_names")
        return cls(path, counts_key, names, columns, size)

    @functools.cached_property
    def names(self) -> npt.NDArray[np.str_]:
        """Cell ids, in file order."""
        with self._intact("obs"), h5py.File(self.path, "r") as file:
            return np.strings.strip(np.asarray(read_elem(file["obs"][file["obs"].attrs["_index"]])).astype(np.str_))

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read one column of `obs`.

        Raises:
            UserError: There is no such column, or text is missing in it.
        """
        if name not in self.columns:
            raise missing_column(self.path, name, self.columns)
        with self._intact(f"obs[{name!r}]"), h5py.File(self.path, "r") as file:
            values = read_elem(file["obs"][name])
        if isinstance(values, pd.Categorical) and not (values.codes < 0).any():
            categories = plain_column(self.path, name, values.categories)
            return np.asarray(categories[values.codes])
        return plain_column(self.path, name, values)

    def read(self, rows: npt.NDArray[np.int64], size: int) -> Iterator[sp.csr_matrix]:
        """Read the raw counts of the given rows (ascending), `size` cells at a time.

        Raises:
            UserError: The values are not raw counts.
        """
        with h5py.File(self.path, "r") as file:
            with self._intact(self.counts_key):
                indptr = _indptr(file[self.counts_key])
            for start in range(0, len(rows), size):
                with self._intact(self.counts_key):
                    counts = self._rows(file[self.counts_key], indptr, rows[start : start + size])
                self._check(counts, file)
                yield counts

    @contextlib.contextmanager
    def _intact(self, key: str) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: {key}: damaged ({error}); copy or make the file anew") from error

    def _rows(
        self, stored: h5py.Group | h5py.Dataset, indptr: npt.NDArray[np.int64] | None, rows: npt.NDArray[np.int64]
    ) -> sp.csr_matrix:
        parts = [self._span(stored, indptr, span) for span in _spans(rows)]
        return sp.csr_matrix(sp.vstack(parts, format="csr")) if len(parts) > 1 else parts[0]

    def _span(
        self, stored: h5py.Group | h5py.Dataset, indptr: npt.NDArray[np.int64] | None, rows: npt.NDArray[np.int64]
    ) -> sp.csr_matrix:
        first, last = int(rows[0]), int(rows[-1]) + 1
        if indptr is None:
            block = sp.csr_matrix(np.asarray(stored[first:last]))
        else:
            begin, end = int(indptr[first]), int(indptr[last])
            parts = (stored["data"][begin:end], stored["indices"][begin:end], indptr[first : last + 1] - begin)
            block = sp.csr_matrix(parts, shape=(last - first, len(self.var_names)))
        return block if len(rows) == last - first else block[rows - first]

    def _check(self, counts: sp.csr_matrix, file: h5py.File) -> None:
        layers = ", ".join(file.get("layers", {})) or "none"
        remedy = f"put raw counts there, or name the layer that holds them with counts_layer (layers: {layers})"
        check_values(counts, f"{self.path}: {self.counts_key}", remedy)
        if np.issubdtype(counts.dtype, np.floating) and (counts.data != np.rint(counts.data)).any():
            value = counts.data[counts.data != np.rint(counts.data)][0]
            raise UserError(
                f"{self.path}: {self.counts_key}: value {value:.6g} is not a whole number, so these are not raw counts "
                f"(log-normalised?); {remedy}"
            )


def _indptr(stored: h5py.Group | h5py.Dataset) -> npt.NDArray[np.int64] | None:
    return stored["indptr"][:] if isinstance(stored, h5py.Group) else None


def _spans(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Cut ascending rows where so many unwanted ones follow that a new read is cheaper."""
    yield from np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1)
