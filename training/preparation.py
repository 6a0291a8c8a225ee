"""What happens before training in every setting: names checked, leaks refused, preprocessing fitted, network built."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from core.errors import UserError
from core.files import sha256_json
from core.randomness import seeded_torch
from datasets.leakage import check_disjoint
from datasets.unit_splits import SPLITS
from training.config import Experiment
from training.features import encode_samples, frozen_hash
from training.metrics import Metrics
from training.provenance import code_digest
from training.splits import members_of, plain_split_sha256
from training.statistics import Statistics, merge_statistics
from training.task import ClientData, Samples, Task

RESERVED = {"pooled", "held_out", "centralized", "federated", "local"}


def check_names(names: Sequence[str], source: str) -> list[str]:
    """Give the client names sorted.

    Raises:
        UserError: A name is missing, double, reserved, or no plain file name.
    """
    if not names:
        raise UserError(f"{source}: holds no client; docs/tasks.md shows the layouts")
    for name in names:
        if name in RESERVED or "__" in name or not re.fullmatch(r"[\w][\w .+-]*", name):
            raise UserError(f"{source}: client name {name!r} is reserved or not a plain file name; rename the client")
    if len(set(names)) != len(names):
        raise UserError(f"{source}: a client name occurs twice ({', '.join(sorted(names))}); rename one")
    return sorted(names)


def check_leaks(task: Task, clients: Sequence[str]) -> str | None:
    """Refuse data in which a biological unit stands in two splits or at two clients; give the SHA-256 of the split."""
    members = members_of(task, clients)
    check_disjoint(members, str(task.data))
    return plain_split_sha256(members)


def complete(
    task: Task, first: Mapping[str, Statistics], ask: Callable[[Statistics], Mapping[str, Statistics]]
) -> Statistics:
    """Merge the statistics of some clients, of as many passes as the task makes.

    Args:
        task: Says how many passes there are.
        first: Client -> what it gave in the first pass.
        ask: Gives every client's further statistics, once those of earlier passes are merged.

    Raises:
        UserError: Clients describe different things.
    """
    known = merge_statistics(first)
    for _ in range(1, task.passes):
        known = known.joined(merge_statistics(ask(known)))
    return known


def build_network(task: Task, fitted: BaseModel, seed: int) -> nn.Module:
    """Build the network: same seed, same weights, in every setting."""
    with seeded_torch(seed, "initial weights"):
        return task.network(fitted)


def monitored(experiment: Experiment, task: Task, fitted: BaseModel) -> tuple[str, bool]:
    """Give the metric that selects and stops, and whether higher is better.

    Raises:
        UserError: There is no such metric, or the headline metric of the task is none that it computes.
    """
    metrics = Metrics(task.metrics(fitted))
    if task.primary not in (known := metrics.directions()):
        raise UserError(
            f"task = {experiment.task!r}: {type(task).__name__}.primary = {task.primary!r}: its `metrics` compute no "
            f"such metric; choose one of {', '.join(known)}"
        )
    name = experiment.train.monitor or task.primary
    return name, metrics.higher_is_better(name)


def basis(experiment: Experiment, digests: Mapping[str, str]) -> dict[str, Any]:
    """Give hashes of what a checkpoint rests on: a run goes on from it only where these are the same or accepted."""
    return {"config": experiment.digest, "data": sha256_json(dict(digests)), "code": code_digest(experiment.task)}


def with_held_out(task: Task, digests: Mapping[str, str], held_out: Samples | None) -> dict[str, str]:
    """Add the SHA-256 of the set that belongs to no client to those of the clients, where this process holds it."""
    return {**digests, **({"held_out": task.data_digest("held_out")} if held_out is not None else {})}


def fitted_hash(fitted: BaseModel) -> str:
    """Give the SHA-256 of fitted preprocessing."""
    return hashlib.sha256(fitted.model_dump_json().encode()).hexdigest()


def open_client(
    task: Task, client: str, fitted: BaseModel, network: nn.Module, experiment: Experiment, device: torch.device
) -> ClientData:
    """Open a client's splits, with the frozen front of the network already applied where it can be."""
    data = task.client_data(client, fitted)
    splits = {name: data.split(name) for name in SPLITS}
    return ClientData(**_encoded(task, client, splits, fitted, network, experiment, device))


def open_held_out(
    task: Task, fitted: BaseModel, network: nn.Module, experiment: Experiment, device: torch.device
) -> Samples | None:
    """Open the set that belongs to no client, where there is one, encoded like the clients' splits."""
    samples = task.held_out(fitted)
    if samples is None:
        return None
    return _encoded(task, "held_out", {"test": samples}, fitted, network, experiment, device)["test"]


def _encoded(
    task: Task,
    owner: str,
    splits: Mapping[str, Samples],
    fitted: BaseModel,
    network: nn.Module,
    experiment: Experiment,
    device: torch.device,
) -> dict[str, Samples]:
    """Encode splits, kept beside the data by code, content, weights and options: whatever may change a bit."""
    options = {name: value for name, value in experiment.options.items() if name != "data"}
    options_of_training = (str(experiment.train.threads), str(experiment.train.batch_size))
    made_by = (code_digest(experiment.task), torch.__version__, *options_of_training)
    made_from = (experiment.task, frozen_hash(network), task.data_digest(owner), fitted_hash(fitted))
    key = (*made_by, *made_from, sha256_json(options))
    folder = cache_folder(task.data) / "features"
    return {
        name: encode_samples(task, network, samples, experiment.train, device, key=(*key, name), folder=folder)
        for name, samples in splits.items()
    }


def cache_folder(data: Path) -> Path:
    """Give the folder for what can be computed again: beside the data."""
    return (data if data.is_dir() else data.parent) / ".cache"
