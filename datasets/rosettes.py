"""A study of rosettes in segmented tissue: which image belongs to which client and split.

A folder holds one HDF5 file per image (`datasets.rosette_files`); replicate, animal and the like come from the ids or
from a metadata table (`datasets.rosette_samples`). Clients are a column of it, or animals dealt among them; splits are
a manifest (`datasets.rosette_splits`) or drawn here. No animal is at two clients.
"""

import functools
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from core.files import sha256_json
from core.progress import bar
from datasets.array_cache import DEFAULT_BYTES, process_cache
from datasets.placed import Placed, Rows
from datasets.placement import HELD_OUT, Placement
from datasets.rosette_channels import RosetteImage, WholeImages
from datasets.rosette_samples import REPLICATE, SUFFIXES, GroupBy, Sample, find_files, read_samples
from datasets.rosette_splits import read_manifest, refuse_divided
from datasets.unit_splits import SPLITS


@dataclass(frozen=True, kw_only=True)
class RosettePlacement(Placement):
    """How images are given to clients and splits.

    Attributes:
        group_by: What no split cuts. A partition deals replicates where it says so, and else animals.
        split: Manifest with the samples of train, val and test; None to draw splits here.
    """

    group_by: GroupBy = "animal"
    split: Path | None = None

    def columns(self) -> list[str]:
        """Columns that must be known of every sample."""
        return [*([self.client_key] if self.client_key else []), *([REPLICATE] if self.group_by == REPLICATE else [])]


@dataclass(frozen=True, eq=False)
class Study(Placed):
    """All images, opened once; pixels are decoded when they are asked for.

    Attributes:
        data: The folder.
        samples: What is known of the images, by sorted id.
        images: The images.
        group_by: What no split cuts.
        split_file: The manifest, where there is one.
    """

    data: Path
    samples: tuple[Sample, ...]
    images: tuple[RosetteImage, ...]
    group_by: GroupBy
    split_file: Path | None

    @classmethod
    def open(
        cls,
        data: Path,
        placement: RosettePlacement,
        *,
        metadata: Path | None = None,
        use_intensity: bool = False,
        cache_bytes: int = DEFAULT_BYTES,
    ) -> "Study":
        """Find the images, look at their shapes, and place them.

        Args:
            data: Folder with the HDF5 files.
            placement: How images are given to clients and splits.
            metadata: Table of the images; see `read_samples`.
            use_intensity: Whether images have the intensity as a third channel.
            cache_bytes: Limit of decoded layers held in this process, and in each loader worker. Datasets of one
                process share them; the study opened last sets the limit.

        Raises:
            UserError: The data cannot be used; the message names file, value and remedy.
        """
        samples = tuple(read_samples(data, metadata, needed=placement.columns()))
        clients_N = _clients(data, samples, placement)
        splits_N = _splits(data, samples, clients_N, placement)
        splits_N[(clients_N == HELD_OUT) & (splits_N != "")] = "test"
        looked_at = bar(samples, len(samples), "looking at images")
        images = tuple(RosetteImage.open(one.path, use_intensity=use_intensity) for one in looked_at)
        borrowed = "test" not in splits_N[clients_N != HELD_OUT]
        study = cls(
            data=data,
            samples=samples,
            images=images,
            group_by=placement.group_by,
            split_file=placement.split,
            clients_N=clients_N,
            splits_N=splits_N,
            borrowed=borrowed,
        )
        study._refuse_empty()
        process_cache().limit = cache_bytes
        return study

    def animals(self, client: str, split: str) -> list[str]:
        """Give the animals of a client and split, sorted."""
        return sorted({self.samples[row].animal for row in self.rows(client, split)})

    def whole_images(self, client: str, split: str) -> WholeImages:
        """Give whole images for evaluation."""
        rows = self.rows(client, split).tolist()
        return WholeImages(
            images=[self.images[row] for row in rows],
            names=[self.samples[row].name for row in rows],
            units=[self.samples[row].animal for row in rows],
        )

    def manifest(self, client: str) -> dict[str, Any]:
        """Describe the splits so that they can be stored: file, images, units and SHA-256 of the content."""
        entries = super().manifest(client)
        entries["test"]["borrowed_from"] = "val" if self.borrowed else None
        return entries

    def _entry(self, rows: Rows) -> dict[str, Any]:
        members = {row: self.samples[row] for row in rows.tolist()}
        return {
            "file": self.data.name if self.split_file is None else self.split_file.name,
            "images": len(members),
            "units": sorted({one.unit(self.group_by) for one in members.values()}),
            "sha256": sha256_json([[one.name, one.animal, self._hash(row)] for row, one in members.items()]),
        }

    def layouts(self, client: str) -> dict[str, int]:
        """Count the files of a client by the layout that was found in them."""
        rows = [row for split in SPLITS for row in self.rows(client, split).tolist()]
        return dict(sorted(Counter(self.images[row].file.generation for row in set(rows)).items()))

    @functools.cached_property
    def _hashes(self) -> dict[int, str]:
        return {}

    def _hash(self, row: int) -> str:
        """Decode and hash an image, once.

        Raises:
            UserError: Another client or split has the same image under another id.
        """
        if row not in self._hashes:
            digest = self.images[row].digest()
            for other in (other for other, known in self._hashes.items() if known == digest):
                if (place := self._place(row)) != self._place(other):
                    raise UserError(
                        f"{self.images[row].file.path}: the same image as {self.images[other].file.path}, but one is "
                        f"in {place} and the other in {self._place(other)}; remove one, or keep both in one split"
                    )
            self._hashes[row] = digest
        return self._hashes[row]

    def _place(self, row: int) -> str:
        return f"{self.clients_N[row]}/{self.splits_N[row]}"

    def _levels(self, rows: Rows) -> dict[str, list[str]]:
        members = [self.samples[row] for row in rows]
        levels = {"sample": [one.name for one in members]}
        if self.group_by != "none":
            levels[self.group_by] = sorted({one.unit(self.group_by) for one in members})
        return levels

    def _refuse_empty(self) -> None:
        for client, split in self._empty_splits():
            raise UserError(
                f"{self.split_file}: no {split} sample of client {client!r}; split each client by itself "
                "(client_key) or leave options.split out"
            )


