"""What a run says of its data and its network before it trains."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from training.config import Experiment
from training.device import effective_precision
from training.parameters import count_parameters
from training.runs import Run, Setting
from training.task import Task


def announce(run: Run, task: Task, network: nn.Module, descriptions: Mapping[str, Mapping[str, Any]]) -> None:
    """Log the counts of each client, then the parameters and what the task says of the network."""
    for client in sorted(descriptions):
        run.log(
            f"{client}: {', '.join(_said(key, value) for key, value in descriptions[client].items() if key != 'files')}"
        )
    counts = count_parameters(network)
    facts = "".join(f", {key} {value}" for key, value in task.facts(network).items())
    run.log(f"parameters: {counts['trainable']:,} trainable of {counts['total']:,}{facts}")
    for line in idle(run.experiment, run.setting, next(network.parameters()).device):
        run.log(line)


def idle(experiment: Experiment, setting: Setting, device: torch.device) -> Iterator[str]:
    """Say which options have no effect on this device or in this setting; on another, or in another, they may."""
    train = experiment.train
    effective = effective_precision(device.type, train.precision)
    if effective != train.precision:
        yield f"train.precision = {train.precision}: has no effect on {device}, which computes in {effective}"
    if train.oom_limit and device.type != "cuda":
        yield f"train.oom_limit = {train.oom_limit}: has no effect on {device}; it is about the memory of a GPU"
    rounds = experiment.federation.rounds * experiment.federation.local_epochs
    if setting == "federated" and experiment.epochs != rounds:
        yield (
            f"train.epochs = {train.epochs}: has no effect in the federated setting, where federation.rounds x "
            f"federation.local_epochs = {rounds}"
        )


def _said(key: str, value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{key} {value}"
    if key == "labels":
        return f"{len(value)} labels"
    return f"{key}: {' '.join(f'{name} {count}' for name, count in value.items())}"
