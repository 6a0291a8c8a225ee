"""Flower's strategies as aggregators of named clients' updates.

Rounds, sampling and failure handling are ours (see `fl.server`), the arithmetic is Flower's: a strategy is asked what
it would send (`configure_train`) and given the good replies in the order of client names, as float64.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

from core.errors import UserError
from fl.exchange import Arrays, from_record
from training.federation import Federation, Strategy

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
SERVER_OPTIMIZERS = {"fedavgm", "fedadagrad", "fedadam", "fedyogi", "qfedavg"}
"""Strategies that step along the averaged update instead of taking a mean or choosing."""
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

    def __init__(self, options: Strategy, parameters: Collection[str]) -> None:
        """Build the strategy.

        Args:
            options: Name and options.
            parameters: Names of what is trained by gradients; all else in the global weights are buffers.
        """
        arguments = options.model_dump(exclude={"name"})
        self.strategy = STRATEGIES[options.name](min_train_nodes=1, min_available_nodes=1, **arguments)
        self.parameters = parameters if options.name in SERVER_OPTIMIZERS else None

    def configure(self, server_round: int, arrays: Arrays) -> dict[str, Any]:
        """Show the strategy the global weights and give what it wants clients to know (such as `proximal-mu`)."""
        record = _record(self._weights(arrays))
        (message,) = self.strategy.configure_train(server_round, record, ConfigRecord(), _OneNode())  # type: ignore[arg-type]
        config = message.content.config_records[self.strategy.configrecord_key]
        return {key: value for key, value in config.items() if key != "server-round"}

    def aggregate(self, server_round: int, arrays: Arrays, updates: Mapping[str, Update]) -> Arrays:
        """Give the new global weights, in the types of the old ones.

        An optimizer on the server takes steps, which suit parameters; the buffers beside it (BatchNorm's mean and
        variance) are averaged by samples. Integer arrays are counters (`num_batches_tracked`): the highest is taken.
        """
        ordered = [updates[name] for name in sorted(updates)]
        replies = [_reply(update, self._weights(update.arrays)) for update in ordered]
        record, _ = self.strategy.aggregate_train(server_round, replies)
        assert record is not None, "the server has seen to it that there are enough updates"
        new = from_record(record)
        for name in arrays.keys() - new.keys():
            combine = _average if np.issubdtype(arrays[name].dtype, np.floating) else _highest
            new[name] = combine(name, ordered)
        return {name: new[name].astype(old.dtype).reshape(old.shape) for name, old in arrays.items()}

    def _weights(self, arrays: Arrays) -> Arrays:
        """Give what the strategy decides on."""
        return {
            name: array
            for name, array in arrays.items()
            if np.issubdtype(array.dtype, np.floating) and (self.parameters is None or name in self.parameters)
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


def _reply(update: Update, weights: Arrays) -> Message:
    metrics = MetricRecord({"num-examples": update.samples, "train_loss": update.initial_loss})
    content = RecordDict({"arrays": _record(weights), "metrics": metrics})
    return Message(content=content, dst_node_id=1, message_type="train")


def completed(arrays: Arrays, updates: Mapping[str, Update]) -> dict[str, Update]:
    """Give updates that all hold the same names, without swaying the average of those who trained.

    A client that has no data for a part abstains: it is given the average of the others. What nobody trained stays.

    Args:
        arrays: The global weights before the round.
        updates: Client -> what it trained.
    """
    stand_ins = dict(arrays)
    ordered = [updates[name] for name in sorted(updates)]
    for name in arrays:
        voters = [update for update in ordered if name in update.arrays]
        if 0 < len(voters) < len(ordered):
            combine = _average if np.issubdtype(arrays[name].dtype, np.floating) else _highest
            stand_ins[name] = combine(name, voters)
    return {client: replace(update, arrays={**stand_ins, **update.arrays}) for client, update in updates.items()}


def _average(name: str, updates: Sequence[Update]) -> np.ndarray:
    weights = [update.samples for update in updates]
    return np.average([update.arrays[name].astype(np.float64) for update in updates], axis=0, weights=weights)


def _highest(name: str, updates: Sequence[Update]) -> np.ndarray:
    return np.maximum.reduce([update.arrays[name] for update in updates])  # type: ignore[no-any-return]


def needed_clients(options: Strategy) -> int:
    """Give the number of updates without which a strategy cannot keep its promise."""
    factor, base = NEEDED_CLIENTS.get(options.name, (0, 1))
    return factor * int(getattr(options, "num_malicious_nodes", 0)) + base


def check_clients(options: Federation, clients: int) -> None:
    """Refuse a federation that has too few clients for what it asks.

    Raises:
        UserError: The strategy, `clients_per_round` or `min_clients` wants more.
    """
    for key in ("clients_per_round", "min_clients"):
        wanted = getattr(options, key)
        if wanted and wanted > clients:
            raise UserError(f"federation.{key} = {wanted}: there are {clients} clients; lower it or leave it out")
    strategy, sampled = options.strategy, options.clients_per_round or clients
    if sampled < needed_clients(strategy):
        raise UserError(
            f"federation.strategy = {strategy.name}: {sampled} clients per round, but withstanding "
            f"num_malicious_nodes = {getattr(strategy, 'num_malicious_nodes', 0)} takes {needed_clients(strategy)}; "
            "add clients or lower the number"
        )
