"""Which images a study has, and of which replicate, time point and animal each is: from its id, or from a table.

An id such as `R2_T4_17_0001` is replicate, time point, animal and image. A metadata table with one row per image has
the columns `unique_sample_id` and `animal_id`, and any others (`replicate`, `timepoint`, `treatment`, ...).
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.errors import UserError
from datasets.histology_table import read_columns

GroupBy = Literal["animal", "replicate", "none"]

SAMPLE = "unique_sample_id"
ANIMAL = "animal_id"
REPLICATE = "replicate"
SUFFIXES = (".h5", ".hdf5")
TABLES = ("metadata.csv", "metadata.tsv")
ID = re.compile(r"(?P<replicate>[^_]+)_(?P<timepoint>[^_]+)_(?P<animal_id>[^_]+)_(?P<image_id>[^_]+)")


@dataclass(frozen=True)
class Sample:
    """One image of a study.

    Attributes:
        name: Sample id.
        path: Its HDF5 file.
        columns: What is known of it, by column of the metadata table or part of the id.
        from_id: Whether that is parts of the id.
    """

    name: str
    path: Path
    columns: Mapping[str, str]
    from_id: bool = False

    @property
    def animal(self) -> str:
        """Name the animal, uniquely within the study.

        Animals are numbered within their replicate, so what an id says, and a bare number in a table, is put behind the
        replicate: `R2_17`. Time points do not count: the same number at two of them may be one animal, and is never
        taken apart. What is more than a number in a table stands for itself.
        """
        name = self.columns[ANIMAL]
        within = REPLICATE in self.columns and (self.from_id or name.isdecimal())
        return f"{self.columns[REPLICATE]}_{name}" if within else name

    def unit(self, group_by: GroupBy) -> str:
        """Name what is never split: the animal, the replicate, or the image alone."""
        return {"animal": self.animal, "replicate": self.columns.get(REPLICATE, ""), "none": self.name}[group_by]

    def value(self, key: str) -> str:
        """Give a column, or for "animal" the name of the animal."""
        return self.animal if key == "animal" else self.columns[key]


def sample_name(path: Path) -> str:
    """Give the sample id: `processed_data_<id>.h5`, `<id>_processed_data.h5` and `<id>.h5` are names of its file."""
    return path.stem.removeprefix("processed_data_").removesuffix("_processed_data")


def find_files(data: Path) -> dict[str, Path]:
    """Find the HDF5 files of a folder and of the folders in it; or take a single file.

    Returns:
        Sample id -> file, by sorted id.

    Raises:
        UserError: There is no such file or folder, it holds no HDF5 file, or one sample has two files.
    """
    if not data.exists():
        raise UserError(f"{data}: no such file or folder; check the path, or make data with `python -m datasets`")
    if data.is_file():
        return {sample_name(data): data}
    files: dict[str, Path] = {}
    for path in sorted([*data.glob("*"), *data.glob("*/*")]):
        parts = path.relative_to(data).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or path.suffix not in SUFFIXES or not path.is_file():
            continue
        if (other := files.setdefault(sample_name(path), path)) != path:
            raise UserError(f"{path}: sample {sample_name(path)!r} is in {other}, too; remove one of the two")
    if not files:
        raise UserError(f"{data}: holds no HDF5 file; expected <sample>/processed_data_<sample>.h5")
    return dict(sorted(files.items()))


def read_samples(data: Path, metadata: Path | None = None, *, needed: Sequence[str] = ()) -> list[Sample]:
    """List the images of a study, sorted by id.

    Args:
        data: Folder with the HDF5 files.
        metadata: The table, CSV or TSV; by default `metadata.csv` or `metadata.tsv` in the folder if there, else what
            is known is read from the ids.
        needed: Columns, or "animal", that must be known.

    Raises:
        UserError: Files are missing or twice there, the table lacks a column or sample, or an id cannot be read.
    """
    files = find_files(data)
    source = metadata or next((data / name for name in TABLES if (data / name).is_file()), None)
    needed = [key for key in needed if key != "animal"]
    if source is None:
        return [Sample(name, path, _parts(path, name, needed), from_id=True) for name, path in files.items()]
    rows = _rows(source, [SAMPLE, ANIMAL, *needed])
    absent = [name for name in files if name not in rows]
    if absent:
        more = f", nor for {len(absent) - 1} more" if len(absent) > 1 else ""
        raise UserError(f"{source}: no row for sample {absent[0]!r} ({files[absent[0]]}){more}; add it")
    if surplus := len(rows) - len(files):
        warnings.warn(f"{source}: {surplus} rows have no file in {data}; left out", stacklevel=3)
    return [Sample(name, path, rows[name]) for name, path in files.items()]


def _parts(path: Path, name: str, needed: Sequence[str]) -> dict[str, str]:
    matched = ID.fullmatch(name)
    if matched is None:
        raise UserError(
            f"{path}: the id {name!r} is not replicate_timepoint_animal_image such as R2_T4_17_0001; "
            f"rename it or give a metadata table with {SAMPLE} and {ANIMAL}"
        )
    parts = matched.groupdict()
    for key in needed:
        if key not in parts:
            raise UserError(
                f"{path.parent.parent}: {key!r} is no part of the ids ({', '.join(parts)}); "
                f"give a metadata table with this column"
            )
    return parts


def _rows(source: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    table = read_columns(source, list(dict.fromkeys(columns)))
    names = table[SAMPLE].tolist()
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{source}: sample {double!r} has {names.count(double)} rows; keep one")
    records: list[dict[str, str]] = table.to_dict("records")  # type: ignore[assignment]
    return dict(zip(names, records, strict=True))
