"""The contract of a task: what the three settings need to know of a learning problem, and nothing else.

A task is one file in `tasks/` with a `Task` subclass and `TASK = ThatClass`, beside one YAML in `configs/`;
docs/new_task.md shows a small one. The settings differ only in who calls the training loop and on which data.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torchmetrics import MetricCollection

from core.errors import UserError
from core.tables import write_table
from training.options import DataPath, Options
from training.statistics import Statistics

Batch = dict[str, Tensor]
"""Tensors by name; the first axis of each is the sample."""


class Samples(Protocol):
    """A map-style dataset. `__getitems__(indices)`, where present, gives a whole `Batch` at once.

    `names` (ids of the samples) and `units` (the biological unit of each: nucleus, patient), where present, are stored
    beside the predictions.

    `at_once`, where present, is the most samples that a batch without learning takes, whatever `train.eval_batch_size`
    is: 1 where samples differ in shape.

    A dataset that augments has `reseed(seed)`, called before each epoch with a number that is a pure function of
    (experiment seed, client, epoch).
    """

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitem__(self, index: int) -> Batch:
        """Give one sample."""
        ...


@dataclass(frozen=True)
class ClientData:
    """The three splits of one client, each opened lazily."""

    train: Samples
    val: Samples
    test: Samples

    def split(self, name: str) -> Samples:
        """Give the split called train, val or test."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class Loss:
    """The loss of a batch: mean over its samples, with named parts for the record."""

    total: Tensor
    count: int
    parts: Mapping[str, Tensor]
    counts: Mapping[str, Tensor] = field(default_factory=dict)
    """Part -> samples that it is the mean over, 0-dimensional, where these are not all."""

    def sums(self) -> dict[str, Tensor]:
        """Give the loss and its parts as [2] each: the sum over samples and their number, in float64."""
        means = {"loss": self.total, **self.parts}
        return {name: _sum(mean.detach(), self.counts.get(name, self.count)) for name, mean in means.items()}


@dataclass(frozen=True)
class Answer:
    """What a network says of a batch of new samples: their names, and its outputs on the CPU."""

    names: Sequence[str]
    outputs: Batch


@dataclass(frozen=True)
class TableToTable:
    """A network as a map from named numbers to named numbers, and new samples for it."""

    network: nn.Module
    """Gives [N, O] for [N, I], each row by itself and with gradients."""
    values: Tensor
    """The samples, [N, I]."""
    inputs: Sequence[str]
    """Names of the I columns that go in."""
    outputs: Sequence[str]
    """Names of the O columns that come out."""


