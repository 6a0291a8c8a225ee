"""Where the samples of each client lie, and which rows of the two platforms are the same sample.

    data/<client>/platform_a.csv, platform_b.csv     one folder per client; either file may be missing
    data/platform_a.csv, platform_b.csv              one pair; clients from a column, from clients.csv, or made here

`.tsv` and `.txt` do as well; where a platform is missing, a table under another name is refused. The columns of
both files that name client and donor must agree.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from datasets.placement import Placement
from datasets.proteomics_files import SEPARATORS, Matrix, Texts, read_matrix, read_texts

PLATFORMS = ("a", "b")
CLIENTS_FILE = "clients.csv"
TABLES = {*SEPARATORS, ".gz", ".zip", ".xlsx", ".xls", ".ods", ".parquet", ".feather"}
"""Ends of the names of files that somebody may mean to be a platform."""


@dataclass(frozen=True, kw_only=True)
class SamplePlacement(Placement):
    """How samples are given to clients and splits; without `client_key` and `partition`, folders or clients.csv tell.

    Attributes:
        unit_key: Column of the donor, whose samples stay in one split; None for samples that are donors of their own.
        keep_unpaired: Whether to train on samples that a client with both platforms measured on one only.
        drop_incomplete: Whether to leave out samples with a missing cell.
        split: CSV with id and split; None to draw splits here.
    """

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 42
    unit_key: str | None = None
    keep_unpaired: bool = False
    drop_incomplete: bool = False
    split: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself or has no effect."""
        if self.client_key is not None or self.partition is not None or self.clients is not None:
            super().__post_init__()
        if self.unit_key is not None and self.unit_key == self.client_key:
            raise UserError(
                f"unit_key: {self.unit_key!r} is client_key, too; name the column of the donor or leave it out"
            )

    @property
    def columns(self) -> list[str]:
        """Columns that are no features."""
        return [key for key in (self.client_key, self.unit_key) if key is not None]


