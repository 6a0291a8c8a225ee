"""Batches in a fixed order, from one client's samples or from the pool of several."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from core.errors import UserError
from core.randomness import generator, torch_generator
from training.task import Batch, Samples


class Pool:
    """The samples of several clients, one after another in the order given."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        """Join the parts without copying them."""
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        """Count the samples of all parts."""
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Batch:
        """Give one sample."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - (int(self.ends[part - 1]) if part else 0)]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Give a batch in the order asked for, reading each part once."""
        positions = np.asarray(indices)
        owners = np.searchsorted(self.ends, positions, side="right")
        batches, order = [], []
        for owner in np.unique(owners):
            chosen = np.flatnonzero(owners == owner)
            start = int(self.ends[owner - 1]) if owner else 0
            batches.append(fetch(self.parts[owner], (positions[chosen] - start).tolist()))
            order.append(chosen)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return {key: torch.cat([batch[key] for batch in batches])[back] for key in batches[0]}

    @property
    def units(self) -> list[str] | None:
        """Biological unit of each sample, where all parts name them."""
        each = [units for part in self.parts if (units := getattr(part, "units", None)) is not None]
        return [unit for units in each for unit in units] if len(each) == len(self.parts) else None

    def reseed(self, seed: int) -> None:
        """Pass the epoch's seed on to the parts that augment."""
        for part in self.parts:
            reseed(part, seed)


class InMemory:
    """Samples that are already a batch: encoded features, or small data."""

    def __init__(self, batch: Batch, names: Sequence[str] | None = None, units: Sequence[str] | None = None) -> None:
        """Hold the tensors, which share their first axis, and the ids and units of the samples where they have some."""
        self.batch, self.names, self.units = batch, names, units

    def __len__(self) -> int:
        """Count the samples."""
        return len(next(iter(self.batch.values())))

    def __getitem__(self, index: int) -> Batch:
        """Give one sample."""
        return {key: value[index] for key, value in self.batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Give a batch by one gather per tensor."""
        rows = torch.as_tensor(indices)
        return {key: value[rows] for key, value in self.batch.items()}


def fetch(samples: Samples, indices: Sequence[int]) -> Batch:
    """Give the samples at these indices as one batch."""
    many = getattr(samples, "__getitems__", None)
    return collate(many(indices) if many else [samples[index] for index in indices])


def collate(items: Any) -> Batch:
    """Stack samples; a dataset that gives whole batches is passed through."""
    return items if isinstance(items, dict) else default_collate(items)


def reseed(samples: Samples, seed: int) -> None:
    """Tell samples that augment which epoch they are in."""
    if hasattr(samples, "reseed"):
        samples.reseed(seed)


def shuffled_batches(
    count: int, size: int, seed: int, client: str, epoch: int, *, smallest: int = 2
) -> list[list[int]]:
    """Cut a permutation, a pure function of (seed, client, epoch), into batches.

    A last batch of fewer than `smallest` samples joins the one before it: BatchNorm cannot train on a single value,
    and several processes need one each.
    """
    order = generator(seed, "shuffle", client, epoch).permutation(count)
    batches = [order[start : start + size].tolist() for start in range(0, count, size)]
    if size >= smallest and len(batches) > 1 and len(batches[-1]) < smallest:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def ordered_batches(samples: Samples, size: int) -> list[list[int]]:
    """Cut the indices of samples into batches of `size`, or of as many as the samples allow at once."""
    count, size = len(samples), min(size, getattr(samples, "at_once", size))
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def load_batches(
    samples: Samples, batches: list[list[int]], workers: int, seed: int, *keys: str | int
) -> Iterator[Batch]:
    """Load the batches in order, in worker processes whose generators are seeded by (seed, keys).

    Raises:
        UserError: A sample cannot be used; the same one line whether a worker or this process found out.
    """
    loader: DataLoader[Batch] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        generator=torch_generator(seed, "loader", *keys),
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except UserError as error:
        # A worker's error comes wrapped in its traceback, which ends with what the error says.
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
