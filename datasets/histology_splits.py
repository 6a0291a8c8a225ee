"""Train, validation and test by whole groups (patients, slides, donors), as a file that travels with the data.

The draw is that of the published splitter: distinct groups in order of first appearance, permuted by numpy's legacy
generator, the first of them for validation. A test set, folds, strata by client, refusals and the record are added.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.errors import UserError
from core.files import write_json, write_text
from datasets.histology_table import read_columns, refuse_shared
from datasets.unit_splits import SPLITS

VAL_RATIO = 0.2


@dataclass(frozen=True)
class Draw:
    """How groups are drawn.

    Attributes:
        seed: Of numpy's legacy generator.
        val_ratio: Share of the groups for validation; with `folds` it has no effect and must be None.
        test_ratio: Share of the groups for the test, drawn after (with `folds`: before) those for validation.
        folds: Parts that take turns in validation, or None for one split.
    """

    seed: int = 42
    val_ratio: float | None = None
    test_ratio: float | None = None
    folds: int | None = None

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UserError: A ratio is not between 0 and 1, there are fewer than two folds, or two options contradict.
        """
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed: {self.seed} is outside of 0 ... {2**32 - 1}; choose another")
        for name, ratio in (("val_ratio", self.val_ratio), ("test_ratio", self.test_ratio)):
            if ratio is not None and not 0 < ratio < 1:
                raise UserError(f"{name}: {ratio} is not between 0 and 1; give a share of the groups such as 0.2")
        if self.folds is not None and self.folds < 2:
            raise UserError(f"folds: {self.folds} is too few; give 2 or more, or leave it out")
        if self.folds is not None and self.val_ratio is not None:
            raise UserError(f"val_ratio: {self.val_ratio} has no effect with folds {self.folds}; leave one out")

    def options(self) -> dict[str, Any]:
        """Give what was asked for, defaults filled in, for the record."""
        default = VAL_RATIO if self.folds is None else None
        return {**asdict(self), "val_ratio": self.val_ratio or default}


def draw_splits(groups_N: Sequence[str], draw: Draw, source: str) -> list[npt.NDArray[np.str_]]:
    """Deal groups to splits.

    Args:
        groups_N: Group of every sample.
        draw: How.
        source: File to name in an error.

    Returns:
        Name of the split of every sample, shape [samples]; one array, or one per fold.

    Raises:
        UserError: A split would stay empty.
    """
    draw.check()
    groups = list(dict.fromkeys(groups_N))
    permuted = [groups[at] for at in np.random.RandomState(draw.seed).permutation(len(groups))]
    n_test = 0 if draw.test_ratio is None else _share(draw.test_ratio, len(groups))
    tested = f", {n_test} for test" if n_test else ""
    if draw.folds is not None:
        test, rest = permuted[:n_test], permuted[n_test:]
        if len(rest) < draw.folds:
            raise _too_few(groups, f"{draw.folds} folds{tested}", source)
        parts = np.array_split(np.arange(len(rest)), draw.folds)
        return [_named(groups_N, [rest[at] for at in part], test) for part in parts]
    n_val = _share(draw.val_ratio or VAL_RATIO, len(groups))
    if n_val + n_test >= len(groups):
        raise _too_few(groups, f"{n_val} for val{tested} and one or more for train", source)
    return [_named(groups_N, permuted[:n_val], permuted[n_val : n_val + n_test])]


def write_splits(
    metadata: Path, out: Path, draw: Draw, *, group_col: str, path_col: str, client_col: str | None = None
) -> list[dict[str, Any]]:
    """Split a metadata CSV and write the split CSV (with folds: one per fold) and, beside it, its record as JSON.

    `out.csv` has the columns path, group_id, split in the order of the metadata; folds are `out_fold1.csv`, ... The
    record is `out.json`: how it was drawn, SHA-256 of the metadata and of each split, samples and groups.

    Args:
        metadata: CSV with one image per row.
        out: The split CSV.
        draw: How groups are drawn.
        group_col: Column of the patient, slide or donor.
        path_col: Column of the image file.
        client_col: Column of the data holder; each holder's groups are then drawn by themselves.

    Returns:
        The record of each file: `file`, `sha256`, and split -> samples, groups and their shares.

    Raises:
        UserError: The metadata cannot be used, a group is at two clients, or a split would stay empty.
    """
    if out.resolve() == metadata.resolve():
        raise UserError(f"{out}: is the metadata itself; choose another name for the split")
    if out.suffix != ".csv":
        raise UserError(f"{out}: the split must end in .csv, its record goes beside it as .json; give such a name")
    table = read_columns(metadata, [path_col, group_col, *([client_col] if client_col else [])])
    groups = table[group_col].to_numpy(dtype=np.str_)
    clients = table[client_col].to_numpy(dtype=np.str_) if client_col else np.full(len(table), "")
    refuse_shared(groups, clients, f"{metadata}: {group_col}", str(client_col))
    drawn = [np.empty(len(table), dtype="<U5") for _ in range(draw.folds or 1)]
    for client in np.unique(clients):
        rows = clients == client
        source = f"{metadata}: {client_col} {client!r}" if client_col else str(metadata)
        for split, part in zip(drawn, draw_splits(groups[rows].tolist(), draw, source), strict=True):
            split[rows] = part
    files = [out] if draw.folds is None else [_fold_file(out, fold + 1) for fold in range(draw.folds)]
    records = []
    for path, split in zip(files, drawn, strict=True):
        lines = pd.DataFrame({"path": table[path_col], "group_id": groups, "split": split})
        text = lines.to_csv(index=False, lineterminator="\n")
        write_text(path, text)
        records.append({"file": path.name, "sha256": hashlib.sha256(text.encode()).hexdigest(), **count(groups, split)})
    made_from = {"metadata": metadata.name, "metadata_sha256": hashlib.sha256(metadata.read_bytes()).hexdigest()}
    columns = {"group_col": group_col, "path_col": path_col, "client_col": client_col}
    write_json(out.with_suffix(".json"), {**made_from, **columns, **draw.options(), "splits": records})
    return records


def count(groups_N: npt.NDArray[np.str_], split_N: npt.NDArray[np.str_]) -> dict[str, dict[str, float]]:
    """Count samples and groups of each split that occurs, with their shares: the ratio is of groups, not samples."""
    total = len(np.unique(groups_N))
    counts = {}
    for name in SPLITS:
        rows = split_N == name
        if rows.any():
            groups = len(np.unique(groups_N[rows]))
            shares = {"sample_share": float(rows.mean()), "group_share": groups / total}
            counts[name] = {"samples": int(rows.sum()), "groups": groups, **shares}
    return counts


def _share(ratio: float, total: int) -> int:
    return max(1, round(total * ratio))


def _fold_file(out: Path, fold: int) -> Path:
    return out.with_name(f"{out.stem}_fold{fold}{out.suffix}")


def _too_few(groups: Sequence[str], needed: str, source: str) -> UserError:
    shown = ", ".join(groups[:4]) + (", ..." if len(groups) > 4 else "")
    noun = "group" if len(groups) == 1 else "groups"
    return UserError(f"{source}: {len(groups)} {noun} ({shown}), too few for {needed}; lower these or add groups")


def _named(groups_N: Sequence[str], val: Sequence[str], test: Sequence[str]) -> npt.NDArray[np.str_]:
    split_of = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    return np.asarray([split_of.get(group, "train") for group in groups_N], dtype=np.str_)
