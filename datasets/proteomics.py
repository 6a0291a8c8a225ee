"""A study of samples measured on two proteomics platforms: what belongs to which client and split.

Facts of the format: `datasets.proteomics_files` reads a table, `datasets.proteomics_layout` finds clients and pairs
samples. Everything that is fitted is fitted on train rows: `datasets.proteomics_statistics` and
`datasets.proteomics_scaling`.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import UserError
from core.files import sha256_json
from datasets.placed import Placed, Rows
from datasets.placement import HELD_OUT
from datasets.proteomics_features import Features, agreed_features, left_out
from datasets.proteomics_files import Texts
from datasets.proteomics_layout import PLATFORMS, Aligned, SamplePlacement, read_layout
from datasets.proteomics_scaling import Preprocessing
from datasets.proteomics_splits import draw_splits, joined, read_split
from datasets.proteomics_statistics import Agreed, SecondPass, first_pass, second_pass
from datasets.proteomics_steps import Steps, nearest_fill

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairedRows:
    """Samples as a network takes them.

    Attributes:
        a: Platform a after fill, logarithm and scaling, float32 [N, Da]; zeros where a sample was not measured on it.
        b: Platform b, [N, Db].
        has_a: Whether a sample was measured on platform a, bool [N].
        has_b: Whether it was measured on b.
        names: Ids.
        units: Donors; the ids where nobody names donors.
    """

    a: Tensor
    b: Tensor
    has_a: Tensor
    has_b: Tensor
    names: list[str]
    units: list[str]

    def batch(self) -> dict[str, Tensor]:
        """Give the tensors by name."""
        return {"a": self.a, "b": self.b, "has_a": self.has_a, "has_b": self.has_b}


@dataclass(frozen=True, eq=False)
class Study(Placed):
    """All samples, opened once.

    Attributes:
        source: The folder.
        features: Platform to the features used, in order; empty where nobody has the platform.
        own_features: Client to platform to the features of its files; without a platform on which it has no sample.
        ids_N: Ids, by client and then sorted as text.
        units_N: Donor of every sample.
        values: Platform to abundances [N, D] as measured, NaN where missing or not measured at all.
        has: Platform to which samples were measured on it, [N].
        dropped: Client to what was left out: `only_a`, `only_b` and `incomplete` samples.
        placement: How samples were given to clients and splits.
    """

    source: Path
    features: Features
    own_features: Mapping[str, Features]
    ids_N: Texts
    units_N: Texts
    values: Mapping[str, Array]
    has: Mapping[str, npt.NDArray[np.bool_]]
    dropped: Mapping[str, Mapping[str, int]]
    placement: SamplePlacement

    @classmethod
    def open(
        cls, data: Path, placement: SamplePlacement, *, features: Mapping[str, Sequence[str]] | None = None
    ) -> "Study":
        """Read all clients, pair samples, agree on features, and give samples to splits.

        Args:
            data: A folder, see `datasets.proteomics_layout`.
            placement: How samples are given to clients and splits.
            features: Platform to the features to use, such as those of a stored preprocessing; None for those that
                all clients have. Files must hold them; their further features are ignored.

        Raises:
            UserError: The data cannot be used; the message names file, row or column, and remedy.
        """
        layout = read_layout(data, placement)
        matrices = {name: aligned.matrices for name, aligned in layout.items()}
        own = {name: held for name, held in matrices.items() if name != HELD_OUT} or matrices
        chosen = agreed_features(own, data) if features is None else {key: tuple(features[key]) for key in PLATFORMS}
        parts = {name: _Part.cut(aligned, chosen, placement.drop_incomplete) for name, aligned in layout.items()}
        aligned = {name: part.aligned for name, part in parts.items()}
        study = cls(
            source=data,
            features=chosen,
            own_features={
                name: {platform: matrix.features for platform, matrix in one.matrices.items()}
                for name, one in aligned.items()
            },
            ids_N=np.concatenate([one.ids for one in aligned.values()]),
            clients_N=np.concatenate([np.full(len(one.ids), name) for name, one in aligned.items()]),
            units_N=np.concatenate([one.units for one in aligned.values()]),
            splits_N=_splits(data, aligned, placement),
            values={key: np.concatenate([part.values[key] for part in parts.values()]) for key in PLATFORMS},
            has={key: np.concatenate([one.has(key) for one in aligned.values()]) for key in PLATFORMS},
            dropped={name: one.dropped for name, one in aligned.items()},
            placement=placement,
        )
        study._refuse_empty()
        _warn_of_features(data, {name: left_out(held, chosen) for name, held in own.items()})
        return study

    # Fitting

    def train_values(self, client: str, platform: str) -> Array:
        """Give a client's train samples on a platform as measured, [N, D]; N is 0 where it has no such sample."""
        rows = self.rows(client, "train")
        return np.asarray(self.values[platform][rows[self.has[platform][rows]]])

    def trains_on(self, client: str) -> list[str]:
        """Give the platforms on which a client has train samples."""
        return [platform for platform in PLATFORMS if len(self.train_values(client, platform))]

    def train_pairs(self, client: str) -> int:
        """Count the train samples of a client that were measured on both platforms."""
        return int((self.has["a"] & self.has["b"])[self.rows(client, "train")].sum())

    def first_pass(self, client: str, platform: str) -> dict[str, Array]:
        """Sum up the train samples of a client; see `datasets.proteomics_statistics`."""
        return first_pass(self.train_values(client, platform))

    def second_pass(self, client: str, platform: str, first: Mapping[str, Array], steps: Steps) -> SecondPass:
        """Sum up the train samples of a client around the centre that the merged first pass gives."""
        values, agreed = self.train_values(client, platform), Agreed.of(first, steps)
        if steps.missing == "knn":
            values = nearest_fill(values, values, agreed.mean)
        return second_pass(values, agreed, steps)

    # Samples

    def pairs(self, client: str, split: str, scaling: Mapping[str, Preprocessing]) -> PairedRows:
        """Give the samples of a client and split, prepared.

        Args:
            client: A client, or "held_out".
            split: Its split.
            scaling: Platform to what was fitted. With `knn`, missing cells are filled from the client's own train
                samples; the held-out set has none, there the stored means stand in.

        Raises:
            UserError: A value lies farther out than a network can take.
        """
        rows = self.rows(client, split)
        scaled = {key: torch.from_numpy(self._scaled(client, key, rows, scaling[key])) for key in PLATFORMS}
        has = {key: torch.from_numpy(self.has[key][rows]) for key in PLATFORMS}
        names, units = self.ids_N[rows].tolist(), self.units_N[rows].tolist()
        return PairedRows(scaled["a"], scaled["b"], has["a"], has["b"], names, units)

    def missing_share(self, client: str, split: str, platform: str) -> Array:
        """Give the share of missing cells of each sample that was measured on a platform, for quality control, [N]."""
        rows = self.rows(client, split)
        return missing_share(self.values[platform][rows[self.has[platform][rows]]])

    def _scaled(self, client: str, platform: str, rows: Rows, fitted: Preprocessing) -> npt.NDArray[np.float32]:
        has = self.has[platform][rows]
        values, names = self.values[platform][rows[has]], self.ids_N[rows[has]].tolist()
        if fitted.steps.missing == "knn":
            values = nearest_fill(self.train_values(client, platform), values, np.asarray(fitted.fill))
        scaled = np.zeros((len(rows), values.shape[1]), np.float32)
        scaled[has] = fitted.scaled(values, names, f"{self.source}: client {client!r}: platform {platform}")
        return scaled

    # Records

    def digest(self, client: str) -> str:
        """Give a SHA-256 of all that a client's samples are made of: features, ids, donors, splits and values."""
        return sha256_json([self.features, list(self.manifest(client).values())])

    def unused(self, client: str) -> dict[str, Any]:
        """Say what of a client's files is not used: samples by reason, and features by platform."""
        names = {
            f"features_{platform}": sorted(set(own) - set(self.features[platform]))
            for platform, own in self.own_features[client].items()
        }
        return {**self.dropped[client], **{key: features for key, features in names.items() if features}}

    def _levels(self, rows: Rows) -> dict[str, list[str]]:
        levels = {"sample": self.ids_N[rows].tolist()}
        return (
            levels if self.placement.unit_key is None else {**levels, "donor": sorted(set(self.units_N[rows].tolist()))}
        )

    def _entry(self, rows: Rows) -> dict[str, Any]:
        whole = hashlib.sha256()
        for platform in PLATFORMS:
            whole.update(np.ascontiguousarray(self.values[platform][rows]).tobytes())
        split = self.placement.split
        return {
            "file": self.source.name if split is None else split.name,
            "samples": len(rows),
            "paired": int((self.has["a"] & self.has["b"])[rows].sum()),
            "units": sorted(set(self.units_N[rows].tolist())),
            "sha256": sha256_json([self.ids_N[rows].tolist(), self.units_N[rows].tolist(), whole.hexdigest()]),
        }

    def _refuse_empty(self) -> None:
        for client, split in self._empty_splits():
            where = self.source if self.placement.split is None else self.placement.split
            raise UserError(f"{where}: client {client!r} has no {split} samples; give every client all splits")


