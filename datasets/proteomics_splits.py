"""Train, val and test of samples on two platforms, as scikit-learn's `train_test_split` applied twice draws them.

First the test share, then val from the rest, both with the same seed: the published draw. What is drawn are donors, or
samples where nobody names donors, in the order of their sorted ids.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import train_test_split

from core.errors import UserError
from core.files import write_text
from datasets.proteomics_files import SEPARATORS, Texts, read_texts
from datasets.unit_splits import SPLITS, check_fractions

Rows = npt.NDArray[np.int64]


def split_rows(count: int, fractions: Sequence[float], seed: int, source: str) -> tuple[Rows, Rows, Rows]:
    """Draw train, val and test from 0 ... count-1, in the order drawn.

    Args:
        count: Number of rows.
        fractions: Shares of train, val and test; val and test are rounded up.
        seed: Of numpy's legacy generator.
        source: What to name in an error.

    Raises:
        UserError: The fractions do not sum to 1, the seed is out of range, or a split would stay empty.
    """
    check_fractions(fractions)
    _check_seed(seed)
    train, val, test = fractions
    try:
        rest, last = train_test_split(np.arange(count), test_size=test, random_state=seed)
        first, second = train_test_split(rest, test_size=val / (train + val), random_state=seed)
    except ValueError:
        raise UserError(
            f"{source}: {count} samples (donors) are too few for train, val and test of {train}, {val} and {test}; "
            "add samples or use fewer clients"
        ) from None
    return first, second, last


def draw_splits(
    units_N: Texts, drawn_N: npt.NDArray[np.bool_], fractions: Sequence[float], seed: int, source: str
) -> Texts:
    """Split the samples of one client by whole units.

    Args:
        units_N: Donor of each sample.
        drawn_N: Which samples to draw from. The others follow their donor, and go to train where that is not drawn:
            so val and test are the same with and without them.
        fractions: Shares of train, val and test, in units.
        seed: Of the draw.
        source: What to name in an error.

    Returns:
        Name of the split of each sample, [N].

    Raises:
        UserError: There are too few units.
    """
    units = np.unique(units_N[drawn_N])
    split_of: dict[str, str] = {}
    for split, rows in zip(SPLITS, split_rows(len(units), fractions, seed, source), strict=True):
        split_of |= dict.fromkeys(units[rows].tolist(), split)
    return np.asarray([split_of.get(unit, SPLITS[0]) for unit in units_N.tolist()], dtype="<U5")


def read_split(source: Path) -> dict[str, str]:
    """Read a split: ids in the first column, and a column `split`.

    Raises:
        UserError: The file cannot be read, or a row names no split.
    """
    ids, table = read_texts(source)
    if "split" not in table.columns[1:]:
        raise UserError(f"{source}: no column 'split' beside the ids; add it, with {', '.join(SPLITS)}")
    splits = table["split"].str.strip().tolist()
    for name, split in zip(ids, splits, strict=True):
        if split not in SPLITS:
            raise UserError(f"{source}: row {name!r}: split = {split!r}; write one of {', '.join(SPLITS)}")
    return dict(zip(ids, splits, strict=True))


def write_split(path: Path, ids: Sequence[str], clients: Sequence[str], splits: Sequence[str]) -> None:
    """Write a split with the columns id, client and split, as `read_split` reads it."""
    table = pd.DataFrame({"id": list(ids), "client": list(clients), "split": list(splits)})
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def split_files(
    platform_a: Path,
    platform_b: Path,
    folder: Path,
    *,
    test_size: float = 0.2,
    seed: int = 42,
    id_column: str | None = None,
    unit_column: str | None = None,
) -> list[dict[str, Any]]:
    """Write `{stem}_train` and `{stem}_test` of both files: ids that both have, sorted, cells as they were written.

    Args:
        platform_a: A CSV or TSV; the results have the same kind.
        platform_b: Another.
        folder: Where to write.
        test_size: Share of the test, in samples, or in donors with `unit_column`.
        seed: Of numpy's legacy generator.
        id_column: Name of the id column in both files; None for the first column of each.
        unit_column: Column of the donor in the first file, whose samples stay together.

    Returns:
        File name and number of samples of each file written.

    Raises:
        UserError: A file cannot be used, the two share no id, a sample has no donor, a file would be overwritten, or a
            part would stay empty. Then nothing is written.
    """
    _check_seed(seed)
    if not 0 < test_size < 1:
        raise UserError(f"test_size: {test_size} is not between 0 and 1; give a share such as 0.2")
    tables = {path: _by_id(path, id_column) for path in (platform_a, platform_b)}
    if len(tables) < 2 or platform_a.stem == platform_b.stem:
        raise UserError(f"{platform_b}: has the name of the other file; rename one, as results are named after both")
    shared = sorted(set(tables[platform_a].index).intersection(tables[platform_b].index))
    if not shared:
        raise UserError(f"{platform_a}: shares no id with {platform_b}; check the id columns")
    units = (
        np.asarray(shared, np.str_)
        if unit_column is None
        else _units(tables[platform_a], platform_a, unit_column, shared)
    )
    distinct = np.unique(units)
    try:
        parts = train_test_split(np.arange(len(distinct)), test_size=test_size, random_state=seed)
    except ValueError:
        raise UserError(f"{platform_a}: {len(distinct)} samples are too few to split; add samples") from None
    drawn = {name: set(distinct[part].tolist()) for name, part in zip(("train", "test"), parts, strict=True)}
    targets = {(name, path): folder / f"{path.stem}_{name}{path.suffix}" for name in drawn for path in tables}
    for target in targets.values():
        if target.exists():
            raise UserError(f"{target}: is there already; choose another folder, nothing is overwritten")
    for path, table in tables.items():
        if alone := len(table) - len(shared):
            warnings.warn(f"{path}: {alone} samples are not on the other platform; left out", stacklevel=2)
    records = []
    for (name, path), target in targets.items():
        chosen = [own for own, unit in zip(shared, units, strict=True) if unit in drawn[name]]
        text = tables[path].loc[chosen].to_csv(index=False, sep=SEPARATORS[path.suffix.lower()], lineterminator="\n")
        write_text(target, text)
        records.append({"file": target.name, "samples": len(chosen)})
    return records


def _by_id(source: Path, id_column: str | None) -> pd.DataFrame:
    ids, table = read_texts(source, id_column)
    return table.set_index(pd.Index(ids))


def _units(table: pd.DataFrame, source: Path, column: str, ids: Sequence[str]) -> Texts:
    if column not in table.columns:
        raise UserError(f"{source}: no column {column!r}; name the column of the donor or leave it out")
    units = table.loc[list(ids), column].str.strip().tolist()
    if "" in units:
        raise UserError(
            f"{source}: sample {ids[units.index('')]!r} has no donor in {column!r}; fill it in or drop the sample"
        )
    return np.asarray(units, np.str_)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: {seed} is outside of 0 ... {2**32 - 1}; choose another")


def joined(split_of: Mapping[str, str], ids: Sequence[str]) -> Texts:
    """Look up the splits of samples; "" for those that the split does not name."""
    return np.asarray([split_of.get(name, "") for name in ids], dtype="<U5")
