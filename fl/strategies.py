"""Flower's strategies as aggregators of named clients' updates.

Rounds, sampling and failure handling are ours (see `fl.server`), the arithmetic is Flower's: a strategy is asked what
it would send (`configure_train`) and given the good replies in the order of client names, as float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

from core.errors import UserError
from fl.exchange import Arrays, from_record
from training.federation import Strategy

STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedprox": flower.FedProx,
    "fedadagrad": flower.FedAdagrad,
    "fedadam": flower.FedAdam,
    "fedyogi": flower.FedYogi,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "krum": flower.Krum,
    "multikrum": flower.MultiKrum,
    "bulyan": flower.Bulyan,
    "qfedavg": flower.QFedAvg,
}
NEEDED_CLIENTS = {"krum": (2, 3), "multikrum": (2, 3), "bulyan": (4, 3)}
"""Strategy -> (a, b): withstanding f attackers takes a*f + b clients (from the papers)."""


@dataclass(frozen=True)
class Update:
    """What a client sends back: its weights, the samples it trained on, and the loss before it trained."""

    arrays: Arrays
    samples: int
    initial_loss: float


class Aggregator:
    """A Flower strategy bound to the types of the global weights."""

    def __init__(self, options: Strategy, clients_per_round: int) -> None:
        """Build the strategy.

        Raises:
            UserError: It cannot work with so few clients.
        """
        _check_clients(options, clients_per_round)
        arguments = options.model_dump(exclude={"name"})
        self.strategy = STRATEGIES[options.name](min_train_nodes=1, min_available_nodes=1, **arguments)

    def configure(self, server_round: int, arrays: Arrays) -> dict[str, Any]:
        """Show the strategy the global weights and give what it wants clients to know (such as `proximal-mu`)."""
        record = _record(_weights(arrays))
        (message,) = self.strategy.configure_train(server_round, record, ConfigRecord(), _OneNode())  # type: ignore[arg-type]
        config = message.content.config_records[self.strategy.configrecord_key]
        return {key: value for key, value in config.items() if key != "server-round"}

    def aggregate(self, server_round: int, arrays: Arrays, updates: Mapping[str, Update]) -> Arrays:
        """Give the new global weights, in the types of the old ones.

        Integer arrays are counters (BatchNorm's `num_batches_tracked`), which no average fits: the highest is taken.
        """
        ordered = [updates[name] for name in sorted(updates)]
        record, _ = self.strategy.aggregate_train(server_round, [_reply(update) for update in ordered])
        assert record is not None, "there is at least one good update"
        averaged = from_record(record)
        counted = {
            name: np.maximum.reduce([update.arrays[name] for update in ordered])
            for name in arrays.keys() - averaged.keys()
        }
        return {
            name: {**averaged, **counted}[name].astype(old.dtype).reshape(old.shape) for name, old in arrays.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Give the arrays that the strategy carries from round to round, as tensors."""
        state: dict[str, Any] = {}
        for key, value in vars(self.strategy).items():
            if isinstance(value, ArrayRecord):
                state[key] = {"record": {name: torch.from_numpy(array.numpy()) for name, array in value.items()}}
            elif isinstance(value, dict) and value:
                state[key] = {"dict": {name: torch.from_numpy(np.asarray(array)) for name, array in value.items()}}
            elif isinstance(value, list) and value:
                state[key] = {"list": [torch.from_numpy(np.asarray(array)) for array in value]}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for key, tagged in state.items():
            ((kind, value),) = tagged.items()
            if kind == "list":
                restored: Any = [tensor.numpy() for tensor in value]
            else:
                restored = {name: tensor.numpy() for name, tensor in value.items()}
            setattr(self.strategy, key, _record(restored) if kind == "record" else restored)


class _OneNode:
    """Stands in for a grid: sampling is done on client names, elsewhere."""

    def get_node_ids(self) -> list[int]:
        return [1]


def _record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array, np.float64)) for name, array in arrays.items()})


def _weights(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)}


def _reply(update: Update) -> Message:
    metrics = MetricRecord({"num-examples": update.samples, "train_loss": update.initial_loss})
    content = RecordDict({"arrays": _record(_weights(update.arrays)), "metrics": metrics})
    return Message(content=content, dst_node_id=1, message_type="train")


def _check_clients(options: Strategy, clients: int) -> None:
    if options.name not in NEEDED_CLIENTS:
        return
    factor, base = NEEDED_CLIENTS[options.name]
    attackers = getattr(options, "num_malicious_nodes", 0)
    if clients < factor * attackers + base:
        raise UserError(
            f"federation.strategy = {options.name}: {clients} clients per round, but withstanding "
            f"num_malicious_nodes = {attackers} takes {factor * attackers + base}; add clients or lower the number"
        )
