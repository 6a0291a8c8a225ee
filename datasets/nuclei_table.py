"""The class table of a nuclei study: which sample is of which class, and what else its columns say of it."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.errors import UserError

COLUMNS = ("class_id", "class_name", "sample_id")
UNCLASSIFIED_NAME = "Unclassified"
UNCLASSIFIED_ID = 19
SAMPLING_SEED = 42


@dataclass(frozen=True)
class Row:
    """One line of the class table.

    Attributes:
        sample: Sample id; numbers are padded to four digits.
        class_id: Number of the class, as in the file.
        class_name: Its name.
        line: Line of the file, counted from 1.
        columns: All columns as text.
    """

    sample: str
    class_id: int
    class_name: str
    line: int
    columns: Mapping[str, str] = field(repr=False)

    @property
    def classified(self) -> bool:
        """Whether somebody has given this nucleus a class."""
        return self.class_name != UNCLASSIFIED_NAME and self.class_id != UNCLASSIFIED_ID


@dataclass(frozen=True)
class Selection:
    """Which rows of the class table are used.

    Attributes:
        classes: Class ids to keep; None keeps all.
        samples: Sample ids to keep; None keeps all.
        sample_percent: Percentage of each class to keep, 1 to 100.
    """

    classes: Sequence[int] | None = None
    samples: Sequence[str] | None = None
    sample_percent: float = 100.0


def canonical(sample: str) -> str:
    """Pad a sample number to four digits, as its folder is named; other ids stay as they are."""
    return sample.zfill(4) if sample.isdecimal() else sample


def read_table(path: Path, *, unique: Sequence[str] = ()) -> list[Row]:
    """Read the whole class table, sorted by sample.

    Args:
        path: CSV with the columns class_id, class_name, sample_id, and any others.
        unique: Columns, such as the client's, in which a sample that is listed twice is said to differ.

    Raises:
        UserError: The file is missing, lacks a column or a value, or lists a sample twice.
    """
    records = _records(path)
    if not records:
        raise UserError(f"{path}: holds no rows; list at least one sample")
    columns = records[0][1]
    for column in (*COLUMNS, *unique):
        if column not in columns:
            raise UserError(f"{path}: no column {column!r}, only {', '.join(columns)}; add it or correct its name")
    rows = [_row(path, line, record) for line, record in records]
    _refuse_repeats(path, rows, unique)
    return sorted(rows, key=lambda row: row.sample)


def read_samples(path: Path) -> list[str]:
    """Read the sample ids of a table that need not say what they are.

    Raises:
        UserError: The file is missing, is no CSV, lists nothing, or lists a sample twice.
    """
    records = _records(path)
    if not records or "sample_id" not in records[0][1]:
        columns = ", ".join(records[0][1]) if records else "no rows"
        raise UserError(f"{path}: no column 'sample_id', only {columns}; add it, one row per nucleus")
    first: dict[str, int] = {}
    for line, record in records:
        sample = _sample(path, line, record["sample_id"])
        if first.setdefault(sample, line) != line:
            raise UserError(f"{path}: sample {sample!r} is listed twice (lines {first[sample]} and {line}); remove one")
    return list(first)


def select(path: Path, rows: Sequence[Row], selection: Selection) -> list[Row]:
    """Drop what is unclassified, then what the selection leaves out.

    Of each class the first max(1, floor(n p / 100)) of a permutation are kept, numpy's legacy one with seed 42, as
    `DataFrame.sample(random_state=42)` draws them in the published code.

    Raises:
        UserError: The selection names a class or sample that is not there, leaves nothing, or a class has two names.
    """
    if not 0 < selection.sample_percent <= 100:
        raise UserError(f"sample_percent: {selection.sample_percent} must be above 0 and at most 100")
    kept = [row for row in rows if row.classified]
    if selection.classes is not None:
        _require(path, "class", selection.classes, {row.class_id for row in kept})
        kept = [row for row in kept if row.class_id in set(selection.classes)]
    if selection.samples is not None:
        wanted = {canonical(sample) for sample in selection.samples}
        _require(path, "sample", sorted(wanted), {row.sample for row in rows})
        kept = [row for row in kept if row.sample in wanted]
    if not kept:
        raise UserError(f"{path}: no sample is left after the filters; widen classes or samples")
    _check_names(path, kept)
    return _thinned(kept, selection.sample_percent)


def _records(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file as text: line number and values by column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True, strict=True)
            lines = [(reader.line_num, [value.strip() for value in values]) for values in reader if values]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such class table; check options.class_table") from error
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a CSV file ({error}); write it anew") from error
    header = lines[0][1] if lines else []
    for line, values in lines[1:]:
        if len(values) != len(header):
            raise UserError(f"{path}: line {line}: {len(values)} values for {len(header)} columns; correct the line")
    return [(line, dict(zip(header, values, strict=True))) for line, values in lines[1:]]


def _row(path: Path, line: int, columns: Mapping[str, str]) -> Row:
    sample, class_id, class_name = (columns[key] for key in ("sample_id", "class_id", "class_name"))
    sample = _sample(path, line, sample)
    if not class_id.isdecimal():
        raise UserError(f"{path}: line {line}: class_id {class_id!r} is not a whole number; correct it")
    if not class_name:
        raise UserError(f"{path}: line {line}: class_name is empty; name the class, or call it {UNCLASSIFIED_NAME}")
    return Row(sample, int(class_id), class_name, line, columns)


def _sample(path: Path, line: int, text: str) -> str:
    if not re.fullmatch(r"[\w][\w .+-]*", text):
        raise UserError(f"{path}: line {line}: sample_id {text!r} is not a folder name; correct it")
    return canonical(text)


def _refuse_repeats(path: Path, rows: Sequence[Row], unique: Sequence[str]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.sample, row)
        if first is not row:
            lines = f"lines {first.line} and {row.line}"
            for column in ("class_id", "class_name", *unique):
                if (one := first.columns[column]) != (other := row.columns[column]):
                    raise UserError(
                        f"{path}: sample {row.sample!r} has {column} {one!r} and {other!r} ({lines}); keep one"
                    )
            raise UserError(f"{path}: sample {row.sample!r} is listed twice ({lines}); remove one line")


def _require(path: Path, kind: str, wanted: Sequence[object], known: set[int] | set[str]) -> None:
    for one in wanted:
        if one not in known:
            some = ", ".join(map(str, sorted(known)[:10])) + (", ..." if len(known) > 10 else "")
            raise UserError(f"{path}: {kind} {one!r} is not in the table, which has {some}; correct the filter")


def _check_names(path: Path, rows: Sequence[Row]) -> None:
    names: dict[int, str] = {}
    for row in rows:
        if names.setdefault(row.class_id, row.class_name) != row.class_name:
            both = f"{names[row.class_id]!r} and {row.class_name!r}"
            raise UserError(f"{path}: line {row.line}: class {row.class_id} is called {both}; use one name")
    if len(set(names.values())) < len(names):
        double = next(name for name in names.values() if list(names.values()).count(name) > 1)
        ids = ", ".join(str(number) for number, name in sorted(names.items()) if name == double)
        raise UserError(f"{path}: class name {double!r} stands for the ids {ids}; use one id per name")


def _thinned(rows: Sequence[Row], percent: float) -> list[Row]:
    kept: list[Row] = []
    for class_id in sorted({row.class_id for row in rows}):
        members = sorted((row for row in rows if row.class_id == class_id), key=lambda row: row.line)
        count = max(1, int(len(members) * percent / 100))
        chosen = np.random.RandomState(SAMPLING_SEED).permutation(len(members))[:count]
        kept += [members[place] for place in chosen.tolist()]
    return sorted(kept, key=lambda row: row.sample)