def holds_images(data: Path) -> bool:
    """Tell whether a folder or a folder in it holds an HDF5 file; the server of a federation may have none."""
    return any(path.suffix in SUFFIXES for pattern in ("*", "*/*") for path in data.glob(pattern))


def new_images(path: Path, *, use_intensity: bool = False) -> WholeImages:
    """Open new images, a file or a folder of them, whether somebody has annotated them or not.

    Returns:
        Samples without a target, each its own unit.

    Raises:
        UserError: There are none, or one cannot be used.
    """
    files = find_files(path)
    images = [RosetteImage.open(file, use_intensity=use_intensity, require_target=False) for file in files.values()]
    return WholeImages(images, names=list(files), units=list(files), with_target=False)


def _clients(data: Path, samples: tuple[Sample, ...], placement: RosettePlacement) -> npt.NDArray[np.str_]:
    """Give the client of every image, and refuse an animal that is at two."""
    if placement.client_key is None:
        units = [one.unit(REPLICATE) if placement.group_by == REPLICATE else one.animal for one in samples]
        owner = placement.divide(units)
        clients = [owner[unit] for unit in units]
    else:
        clients = [placement.owner(one.value(placement.client_key)) for one in samples]
    client_of = {one.name: client for one, client in zip(samples, clients, strict=True)}
    refuse_divided({one.name: one.animal for one in samples}, client_of, f"{data}: animal", "client")
    return np.asarray(clients, dtype=np.str_)


def _splits(
    data: Path, samples: tuple[Sample, ...], clients_N: npt.NDArray[np.str_], placement: RosettePlacement
) -> npt.NDArray[np.str_]:
    """Look the splits up in the manifest, or draw them client by client."""
    if placement.split is not None:
        split_of = read_manifest(placement.split, samples, placement.group_by)
        splits_N = np.asarray([split_of.get(one.name, "") for one in samples], dtype="<U5")
        if absent := int(((splits_N == "") & (clients_N != HELD_OUT)).sum()):
            warnings.warn(f"{placement.split}: does not list {absent} samples of {data}; left out", stacklevel=4)
        return splits_N
    units_N = np.asarray([one.unit(placement.group_by) for one in samples])
    kind = "samples" if placement.group_by == "none" else f"{placement.group_by}s"
    remedy = "add some, use fewer clients or another group_by"
    return placement.draw(units_N, clients_N, source=data, kind=kind, remedy=remedy)
