"""The contract of a file of cells x genes, and the checks that all such files share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from core.errors import UserError


class CountTable(Protocol):
    """A file with one row per cell. Opening it reads no matrix; an instance can be pickled."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def names(self) -> npt.NDArray[np.str_]:
        """Cell ids, in file order."""

    @property
    def var_names(self) -> tuple[str, ...]:
        """Gene ids, in column order."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is known about each cell besides its counts."""

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read one column for all cells; text comes as numpy strings."""

    def read(self, rows: npt.NDArray[np.int64], size: int) -> Iterator[sp.csr_matrix]:
        """Read the counts of the given rows (ascending), `size` cells at a time, checked."""


def missing_column(path: Path, name: str, available: Sequence[str], option: str = "") -> UserError:
    """Make the error for a column that is not there; `option` is the key that asks for it, where it is known."""
    there = ", ".join(available) or "none there"
    remedy = f"add it or set {option} (columns there: {there})" if option else f"choose one of: {there}"
    return UserError(f"{path}: obs: no column {name!r}; {remedy}")


def plain_column(path: Path, name: str, values: Any) -> npt.NDArray[Any]:
    """Bring a column read by pandas or anndata to a plain array: numbers, booleans or numpy strings.

    Blanks around text go: one that nobody sees must not make two donors of one.

    Raises:
        UserError: A text or categorical column has missing values.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "OUS":
        return array
    missing = np.asarray(pd.isna(array))
    if missing.any():
        raise UserError(
            f"{path}: obs[{name!r}]: {int(missing.sum())} missing values, first in row {int(missing.argmax())}; "
            "fill in a value or remove these cells"
        )
    if array.dtype.kind == "O" and all(isinstance(value, (int, np.integer)) for value in array.tolist()):
        return array.astype(np.int64)
    return np.strings.strip(array.astype(np.str_))


def check_values(counts: sp.csr_matrix, key: str, remedy: str) -> None:
    """Refuse values that no measurement gives.

    Args:
        counts: A few cells.
        key: File and matrix, for the message.
        remedy: What to do about values below 0.

    Raises:
        UserError: A value is NaN, infinite or negative.
    """
    if counts.nnz == 0:
        return
    if not np.isfinite(counts.data).all():
        raise UserError(f"{key}: NaN or infinite values; set them to 0 or remove these cells")
    if (lowest := counts.data.min()) < 0:
        raise UserError(f"{key}: negative value {lowest:.6g}; {remedy}")
