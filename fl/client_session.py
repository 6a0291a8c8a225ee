"""What a process keeps open between messages: the task, the network, and the data of the clients it serves."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel
from torch import nn

from fl.travel import Travel
from training import checkpoints
from training.config import Experiment, resolve
from training.device import choose_device
from training.features import frozen_hash
from training.preparation import build_network, open_client
from training.task import ClientData, Task


@dataclass
class ClientSession:
    """The open task of one process. Data of a client is opened at its first use."""

    experiment: Experiment
    task: Task
    fitted: BaseModel
    network: nn.Module
    device: torch.device
    frozen: str
    """Hash of the weights that do not train."""
    fingerprint: str
    """Of what a client keeps between rounds."""
    travel: Travel
    data: dict[str, ClientData] = field(default_factory=dict)

    def client(self, name: str) -> ClientData:
        """Give the splits of a client."""
        if name not in self.data:
            self.data[name] = open_client(self.task, name, self.fitted, self.network, self.experiment, self.device)
        return self.data[name]


@functools.lru_cache(maxsize=2)
def open_experiment(text: str, data: str | None, run: str) -> tuple[Experiment, Task]:
    """Read the experiment that a message carries.

    Args:
        text: The experiment as YAML.
        data: This node's own data folder, where it has one.
        run: The run folder; another run opens its data anew, even where the config is the same.
    """
    values: dict[str, Any] = yaml.safe_load(text)
    if data:
        values["options"]["data"] = data
    experiment = resolve(values, "the server's config", Path.cwd())
    return experiment, experiment.build_task()


@functools.lru_cache(maxsize=1)
def open_session(text: str, fitted_json: str, data: str | None, run: str) -> ClientSession:
    """Open task and network; the last session is kept, so each process does this once per run."""
    experiment, task = open_experiment(text, data, run)
    fitted = task.Fitted.model_validate_json(fitted_json)
    device = choose_device(experiment.train.device)
    network = build_network(task, fitted, experiment.seed).to(device)
    travel = Travel(network, task, experiment.federation)
    fingerprint = checkpoints.fingerprint(experiment.task, network, fitted)
    return ClientSession(experiment, task, fitted, network, device, frozen_hash(network), fingerprint, travel)
