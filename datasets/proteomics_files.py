"""Tables of abundances: one row per sample, one column per protein, the first column its id.

`.csv` is separated by commas, `.tsv` and `.txt` by tabs. Ids are text. Cells that are empty or hold one of `MISSING`,
in any case and with blanks around, are missing; anything else that is no finite number is refused, and so is a row that
is too long or too short.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.errors import UserError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
MISSING = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NAN", "n/a", "NULL", "null", "None")
ABSENT = {text.casefold() for text in MISSING}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
LARGEST = 1e150
"""Squares of larger values are no numbers of double precision."""
Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Matrix:
    """One platform as measured.

    Attributes:
        source: The file.
        ids: Of the samples, [N].
        features: Names of the proteins, in the order of the file.
        values: Abundances, [N, D], NaN where missing.
        labels: Columns of text that were asked for and are there, such as the client, [N] each.
    """

    source: Path
    ids: Texts
    features: tuple[str, ...]
    values: npt.NDArray[np.float64]
    labels: Mapping[str, Texts]

    def columns(self, features: Sequence[str], platform: str, elsewhere: Sequence[str] = ()) -> npt.NDArray[np.int64]:
        """Find columns by name; others are ignored.

        Args:
            features: Names wanted, in this order.
            platform: What these are the features of, for the message: `a` or `b`.
            elsewhere: Features of the other platform.

        Raises:
            UserError: A feature is missing; says so where the file seems to be that of the other platform.
        """
        place = {name: at for at, name in enumerate(self.features)}
        missing = [name for name in features if name not in place]
        if missing and looks_swapped(self.features, features, elsewhere):
            raise swapped(self.source, platform)
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{self.source}: feature {missing[0]!r} of platform {platform} is missing{more}; "
                "add the column (cells may be empty), or train without it"
            )
        return np.asarray([place[name] for name in features], np.int64)


def looks_swapped(own: Iterable[str], here: Iterable[str], elsewhere: Iterable[str]) -> bool:
    """Tell whether a file shares more features with the other platform than with its own."""
    return len(set(own).intersection(elsewhere)) > len(set(own).intersection(here))


def swapped(source: Path, platform: str) -> UserError:
    """Say that a file holds the other platform."""
    other = {"a": "b", "b": "a"}[platform]
    return UserError(f"{source}: holds the features of platform {other}, not {platform}; swap the two files")


def read_matrix(source: Path, text_columns: Sequence[str] = (), *, wanted: Collection[str] | None = None) -> Matrix:
    """Read the abundances of one platform.

    Args:
        source: A CSV or TSV.
        text_columns: Columns that are no features, where they are there: client, donor.
        wanted: Features to read, where they are there; by default all other columns are features.

    Raises:
        UserError: The file cannot be read, an id is missing or double, a cell is no finite number, or there is no
            feature. The message names file, row and column.
    """
    text, separator, header = _checked_text(source)
    key, *others = header
    features = [name for name in others if name not in text_columns and (wanted is None or name in wanted)]
    if wanted is None and not features:
        raise UserError(f"{source}: has no feature column beside {', '.join(map(repr, header))}; check the separator")
    kept = [name for name in others if name in text_columns]
    columns = [key, *kept, *features]
    table = _parsed(text, separator, header, dict.fromkeys((key, *kept), str), features)[columns]
    if any(kind.kind not in "fiu" for kind in table[features].dtypes):  # Read cell by cell, to name what is no number.
        table = _parsed(text, separator, header, dict.fromkeys(header, str), ())[columns]
    ids = _ids(source, key, table[key].tolist())
    values = _numbers(source, table[features], ids)
    labels = {name: np.asarray([str(text).strip() for text in table[name]], np.str_) for name in kept}
    return Matrix(source, np.asarray(ids, np.str_), tuple(features), values, labels)


def _parsed(
    text: str, separator: str, header: list[str], kinds: Mapping[str, type], features: Sequence[str]
) -> pd.DataFrame:
    with io.StringIO(text) as stream:
        return pd.read_csv(
            stream,
            sep=separator,
            header=0,
            names=header,
            dtype=kinds,
            na_values={name: list(MISSING) for name in features},
            keep_default_na=False,
            index_col=False,
            skipinitialspace=True,
            float_precision="round_trip",
            low_memory=False,
        )


def read_texts(source: Path, id_column: str | None = None) -> tuple[list[str], pd.DataFrame]:
    """Read a table with every cell as it is written, and the ids in `id_column` or else its first column.

    Raises:
        UserError: The file cannot be read, has no such column, or an id is missing or double.
    """
    text, separator, header = _checked_text(source)
    with io.StringIO(text) as stream:
        table = pd.read_csv(
            stream, sep=separator, header=0, names=header, dtype=str, keep_default_na=False, index_col=False
        )
    if id_column is not None and id_column not in header:
        raise UserError(f"{source}: no column {id_column!r}; name the id column or leave it out for the first one")
    key = header[0] if id_column is None else id_column
    return _ids(source, key, table[key].tolist()), table


def _checked_text(source: Path) -> tuple[str, str, list[str]]:
    """Read a file and its header, and check that all rows have as many cells."""
    separator = SEPARATORS.get(source.suffix.lower())
    if separator is None:
        raise UserError(f"{source}: unknown kind of file; give a .csv (commas), or a .tsv or .txt (tabs)")
    try:
        text = source.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: not a readable text file ({error}); mend the file") from error
    if "\0" in text:
        raise UserError(f"{source}: not a text file (it holds NUL bytes); save the table as text anew")
    lines = csv.reader(io.StringIO(text), delimiter=separator) if '"' in text else _plain_rows(text, separator)
    rows = filter(None, lines)
    header = [name.strip() for name in next(rows, [])]
    if len(header) < 2:
        kind = "commas" if separator == "," else "tabs"
        raise UserError(
            f"{source}: has no column beside the ids in its first line, {''.join(header)!r}; give ids and features, "
            f"separated by {kind}, and nothing above them"
        )
    _refuse_names(source, header)
    empty = True
    for cells in rows:
        empty = False
        if len(cells) != len(header):
            named = "; name the id column, too" if len(cells) == len(header) + 1 else "; mend the row"
            raise UserError(
                f"{source}: row {cells[0]!r} has {len(cells)} cells, the header has {len(header)} names{named}"
            )
    if empty:
        raise UserError(f"{source}: holds no rows; add one row per sample")
    return text, separator, header


def _plain_rows(text: str, separator: str) -> Iterable[list[str]]:
    return (line.rstrip("\r").split(separator) if line.strip("\r") else [] for line in text.split("\n"))


def _refuse_names(source: Path, header: list[str]) -> None:
    for at, name in enumerate(header):
        if not name and at:
            raise UserError(f"{source}: column {at + 1} of the header has no name; name it or drop it")
        if header.index(name) != at:
            raise UserError(f"{source}: column {name!r} occurs twice; rename or drop one")


def _ids(source: Path, key: str, texts: list[str]) -> list[str]:
    ids = [text.strip() for text in texts]
    first: dict[str, int] = {}
    for at, name in enumerate(ids):
        if not name:
            raise UserError(f"{source}: row {at + 2}: {key or 'the id'} is empty; fill it in or drop the row")
        first.setdefault(name, at)
    if len(first) < len(ids):
        double = sorted({name for at, name in enumerate(ids) if first[name] != at})
        shown = ", ".join(map(repr, double[:3])) + (f" and {len(double) - 3} more" if len(double) > 3 else "")
        raise UserError(f"{source}: {key or 'id'} {shown} occurs more than once; keep one row per sample")
    return ids


def _numbers(source: Path, table: pd.DataFrame, ids: Sequence[str]) -> npt.NDArray[np.float64]:
    """Give numbers, where cells are texts out of these; all of them and their squares must be finite."""
    values = table.to_numpy()
    if values.dtype == object:
        texts = np.asarray([[cell.strip() for cell in row] for row in values.tolist()], object)
        missing = np.asarray([[cell.casefold() in ABSENT for cell in row] for row in texts])
        number = np.asarray([[NUMBER.fullmatch(cell) is not None for cell in row] for row in texts])
        advice = (
            "correct it or leave it empty; a column that is no feature is dropped, or named as unit_key or client_key"
        )
        _refuse(source, ~number & ~missing, table, ids, "no number", advice)
        values = np.where(missing, "nan", texts)
    values = values.astype(np.float64)
    _refuse(source, np.isinf(values), table, ids, "infinite", "leave the cell empty or drop the row")
    _refuse(source, np.abs(values) > LARGEST, table, ids, "too large", "correct it or leave it empty")
    return values


def _refuse(
    source: Path, bad_ND: npt.NDArray[np.bool_], written: pd.DataFrame, ids: Sequence[str], what: str, advice: str
) -> None:
    """Name the first bad cell of the first column that has one, and count the others."""
    places = np.argwhere(bad_ND.T)
    if len(places):
        column, at = places[0].tolist()
        more = f", and {len(places) - 1} more cells" if len(places) > 1 else ""
        said = f"row {ids[at]!r}: {written.columns[column]} = {str(written.iat[at, column])!r} is {what}"
        raise UserError(f"{source}: {said}{more}; {advice}")