@dataclass(frozen=True, eq=False)
class _Part:
    """One client's samples and, by platform, their values [N, D]."""

    aligned: Aligned
    values: Mapping[str, Array]

    @classmethod
    def cut(cls, aligned: Aligned, features: Features, drop_incomplete: bool) -> "_Part":
        """Take the features, and leave out incomplete samples where that is asked for."""
        values = {platform: _values(aligned, platform, features) for platform in PLATFORMS}
        if not drop_incomplete:
            return cls(aligned, values)
        complete = np.ones(len(aligned.ids), dtype=bool)
        for platform, own in values.items():
            complete &= ~(np.isnan(own).any(axis=1) & aligned.has(platform))
        if not complete.any():
            source = next(iter(aligned.matrices.values())).source
            raise UserError(
                f"{source}: every sample has a missing cell; choose another way than drop for missing values"
            )
        left = aligned.take(complete, incomplete=int((~complete).sum()))
        return cls(left, {platform: own[complete] for platform, own in values.items()})


def _values(aligned: Aligned, platform: str, features: Features) -> Array:
    names, elsewhere = features[platform], features["b" if platform == "a" else "a"]
    if platform not in aligned.matrices:
        return np.full((len(aligned.ids), len(names)), np.nan)
    return aligned.values(platform, aligned.matrices[platform].columns(names, platform, elsewhere))