class Task(Options):
    """A learning problem. Its fields are the options of the YAML; its methods are all that a setting calls."""

    Fitted: ClassVar[type[BaseModel]]
    """What is fitted on training data: label map, scalers, feature list. Frozen and JSON-able."""
    primary: ClassVar[str]
    """The headline metric, one that `metrics` computes."""
    axis: ClassVar[str] = "class"
    """What `classes` names: class, gene, ..."""
    passes: ClassVar[int] = 1
    """How often statistics are asked for; from the second pass on as `further_statistics`."""

    data: DataPath
    """Folder or file that holds the data."""

    # Data

    @abstractmethod
    def clients(self) -> list[str]:
        """Give the names of the data holders, sorted. Cheap."""

    @abstractmethod
    def statistics(self, client: str) -> Statistics:
        """Count and sum over the train split of a client, without rows leaving it."""

    def further_statistics(self, client: str, known: Statistics) -> Statistics:
        """Count and sum over the train split once more, knowing what earlier passes gave, merged; under other names.

        For sums that rest on what all must agree on first: a list of features, a shift from the overall minimum.
        """
        raise NotImplementedError

    @abstractmethod
    def fit(self, own: Statistics, everyone: Statistics) -> BaseModel:
        """Fit the preprocessing.

        Args:
            own: Merged statistics, of all passes, of the clients whose model this is: one client where it trains
                alone, else all.
            everyone: Merged statistics of all clients. What all models must agree on to be comparable (label map,
                feature list) comes from here; what is measured (scalers) comes from `own`.
        """

    @abstractmethod
    def client_data(self, client: str, fitted: BaseModel) -> ClientData:
        """Open the splits of a client."""

    def held_out(self, fitted: BaseModel) -> Samples | None:
        """Open the set that belongs to no client, where there is one."""
        return None

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give split -> level (cell, donor, ...) -> ids that must not occur in another split or client."""
        return {}

    def held_out_identities(self) -> dict[str, list[str]]:
        """Give level -> ids of the held-out set."""
        return {}

    @abstractmethod
    def data_digest(self, client: str) -> str:
        """Give a SHA-256 of a client's data (or of `held_out`), for the manifest and for caches."""

    @abstractmethod
    def describe(self, client: str) -> dict[str, Any]:
        """Give the samples of each split, and where there are such: `labels` (label -> count over all splits), `files`.

        `files` records how the splits were made: split -> file, units and SHA-256. A node with data of its own sends
        the number of `units`, not their names.
        """

    def absent(self, client: str) -> tuple[str, ...]:
        """Give patterns of parameters for which a client has no data: they do not train there, nor count its vote."""
        return ()

    def flip_labels(self, batch: Batch, fitted: BaseModel) -> Batch:
        """Give a batch with wrong labels, for the fault `label_flip`; a task without labels leaves this out."""
        raise NotImplementedError

    # Network

    @abstractmethod
    def network(self, fitted: BaseModel) -> nn.Module:
        """Build the network; called under a seed. What never trains has `requires_grad` off."""

    def bare_network(self, fitted: BaseModel) -> nn.Module:
        """Build the network for the weights of a finished run, which are all there are; by default as for training.

        For tasks whose `network` reads a file of pre-trained weights: it may be gone by then.
        """
        return self.network(fitted)

    def waiting(self, epoch: int) -> tuple[str, ...]:
        """Give patterns (`features.*`) of parameters that do not train yet in this epoch, counted from 0 over the run.

        For progressive unfreezing: until its time a part keeps its initial weights, stays in evaluation mode, and in a
        federation does not travel.
        """
        return ()

    def advance(self, network: nn.Module, epoch: int, step: int) -> None:
        """Tell the network where training stands, before each step; both count from 0 over the whole run.

        For weights of loss terms that follow a schedule: a pure function of the position, so that rounds, restarts and
        resumes need no state.
        """

    def rate_factors(self) -> dict[str, float]:
        """Give pattern of parameters -> factor on their learning rate; the first pattern that fits counts."""
        return {}

    def personal(self) -> tuple[str, ...]:
        """Give patterns (`head.*`) of parameters that train but stay at their client."""
        return ()

    def encode(self, network: nn.Module, batch: Batch) -> Batch | None:
        """Run the frozen front of the network: a batch that `forward` takes in its place, or None."""
        return None

    @abstractmethod
    def forward(self, network: nn.Module, batch: Batch) -> Batch:
        """Run the network on a batch, encoded or not; a vector that stands for each sample is called `embedding`."""

    @abstractmethod
    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        """Compute the training loss."""

    # Measures

    @abstractmethod
    def metrics(self, fitted: BaseModel) -> MetricCollection:
        """Give fresh metrics whose states merge exactly: `dist_reduce_fx` is sum, min or max, or cat where it must.

        A metric may compute several values at once, as a dict of scalars and arrays; its `higher_is_better` is then a
        dict too, without those scalars that are mere counts.
        """

    @abstractmethod
    def observe(self, metrics: MetricCollection, outputs: Batch, batch: Batch) -> None:
        """Update the metrics with a batch; all tensors are on the CPU."""

    @abstractmethod
    def predictions(self, outputs: Batch, batch: Batch) -> Batch:
        """Give what is stored per sample, so that every reported number can be recomputed.

        Arrays are joined along their first axis, which is the sample; where samples have parts of which they have
        unequal numbers, such as pixels, it is the part, and another array says how many each sample has.
        """

    def classes(self, fitted: BaseModel) -> list[str]:
        """Give the names along the axes of non-scalar metrics; empty where there are none."""
        return []

    def baselines(self, train: Samples, fitted: BaseModel) -> Mapping[str, Callable[[Batch], Batch]]:
        """Give methods without a network, fitted on the pooled training samples, that scores are set beside.

        Returns:
            Name -> outputs of a batch of samples, as `observe` takes them; empty where there are none.
        """
        return {}

    # New data

    def inputs(self, path: Path, fitted: BaseModel) -> Samples:
        """Open new data, a file or folder without targets, for a trained network; the samples have `names`.

        Raises:
            UserError: It cannot be read, or does not fit what the network was trained on.
        """
        raise UserError(f"task {type(self).__name__}: takes no new data; give the task a method `inputs`")

    def columns(self, outputs: Batch, fitted: BaseModel) -> dict[str, np.ndarray]:
        """Give what a table of predictions says of a batch: column -> value per sample.

        Raises:
            UserError: The task has no such method.
        """
        raise UserError(f"task {type(self).__name__}: takes no new data; give the task a method `columns`")

    def write_answers(
        self, answers: Iterable[Answer], folder: Path, fitted: BaseModel, scores: Mapping[str, float | None]
    ) -> list[Path]:
        """Write predictions for new data, batch by batch as they come; by default a table.

        Args:
            answers: One for each batch, in the order of the samples, computed as they are drawn.
            folder: Where files go; theirs alone.
            fitted: What was fitted on training data.
            scores: What the run reports of the network, on test samples of the clients that it learned from.

        Returns:
            The files written.
        """
        rows = ({"sample": np.asarray(one.names), **self.columns(one.outputs, fitted)} for one in answers)
        return [write_table(folder / "predictions.csv", rows)]

    def table_to_table(self, network: nn.Module, samples: Batch, fitted: BaseModel) -> TableToTable:
        """See a trained network and new samples as a map between tables, to attribute outputs to inputs.

        Raises:
            UserError: What goes in or comes out is no table of named numbers.
        """
        raise UserError(f"importance: inputs of {type(self).__name__} are no table of features; use predict")

    # Words

    def variant(self) -> str:
        """Give a short text for the names of runs, such as the backbone."""
        return ""

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Give further facts for the manifest, such as matched genes."""
        return {}


def _sum(mean: Tensor, count: Tensor | int) -> Tensor:
    mean = mean.to("cpu" if mean.device.type == "mps" else mean.device, torch.float64)
    # A whole number is written where the mean is: a copy would wait for the device.
    samples = count.detach().to(mean) if isinstance(count, Tensor) else torch.full_like(mean, count)
    return torch.stack([mean * samples, samples])
