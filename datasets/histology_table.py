"""The metadata of an image -> expression study: one CSV row per image, with its group and its expression values.

Columns: `path` (image file), `group_id` (patient, slide or donor), `y0` ... `y{K-1}` (log-scale expression), and where
there are several data holders a column that names them. Further columns are ignored.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.errors import UserError

TARGET = re.compile(r"y(0|[1-9]\d*)")
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Table:
    """The images of a study.

    Attributes:
        source: The CSV.
        paths: As the CSV gives them: ids of the samples.
        files: Where the images are.
        groups: Patient, slide or donor of every image, as text.
        clients: Data holder of every image, where a column names it.
        targets: Log-scale expression, float64, shape [images, genes].
    """

    source: Path
    paths: npt.NDArray[np.str_]
    files: tuple[Path, ...]
    groups: npt.NDArray[np.str_]
    clients: npt.NDArray[np.str_] | None
    targets: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.paths)


def read_table(
    source: Path, *, path_col: str, group_col: str, client_col: str | None, target_dim: int | None, root: Path | None
) -> Table:
    """Read and check the metadata; paths and groups are text, so that `007` survives.

    Args:
        source: The CSV.
        path_col: Column of the image file.
        group_col: Column of the patient, slide or donor.
        client_col: Column of the data holder, where there is one.
        target_dim: Expected number of genes; None for as many as there are.
        root: Where relative paths start; None for the folder of the CSV.

    Raises:
        UserError: A column or value is missing, a value is no number, a path occurs twice, an image file is missing,
            or the number of genes is another. The message names the row.
    """
    columns = [path_col, group_col, *([client_col] if client_col else [])]
    table = read_columns(source, columns)
    targets = _targets(source, table, target_dim)
    paths, groups = (table[name].to_numpy(dtype=np.str_) for name in (path_col, group_col))
    remedy = "restore it or set data_root"
    files = _image_files(source, path_col, paths.tolist(), source.parent if root is None else root, remedy)
    clients = table[client_col].to_numpy(dtype=np.str_) if client_col else None
    if clients is not None:
        refuse_shared(groups, clients, f"{source}: {group_col}", f"{client_col}")
    return Table(source, paths, files, groups, clients, targets)


def image_rows(source: Path, path_col: str, root: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Read the images that a CSV lists, whatever else it holds.

    Args:
        source: The CSV.
        path_col: Column of the image file.
        root: Where relative paths start.

    Returns:
        Paths as the CSV gives them, and where the images are.

    Raises:
        UserError: The column or a value is missing, a path occurs twice, or an image file is missing.
    """
    paths = read_columns(source, [path_col])[path_col].tolist()
    return tuple(paths), _image_files(source, path_col, paths, root, f"restore it, or write its path from {root}")


def read_columns(source: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV, or by its suffix a TSV, as text without blanks around it; check that columns are there and full.

    Raises:
        UserError: The file cannot be read, is empty, lacks a column, or a value of one is missing.
    """
    separator = "\t" if source.suffix == ".tsv" else ","
    try:
        table = pd.read_csv(source, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
        # A blank that nobody sees must not make two animals of one.
        table = pd.DataFrame({name: column.str.strip() for name, column in table.items()})
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file; check the path, or make data with `python -m datasets`") from error
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        said = " ".join(str(error).split())
        raise UserError(f"{source}: not a readable CSV ({said}); mend the file") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        known = ", ".join(map(str, table.columns[:8]))
        raise UserError(f"{source}: no column {missing[0]!r}; it has {known}; name the right one or add it")
    if table.empty:
        raise UserError(f"{source}: holds no rows; add one row per image")
    for name in columns:
        _refuse_rows(source, table[name].tolist(), lambda text: not text, f"{name} is missing", "fill it in")
    return table


def read_gene_names(source: Path, count: int) -> list[str]:
    """Read the names of the genes behind y0, y1, ..., one a line.

    Raises:
        UserError: The file cannot be read, holds another number of names, or one twice.
    """
    try:
        names = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot read gene names ({error}); check options.genes") from error
    names = [name.strip() for name in names if name.strip()]
    if len(names) != count or len(set(names)) != count:
        raise UserError(f"{source}: {len(set(names))} different gene names for {count} targets; give one a line")
    return names


def refuse_shared(groups_N: npt.NDArray[np.str_], owners_N: npt.NDArray[np.str_], source: str, kind: str) -> None:
    """Refuse a group that has more than one owner (client or split).

    Raises:
        UserError: Names the first such group, two of its owners and a row of each.
    """
    first: dict[str, tuple[int, str]] = {}
    for at, (group, owner) in enumerate(zip(groups_N.tolist(), owners_N.tolist(), strict=True)):
        seen, other = first.setdefault(group, (at, owner))
        if other != owner:
            raise UserError(
                f"{source} {group!r} is in two places: {kind} {other!r} ({row_name(seen)}) and {owner!r} "
                f"({row_name(at)}); a group goes to one of them as a whole"
            )


def row_name(at: int) -> str:
    """Name a row, counted from 0, as people and editors count it."""
    return f"row {at + 1}, line {at + 2}"


def _targets(source: Path, table: pd.DataFrame, expected: int | None) -> npt.NDArray[np.float64]:
    found = [name for name in table.columns if TARGET.fullmatch(str(name))]
    names = [f"y{number}" for number in range(len(found))]
    absent = [name for name in names if name not in table.columns] or ([] if found else ["y0"])
    if absent:
        last = f" although {found[-1]} is there" if found else ""
        raise UserError(f"{source}: no column {absent[0]!r}{last}; name the targets y0, y1, ... without a gap")
    if expected is not None and len(names) != expected:
        raise UserError(
            f"{source}: has {len(names)} targets (y0 ... {names[-1]}), but options.target_dim is {expected}; "
            f"set it to {len(names)} or give another CSV"
        )
    values = np.column_stack([pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in names])
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        at, gene = bad[0].tolist()
        more = f", and {len(bad) - 1} more values" if len(bad) > 1 else ""
        said = table[names[gene]].iloc[at]
        raise UserError(
            f"{source}: {row_name(at)}: {names[gene]} = {said!r} is no finite number{more}; fill it in or drop the row"
        )
    return values


def _image_files(source: Path, column: str, paths: Sequence[str], root: Path, remedy: str) -> tuple[Path, ...]:
    files = tuple(root / path for path in paths)
    _refuse_duplicates(source, column, files)
    _refuse_rows(source, files, lambda file: not file.is_file(), "no such image file", remedy)
    return files


def _refuse_duplicates(source: Path, column: str, files: Sequence[Path]) -> None:
    first: dict[str, int] = {}
    for at, file in enumerate(files):
        seen = first.setdefault(str(file.resolve()), at)
        if seen != at:
            raise UserError(
                f"{source}: {row_name(at)}: {column} {str(file.name)!r} is that of {row_name(seen)} again; "
                "keep one row per image"
            )


def _refuse_rows(source: Path, values: Sequence[Value], bad: Callable[[Value], bool], fault: str, remedy: str) -> None:
    rows = [at for at, value in enumerate(values) if bad(value)]
    if rows:
        at = rows[0]
        more = f", and in {len(rows) - 1} more rows" if len(rows) > 1 else ""
        said = f": {values[at]}" if str(values[at]).strip() else ""
        raise UserError(f"{source}: {row_name(at)}: {fault}{said}{more}; {remedy}")
