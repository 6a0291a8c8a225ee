"""Flower's strategies as aggregators of named clients' updates.

Rounds, sampling and failure handling are ours (see `fl.server`), the arithmetic is Flower's: a strategy is asked what
it would send (`configure_train`) and given the good replies in the order of client names, as float64.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

from fl.exchange import Arrays, from_record
from fl.krum import MultiKrum, Nearest
from fl.nodes import RoundError
from fl.quorum import quorum
from training.federation import Krum, Strategy

STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedprox": flower.FedProx,
    "fedadagrad": flower.FedAdagrad,
    "fedadam": flower.FedAdam,
    "fedyogi": flower.FedYogi,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "krum": MultiKrum,
    "multikrum": MultiKrum,
    "bulyan": flower.Bulyan,
    "qfedavg": flower.QFedAvg,
}
SERVER_OPTIMIZERS = {"fedavgm", "fedadagrad", "fedadam", "fedyogi"}
"""Strategies that step along the average of the updates; Flower keeps their moments by array."""


@dataclass(frozen=True)
class Update:
    """What a client sends back: its weights, the samples it trained on, and the loss before it trained."""

    arrays: Arrays
    samples: int
    initial_loss: float


Rule = Callable[[int, Arrays, Sequence[Update]], Arrays]
"""Makes new arrays in a round, of the old ones and of the updates of the clients that trained all of them."""


class Aggregator:
    """A Flower strategy bound to the types of the global weights."""

    def __init__(self, options: Strategy, parameters: Collection[str]) -> None:
        """Build the strategy.

        Args:
            options: Name and options.
            parameters: Names of what is trained by gradients; all else in the global weights are buffers.
        """
        arguments = {"min_train_nodes": 1, "min_available_nodes": 1, **options.model_dump(exclude={"name"})}
        self.options, self.parameters = options, frozenset(parameters)
        self.nearest = Nearest(self.parameters)
        if isinstance(options, Krum):
            arguments["selection_rule"] = self.nearest
        self.strategy = STRATEGIES[options.name](**arguments)
        self.average = FedAvg(min_train_nodes=1, min_available_nodes=1)
        self.steps = options.name in SERVER_OPTIMIZERS

    def configure(self, server_round: int, arrays: Arrays) -> dict[str, Any]:
        """Show the strategy the global weights and give what it wants clients to know (such as `proximal-mu`)."""
        record = _record(self._stepped(arrays) if self.steps else arrays)
        (message,) = self.strategy.configure_train(server_round, record, ConfigRecord(), _OneNode())  # type: ignore[arg-type]
        config = message.content.config_records[self.strategy.configrecord_key]
        return {key: value for key, value in config.items() if key != "server-round"}

    def aggregate(self, server_round: int, arrays: Arrays, updates: Mapping[str, Update]) -> Arrays:
        """Give the new global weights, in the types of the old ones.

        Each array is decided by the clients that trained it; who has no data for it has no vote on it. What nobody
        trained stays, except that an optimizer on the server may still move it by its momentum.

        An optimizer on the server takes steps, which suit parameters; the buffers beside it (BatchNorm's mean and
        variance) are averaged by samples. Integer arrays are counters (`num_batches_tracked`): the highest is taken.

        Args:
            server_round: The round.
            arrays: The global weights before the round.
            updates: Client -> what it trained, by the names of the global weights.

        Raises:
            RoundError: Fewer clients trained an array than the strategy takes, or the outcome is not finite.
        """
        with np.errstate(all="ignore"):  # What comes out is looked at below.
            new = dict(arrays)
            for (rule, voters), names in self._votes(arrays, updates).items():
                self._check_quorum(server_round, names[0], len(voters))
                start = {name: arrays[name] for name in names}
                new |= rule(server_round, start, [updates[client] for client in voters])
            if self.steps:
                new |= _asked(self.strategy, server_round, [Update(self._stepped(new), 1, 0.0)])
            new = {name: new[name].astype(old.dtype).reshape(old.shape) for name, old in arrays.items()}
        self._check_finite(server_round, new)
        return new

    def _votes(self, arrays: Arrays, updates: Mapping[str, Update]) -> dict[tuple[Rule, tuple[str, ...]], list[str]]:
        """Sort the names of arrays by the rule that decides them and by the clients that trained them."""
        votes: dict[tuple[Rule, tuple[str, ...]], list[str]] = {}
        for name, array in arrays.items():
            voters = tuple(client for client in sorted(updates) if name in updates[client].arrays)
            if voters:
                votes.setdefault((self._rule(name, array), voters), []).append(name)
        return votes

    def _rule(self, name: str, array: np.ndarray) -> Rule:
        if not np.issubdtype(array.dtype, np.floating):
            return _highest
        buffer_of_fair = isinstance(self.strategy, flower.QFedAvg) and name not in self.parameters
        return self._averaged if self.steps or buffer_of_fair else self._combined

    def _averaged(self, server_round: int, start: Arrays, updates: Sequence[Update]) -> Arrays:
        return _asked(self.average, server_round, [_restricted(update, start) for update in updates])

    def _combined(self, server_round: int, start: Arrays, updates: Sequence[Update]) -> Arrays:
        self.nearest.start = start
        if isinstance(self.strategy, flower.QFedAvg):
            self.strategy.current_arrays = _record(start)
        return _asked(self.strategy, server_round, [_restricted(update, start) for update in updates])

    def _stepped(self, arrays: Arrays) -> Arrays:
        """Give what an optimizer on the server moves."""
        return {name: array for name, array in arrays.items() if name in self.parameters}

    def _check_quorum(self, server_round: int, name: str, voters: int) -> None:
        needed = quorum(self.options)
        if voters < needed.updates:
            raise RoundError(
                f"round {server_round}: {voters} updates of {name} are too few for {self.options.name}; "
                f"{needed.reason} takes {needed.updates}"
            )

    def _check_finite(self, server_round: int, arrays: Arrays) -> None:
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise RoundError(
                    f"round {server_round}: {self.options.name} made {name} NaN or infinite of updates that are "
                    "finite; lower its rates, or those of training"
                )

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


def _restricted(update: Update, start: Arrays) -> Update:
    return replace(update, arrays={name: update.arrays[name] for name in start})


def _asked(strategy: FedAvg, server_round: int, updates: Sequence[Update]) -> Arrays:
    """Give what a strategy of Flower makes of updates, as float64."""
    record, _ = strategy.aggregate_train(server_round, [_reply(update) for update in updates])
    assert record is not None, "the quorum has been checked"
    return from_record(record)


def _reply(update: Update) -> Message:
    metrics = MetricRecord({"num-examples": update.samples, "train_loss": update.initial_loss})
    content = RecordDict({"arrays": _record(update.arrays), "metrics": metrics})
    return Message(content=content, dst_node_id=1, message_type="train")


def _highest(server_round: int, start: Arrays, updates: Sequence[Update]) -> Arrays:
    return {name: np.maximum.reduce([update.arrays[name] for update in updates]) for name in start}