@dataclass(frozen=True, eq=False)
class Aligned:
    """The samples of one or more clients, sorted by id.

    Attributes:
        matrices: Platform to what was measured on it.
        ids: Ids on either platform, sorted as text, [N].
        at: Platform to the row of each sample in its matrix, [N]; -1 where it was not measured.
        units: Donor of each sample, [N]; "" where nobody says.
        dropped: What was left out, and how many samples.
    """

    matrices: Mapping[str, Matrix]
    ids: Texts
    at: Mapping[str, npt.NDArray[np.int64]]
    units: Texts
    dropped: Mapping[str, int]

    def has(self, platform: str) -> npt.NDArray[np.bool_]:
        """Tell which samples were measured on a platform, [N]."""
        return np.asarray(self.at[platform] >= 0) if platform in self.at else np.zeros(len(self.ids), dtype=bool)

    @property
    def paired(self) -> npt.NDArray[np.bool_]:
        """Tell which samples were measured on both, [N]."""
        return self.has("a") & self.has("b")

    def take(self, rows: npt.NDArray[np.bool_], **dropped: int) -> "Aligned":
        """Keep some samples and the platforms they were measured on, and record how many were left out for what."""
        at = {platform: own for platform, places in self.at.items() if ((own := places[rows]) >= 0).any()}
        matrices = {platform: self.matrices[platform] for platform in at}
        counts = {**self.dropped, **{reason: count for reason, count in dropped.items() if count}}
        return Aligned(matrices, self.ids[rows], at, self.units[rows], counts)

    def values(self, platform: str, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Give columns of a platform, [N, D]; NaN where a cell is missing or the sample was not measured."""
        values = np.full((len(self.ids), len(columns)), np.nan)
        has = self.has(platform)
        if has.any():
            values[has] = self.matrices[platform].values[np.ix_(self.at[platform][has], columns)]
        return values


def read_layout(data: Path, placement: SamplePlacement) -> dict[str, Aligned]:
    """Read all clients.

    Returns:
        Client to its samples, sorted by name; `held_out` for nobody's.

    Raises:
        UserError: The layout is unclear, a file cannot be used, or the files of a client share no id.
    """
    if not data.is_dir():
        raise UserError(
            f"{data}: no such folder; give one with platform_a.csv and platform_b.csv, or a folder per client"
        )
    pair, folders = platform_files(data), client_folders(data)
    if bool(pair) == bool(folders):
        said = "holds both client folders and files of its own" if pair else "holds no platform_a.csv or platform_b.csv"
        raise UserError(f"{data}: {said}; give one pair of files, or a folder with them for each client")
    if pair:
        clients = _of_pair(data, pair, placement)
    else:
        _refuse_placement(data, placement)
        clients = {placement.owner(name): _aligned(files, placement) for name, files in folders.items()}
    return {name: _usable(name, clients[name], placement.keep_unpaired) for name in sorted(clients)}


def platform_files(folder: Path, meant: str = "platform") -> dict[str, Path]:
    """Find the files of both platforms.

    Args:
        folder: Where to look.
        meant: How names of tables begin that must not be passed over where a platform is missing, in any case.

    Raises:
        UserError: There are two for one platform, or one is missing and a table stands there under another name.
    """
    found: dict[str, Path] = {}
    for platform in PLATFORMS:
        paths = [path for suffix in SEPARATORS if (path := folder / f"platform_{platform}{suffix}").exists()]
        if len(paths) > 1:
            raise UserError(f"{paths[0]}: {paths[1].name} stands beside it; keep one of the two")
        if paths:
            found[platform] = paths[0]
    others = _tables(folder, meant) - set(found.values())
    if others and len(found) < len(PLATFORMS):
        raise UserError(
            f"{min(others)}: is neither platform_a.csv nor platform_b.csv (or .tsv, .txt), and would be passed over; "
            "rename, unpack or move it"
        )
    return found


def _tables(folder: Path, start: str) -> set[Path]:
    """Find files that look like tables by their names."""
    return {
        path
        for path in folder.iterdir()
        if path.name.lower().startswith(start) and path.suffix.lower() in TABLES and not path.name.startswith(".")
    }


def client_folders(data: Path) -> dict[str, dict[str, Path]]:
    """Find the folders of clients.

    Raises:
        UserError: A folder holds a table with another name in the place of a platform.
    """
    folders = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {folder.name: platform_files(folder, meant="") for folder in folders}
    return {name: files for name, files in found.items() if files}


def holds_platforms(data: Path) -> bool:
    """Tell whether a folder holds files of platforms at all; that of a server may be empty or missing."""
    return data.is_dir() and bool(platform_files(data) or client_folders(data))


def _refuse_placement(data: Path, placement: SamplePlacement) -> None:
    for name, value in (("client_key", placement.client_key), ("partition", placement.partition)):
        if value is not None:
            raise UserError(f"{data}: {name}: {value!r} has no effect, its folders are the clients; leave it out")


def _aligned(files: Mapping[str, Path], placement: SamplePlacement) -> Aligned:
    """Read the files of one folder and find the samples."""
    matrices = {platform: read_matrix(path, placement.columns) for platform, path in files.items()}
    ids = np.asarray(sorted(set().union(*(matrix.ids.tolist() for matrix in matrices.values()))), np.str_)
    at = {platform: _places(matrix.ids, ids) for platform, matrix in matrices.items()}
    aligned = Aligned(matrices, ids, at, ids, {})
    if len(matrices) == 2 and not aligned.paired.any():
        first, second = (matrices[platform] for platform in PLATFORMS)
        raise UserError(
            f"{first.source}: shares no id with {second.source.name} ({first.ids[0].item()!r} against "
            f"{second.ids[0].item()!r}); give both files the same ids in their first column"
        )
    return aligned if placement.unit_key is None else replace(aligned, units=_label(aligned, placement.unit_key))


def _places(own: Texts, ids: Texts) -> npt.NDArray[np.int64]:
    place = {name: at for at, name in enumerate(own.tolist())}
    return np.asarray([place.get(name, -1) for name in ids.tolist()], np.int64)


def _label(aligned: Aligned, key: str) -> Texts:
    """Read a column of text that stands in one file or, the same, in both; "" for samples without."""
    found: list[tuple[Matrix, list[str]]] = []
    for platform, matrix in aligned.matrices.items():
        if key in matrix.labels:
            own = [*matrix.labels[key].tolist(), ""]
            found.append((matrix, [own[at] for at in aligned.at[platform].tolist()]))
    if not found:
        source = next(iter(aligned.matrices.values())).source
        raise UserError(f"{source}: no column {key!r}, nor in the other file; name the right one or add it")
    texts = found[0][1]
    for matrix, other in found[1:]:
        for name, one, two in zip(aligned.ids.tolist(), texts, other, strict=True):
            if one and two and one != two:
                raise UserError(
                    f"{matrix.source}: {key} of {name!r} is {two!r}, but {one!r} in {found[0][0].source.name}; "
                    "correct one of them"
                )
        texts = [one or two for one, two in zip(texts, other, strict=True)]
    return np.asarray(texts, np.str_)


def _of_pair(data: Path, files: Mapping[str, Path], placement: SamplePlacement) -> dict[str, Aligned]:
    """Divide one pair of files among clients."""
    aligned = _aligned(files, placement)
    listed = data / CLIENTS_FILE
    if listed.exists():
        if placement.client_key is not None or placement.partition is not None:
            raise UserError(
                f"{listed}: tells the clients already; leave client_key and partition out, or remove the file"
            )
        owners = _listed(listed, aligned.ids)
    elif placement.client_key is not None:
        owners = _label(aligned, placement.client_key)
    elif placement.partition is not None:
        owners = _divided(_units_checked(aligned), placement)
    else:
        raise UserError(
            f"{data}: nothing says who holds what; set client_key or partition, or add {CLIENTS_FILE} (id, client)"
        )
    unowned = owners == ""
    if (unowned & aligned.paired).any():
        name = aligned.ids[unowned & aligned.paired][0].item()
        raise UserError(f"{listed if listed.exists() else files['a']}: sample {name!r} has no client; name one")
    if unowned.any():
        warnings.warn(f"{data}: {unowned.sum()} samples on one platform have no client; left out", stacklevel=4)
    names = sorted(set(owners.tolist()) - {""})
    return {placement.owner(name): aligned.take(owners == name) for name in names}


def _divided(aligned: Aligned, placement: SamplePlacement) -> Texts:
    """Deal the donors of paired samples by the partition, and the others in turn."""
    paired = set(aligned.units[aligned.paired].tolist())
    owner = placement.divide(sorted(paired))
    others = sorted(set(aligned.units.tolist()) - paired)
    names = sorted(set(owner.values()))
    owner |= {unit: names[turn % len(names)] for turn, unit in enumerate(others)}
    return np.asarray([owner[unit] for unit in aligned.units.tolist()], np.str_)


def _listed(source: Path, ids: Texts) -> Texts:
    own, table = read_texts(source)
    if "client" not in table.columns[1:]:
        raise UserError(f"{source}: no column 'client' beside the ids; add it")
    client = dict(zip(own, table["client"].str.strip().tolist(), strict=True))
    return np.asarray([client.get(name, "") for name in ids.tolist()], np.str_)


def _usable(client: str, aligned: Aligned, keep_unpaired: bool) -> Aligned:
    """Leave out samples of one platform where the client has both, and say how many."""
    alone = {platform: aligned.has(platform) & ~aligned.paired for platform in PLATFORMS}
    both = all(aligned.has(platform).any() for platform in PLATFORMS)
    source = next(iter(aligned.matrices.values())).source
    if both and not aligned.paired.any():
        raise UserError(f"{source}: no sample of client {client!r} is on both platforms; check its ids")
    if not both or keep_unpaired:
        return _units_checked(aligned)
    counts = {f"only_{platform}": int(rows.sum()) for platform, rows in alone.items()}
    if any(counts.values()):
        names = f"{counts['only_a']} only on platform a, {counts['only_b']} only on b"
        warnings.warn(f"{source.parent}: client {client!r}: samples {names}; left out", stacklevel=5)
    return _units_checked(aligned.take(aligned.paired, **counts))


def _units_checked(aligned: Aligned) -> Aligned:
    if (aligned.units == "").any():
        name = aligned.ids[aligned.units == ""][0].item()
        source = next(iter(aligned.matrices.values())).source
        raise UserError(
            f"{source}: sample {name!r} has no donor in the column of unit_key; fill it in or drop the sample"
        )
    return aligned
