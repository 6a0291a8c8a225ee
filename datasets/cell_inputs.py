"""New cells, of which nobody says what they are: one file, or all files of a folder."""

from collections.abc import Sequence
from pathlib import Path

from core.errors import UserError
from datasets.cells import Cells
from datasets.layouts import open_table

SUFFIXES = (".h5ad", ".parquet")
NEW = "new"


def open_cells(path: Path, counts_layer: str | None, columns: Sequence[str]) -> list[Cells]:
    """Open new cells; reads names only.

    Args:
        path: An h5ad file, a parquet table with `genes.txt` beside it, or a folder of such files.
        counts_layer: Layer with the raw counts of an h5ad file; None for `X`.
        columns: obs columns that will be read.

    Returns:
        The cells of each file, in the order of file names.

    Raises:
        UserError: There is no file, or one cannot be used.
    """
    cells = [Cells(open_table(file, file.parent, counts_layer), NEW, "test") for file in _files(path)]
    for one in cells:
        for name in columns:
            if not one.has(name):
                there = ", ".join(one.table.columns) or "none"
                raise UserError(
                    f"{one.path}: obs: no column {name!r}, which the network was trained with; add it (there: {there})"
                )
    return cells


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / "clients").is_dir():
        raise UserError(f"{path}: a whole study, not new cells; name files of it, such as clients/NAME/test.h5ad")
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
    if not files:
        raise UserError(f"{path}: holds no {' or '.join(SUFFIXES)} file; name a folder with some, or a file")
    return files
