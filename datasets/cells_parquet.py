"""Cells in parquet tables of log-normalised expression: one row per cell, one column per gene.

Such tables hold `log1p(10,000 * count / counts of the cell)`. `expm1` gives values proportional to the counts, and a
cell's tokens depend on proportions only, so ranks and tokens survive. What does not survive: the counts themselves
(depth, quality filters, count likelihoods), and the order of scores that differ by less than float32 can tell. If the
normalisation summed over other genes than those in the table, proportions still hold but the check on row sums fails.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from core.errors import UserError
from datasets.count_table import check_values, missing_column, plain_column

ROW_SUM = 10_000.0
TOLERANCE = 0.01
ID_COLUMN = "id"


@dataclass(frozen=True)
class ParquetTable:
    """A `CountTable` of log-normalised values; `read` gives values proportional to counts.

    Attributes:
        path: The file.
        var_names: Gene ids, in the order of `genes.txt`.
        columns: Columns that are not genes.
        size: Number of cells.
    """

    path: Path
    var_names: tuple[str, ...]
    columns: tuple[str, ...]
    size: int

    @classmethod
    def open(cls, path: Path, genes: tuple[str, ...]) -> "ParquetTable":
        """Look into a file without reading its values.

        Raises:
            UserError: The file is missing, empty, not parquet, or lacks the id column or a gene.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file; check the path")
        try:
            with pq.ParquetFile(path) as file:
                present, size = file.schema_arrow.names, file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a parquet file; copy or make it anew") from error
        if size == 0:
            raise UserError(f"{path}: holds no cells; check how it was filtered")
        if missing := set(genes).difference(present):
            raise UserError(
                f"{path}: gene {min(missing)!r} of genes.txt is missing, {len(missing)} in all; make table and "
                "genes.txt from the same data"
            )
        if ID_COLUMN not in present:
            raise missing_column(path, ID_COLUMN, present[:20])
        known = set(genes)
        return cls(path, genes, tuple(name for name in present if name not in known), size)

    @functools.cached_property
    def names(self) -> npt.NDArray[np.str_]:
        """Cell ids, in file order."""
        return self.column(ID_COLUMN).astype(np.str_)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read one column that is not a gene.

        Raises:
            UserError: There is no such column, or text is missing in it.
        """
        if name not in self.columns:
            raise missing_column(self.path, name, self.columns)
        return plain_column(self.path, name, pq.read_table(self.path, columns=[name])[name].to_pandas())

    def read(self, rows: npt.NDArray[np.int64], size: int) -> Iterator[sp.csr_matrix]:
        """Read values proportional to the counts of the given rows (ascending), `size` cells at a time.

        Raises:
            UserError: The values are not log1p of shares of 10,000.
        """
        seen = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=size, columns=list(self.var_names)):
                first, last = np.searchsorted(rows, [seen, seen + len(batch)])
                wanted = rows[first:last] - seen
                seen += len(batch)
                if len(wanted):
                    yield self._counts(batch, wanted)

    def _counts(self, batch: pa.RecordBatch, wanted: npt.NDArray[np.int64]) -> sp.csr_matrix:
        columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in self.var_names]
        logs = sp.csr_matrix(np.stack(columns, axis=1)[wanted].astype(np.float64))
        remedy = "these columns must hold log1p of counts per 10,000; give h5ad files with raw counts instead"
        check_values(logs, f"{self.path}: gene columns", remedy)
        shares = logs.expm1()
        sums_B = np.asarray(shares.sum(axis=1)).ravel()
        wrong = (sums_B > 0) & (np.abs(sums_B - ROW_SUM) > TOLERANCE * ROW_SUM)
        if wrong.any():
            raise UserError(
                f"{self.path}: gene columns: expm1 of a cell sums to {sums_B[wrong][0]:.6g}, not 10,000, in "
                f"{int(wrong.sum())} cells; {remedy}"
            )
        return sp.csr_matrix(shares)


def read_genes(path: Path) -> tuple[str, ...]:
    """Read `genes.txt`: one gene id per line, in column order.

    Raises:
        UserError: The file is missing or empty.
    """
    try:
        genes = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read; parquet tables need this file with one gene id per line") from error
    if not genes:
        raise UserError(f"{path}: empty; write one gene id per line")
    return genes