def missing_share(values_ND: Array) -> Array:
    """Give the share of missing cells of each row, [N]."""
    return np.asarray(np.isnan(values_ND).mean(axis=1))


def _splits(data: Path, clients: Mapping[str, Aligned], placement: SamplePlacement) -> Texts:
    """Give the split of every sample, client after client."""
    if placement.split is None:
        parts = [_drawn(data, name, aligned, placement) for name, aligned in clients.items()]
        return np.concatenate(parts)
    split_of = read_split(placement.split)
    ids = [name for aligned in clients.values() for name in aligned.ids.tolist()]
    splits_N = joined(split_of, ids)
    outside = np.concatenate([np.full(len(aligned.ids), name == HELD_OUT) for name, aligned in clients.items()])
    splits_N[outside] = "test"
    counts = {str(data): int((splits_N == "").sum()), str(placement.split): len(set(split_of) - set(ids))}
    for file, count in counts.items():
        if count:
            warnings.warn(f"{file}: {count} samples have no partner in the other file; left out", stacklevel=4)
    return splits_N


def _drawn(data: Path, client: str, aligned: Aligned, placement: SamplePlacement) -> Texts:
    if client == HELD_OUT:
        return np.full(len(aligned.ids), "test", dtype="<U5")
    drawn = aligned.paired if aligned.paired.any() else np.ones(len(aligned.ids), dtype=bool)
    source = f"{data}: client {client!r}"
    return draw_splits(aligned.units, drawn, placement.fractions, placement.seed, source)


def _warn_of_features(data: Path, unused: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    for client, platforms in unused.items():
        for platform, names in platforms.items():
            if names:
                text = f"{len(names)} features of platform {platform} are not among those used; left out"
                warnings.warn(f"{data}: client {client!r}: {text}", stacklevel=4)
