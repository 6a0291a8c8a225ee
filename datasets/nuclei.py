"""A study of cell nuclei in 3-D electron microscopy: which nucleus has which class, client and split, and its crops.

A folder per nucleus holds one TIFF per slice in `raw/` and `mask/`; a class table (CSV) beside them says what each is.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import UserError
from core.files import sha256_json
from datasets.array_cache import DEFAULT_BYTES, process_cache
from datasets.nuclei_crops import AugmentedCrops, CropOptions, CroppedNucleus, NucleiCrops
from datasets.nuclei_index import Volume, find_folders, index_volumes, nucleus_folders
from datasets.nuclei_placement import NucleiPlacement, Place, place
from datasets.nuclei_table import Row, Selection, canonical, read_table, select
from datasets.nuclei_volumes import NucleiVolumes
from datasets.placement import HELD_OUT
from datasets.unit_splits import SPLITS


@dataclass(frozen=True)
class Nucleus:
    """One classified nucleus.

    Attributes:
        sample: Sample id.
        volume: What is on disk.
        class_id: Number of its class in the class table.
        class_name: Name of its class.
        client: Whose it is, or "held_out" for nobody's.
        split: train, val or test.
    """

    sample: str
    volume: Volume
    class_id: int
    class_name: str
    client: str
    split: str


@dataclass(frozen=True, eq=False)
class NucleiStudy:
    """All nuclei in use, opened once.

    Attributes:
        data: The folder.
        class_table: The CSV.
        nuclei: The nuclei, sorted by sample.
        options: How crops are cut and scaled.
    """

    data: Path
    class_table: Path
    nuclei: tuple[Nucleus, ...]
    options: CropOptions

    @classmethod
    def open(
        cls,
        data: Path,
        class_table: Path,
        *,
        placement: NucleiPlacement,
        selection: Selection | None = None,
        options: CropOptions | None = None,
        unlisted: Literal["refuse", "ignore"] = "refuse",
        cache_bytes: int = DEFAULT_BYTES,
    ) -> "NucleiStudy":
        """Open a study: read the class table, index the volumes (once, then only what has changed), place nuclei.

        Args:
            data: Folder with a folder per nucleus.
            class_table: CSV with class_id, class_name, sample_id and further columns.
            placement: How nuclei are given to clients and splits.
            selection: Which rows are used; all that are classified if None.
            options: How crops are cut and scaled; the defaults if None.
            unlisted: What happens to a nucleus folder without a row in the class table.
            cache_bytes: Limit of decoded slices held in this process, and in each loader worker. Datasets of one
                process share them; the study opened last sets the limit.

        Raises:
            UserError: The data cannot be used; the message names file, value and remedy.
        """
        if not data.is_dir():
            raise UserError(f"{data}: no such folder; check the path, or make data with `python -m datasets`")
        rows = read_table(class_table, unique=placement.keys)
        if unlisted == "refuse":
            _refuse_unlisted(data, class_table, rows)
        chosen = select(class_table, rows, selection or Selection())
        folders = find_folders(data, [row.sample for row in chosen])
        chosen = [row for row in chosen if row.sample in folders]
        if not chosen:
            raise UserError(f"{data}: no folder for any sample of {class_table}; check both paths")
        volumes = index_volumes(data, list(folders.values()))
        places = place(class_table, chosen, placement)
        nuclei = tuple(_nucleus(row, volumes[folders[row.sample]], places[row.sample]) for row in chosen)
        study = cls(data, class_table, nuclei, options or CropOptions())
        study.volumes.check()
        process_cache().limit = cache_bytes
        return study

    @functools.cached_property
    def classes(self) -> dict[int, str]:
        """Class id to name, by ascending id: the place in this order is the label."""
        return dict(sorted({nucleus.class_id: nucleus.class_name for nucleus in self.nuclei}.items()))

    @functools.cached_property
    def volumes(self) -> NucleiVolumes:
        """What is on disk."""
        return NucleiVolumes(self.data, {nucleus.sample: nucleus.volume for nucleus in self.nuclei}, self.options)

    @functools.cached_property
    def clients(self) -> list[str]:
        """Names of the clients, sorted."""
        return sorted({nucleus.client for nucleus in self.nuclei} - {HELD_OUT})

    @property
    def has_held_out(self) -> bool:
        """Whether there are nuclei that belong to nobody."""
        return any(nucleus.client == HELD_OUT for nucleus in self.nuclei)

    def members(self, client: str, split: str | None = None) -> list[Nucleus]:
        """Give the nuclei of a client, or of "held_out", in one split or in all."""
        return [one for one in self.nuclei if one.client == client and split in (None, one.split)]

    def crops(
        self,
        client: str,
        split: str,
        *,
        augment: bool = False,
        class_weights: Sequence[float] | None = None,
        with_mask: bool = False,
        class_ids: Sequence[int] | None = None,
    ) -> NucleiCrops:
        """Give the crops of one client and split as a dataset.

        Args:
            client: Client name, or "held_out" (whose split is test).
            split: train, val or test.
            augment: Whether crops are changed at random; the dataset then has `reseed`.
            class_weights: Weight of each class, in the order of the labels.
            with_mask: Whether samples hold the mask.
            class_ids: Class ids in the order of the labels; those of the study if None.

        Raises:
            UserError: The split has no crops, or a class that is not among `class_ids`.
        """
        labels = {class_id: label for label, class_id in enumerate(class_ids or self.classes)}
        nuclei = [self._cropped(nucleus, labels) for nucleus in self.members(client, split)]
        kind = AugmentedCrops if augment else NucleiCrops
        crops = kind(nuclei, self.options, class_weights=class_weights, with_mask=with_mask)
        if not len(crops):
            raise UserError(
                f"{self.data}: client {client!r} has no {split} crops; lower mask_fraction or give it more nuclei"
            )
        return crops

    def class_counts(self, client: str, split: str | None = None) -> dict[str, int]:
        """Count crops by class name."""
        counts = Counter[str]()
        for nucleus in self.members(client, split):
            counts[nucleus.class_name] += len(self.volumes.positions[nucleus.sample])
        return {name: counts[name] for name in self.classes.values() if name in counts}

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give split -> level -> ids that must not occur in another split or client: nucleus, and content of files."""
        splits = ["test"] if client == HELD_OUT else SPLITS
        return {split: _levels(self.members(client, split)) for split in splits}

    def digest(self, client: str) -> str:
        """Give a SHA-256 of all that a client's samples are made of: ids, classes, splits, content, way of cutting."""
        return sha256_json([asdict(self.options), list(self.classes), [_facts(one) for one in self.members(client)]])

    def manifest(self) -> dict[str, Any]:
        """Describe the splits so that they can be stored: class table, nuclei and SHA-256 of ids, classes, content.

        Returns:
            `{"clients": {client: {split: {...}}}, "held_out": {...} or None}`, fit for JSON.
        """
        clients = {
            client: {split: self._entry(self.members(client, split)) for split in SPLITS} for client in self.clients
        }
        return {"clients": clients, "held_out": self._entry(self.members(HELD_OUT)) if self.has_held_out else None}

    def _entry(self, nuclei: Sequence[Nucleus]) -> dict[str, Any]:
        return {
            "file": self.class_table.name,
            "nuclei": len(nuclei),
            "units": [one.sample for one in nuclei],
            "sha256": sha256_json([_facts(one) for one in nuclei]),
        }

    def _cropped(self, nucleus: Nucleus, labels: Mapping[int, int]) -> CroppedNucleus:
        if nucleus.class_id not in labels:
            raise UserError(
                f"{self.class_table}: sample {nucleus.sample}: class {nucleus.class_id} ({nucleus.class_name}) is not "
                "among the classes trained on; choose the classes with class_ids"
            )
        return self.volumes.cropped(nucleus.sample, labels[nucleus.class_id])


def _refuse_unlisted(data: Path, class_table: Path, rows: Iterable[Row]) -> None:
    known = {row.sample for row in rows}
    for folder in nucleus_folders(data):
        if canonical(folder) not in known:
            raise UserError(f"{class_table}: no row for the folder {data / folder}; add one, or set unlisted to ignore")


def _nucleus(row: Row, volume: Volume, where: Place) -> Nucleus:
    return Nucleus(row.sample, volume, row.class_id, row.class_name, *where)


def _levels(nuclei: Sequence[Nucleus]) -> dict[str, list[str]]:
    return {"nucleus": [one.sample for one in nuclei], "content": [one.volume.sha256 for one in nuclei]}


def _facts(nucleus: Nucleus) -> list[Any]:
    return [nucleus.sample, nucleus.class_id, nucleus.split, nucleus.volume.sha256]
