"""Samples in rows, each given to a client and a split: what the studies have in common, whatever their samples are."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.files import sha256_json
from datasets.placement import HELD_OUT
from datasets.unit_splits import SPLITS

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Placed(ABC):
    """A study whose samples are rows with a client and a split.

    Attributes:
        clients_N: Client of every sample, "held_out" for nobody's.
        splits_N: Split of every sample, test for nobody's; "" for samples that a split file does not name.
        borrowed: Whether val stands for test, because a split file knows no test.
    """

    clients_N: npt.NDArray[np.str_]
    splits_N: npt.NDArray[np.str_]
    borrowed: bool = False

    @functools.cached_property
    def clients(self) -> list[str]:
        """Names of the clients, sorted."""
        return sorted(set(self.clients_N.tolist()) - {HELD_OUT})

    @property
    def has_held_out(self) -> bool:
        """Whether there are samples that belong to nobody."""
        return bool(len(self.rows(HELD_OUT, "test")))

    def rows(self, client: str, split: str) -> Rows:
        """Give the rows of a client (or of "held_out", whose split is test) and split."""
        stored = "val" if self.borrowed and split == "test" and client != HELD_OUT else split
        return np.flatnonzero((self.clients_N == client) & (self.splits_N == stored))

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give split -> level -> ids that must not occur in another split or client; without a borrowed test."""
        splits = ("test",) if client == HELD_OUT else SPLITS[:2] if self.borrowed else SPLITS
        return {split: self._levels(self.rows(client, split)) for split in splits}

    def digest(self, client: str) -> str:
        """Give a SHA-256 of all that a client's samples are made of: ids, units, splits and content."""
        return sha256_json([self._entry(self.rows(client, split))["sha256"] for split in SPLITS])

    def manifest(self, client: str) -> dict[str, Any]:
        """Describe the splits so that they can be stored: file, number of samples, units and SHA-256 of the content."""
        return {split: self._entry(self.rows(client, split)) for split in SPLITS}

    def _empty_splits(self) -> Iterator[tuple[str, str]]:
        """Give the clients and splits without samples."""
        return ((client, split) for client in self.clients for split in SPLITS if not len(self.rows(client, split)))

    @abstractmethod
    def _levels(self, rows: Rows) -> dict[str, list[str]]:
        """Give level -> ids of some samples."""

    @abstractmethod
    def _entry(self, rows: Rows) -> dict[str, Any]:
        """Describe some samples; `sha256` is that of their content."""
