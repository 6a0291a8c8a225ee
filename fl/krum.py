"""Krum's choice among updates (Blanchard et al., NeurIPS 2017), made on what the clients changed.

Flower takes the distance of two updates as |x|^2 + |y|^2 - 2xy. Of whole weights this loses small differences beside
large values that all share, and counts the statistics of BatchNorm; of the changes of parameters it does neither.
"""

from collections.abc import Collection, Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.multikrum import select_multikrum

from fl.exchange import Arrays, from_record


class Nearest:
    """A selection rule in the form that Flower's Bulyan takes."""

    def __init__(self, parameters: Collection[str]) -> None:
        """Take the names of what is trained by gradients; it alone is compared."""
        self.parameters = parameters
        self.start: Arrays = {}
        """The global weights that the updates started from."""

    def __call__(
        self, contents: list[RecordDict], num_malicious_nodes: int, num_nodes_to_select: int
    ) -> list[RecordDict]:
        """Give the replies that lie nearest to their neighbours, in the order in which they came."""
        changes = [RecordDict({"changes": self._changes(content)}) for content in contents]
        chosen = {id(one) for one in select_multikrum(changes, num_malicious_nodes, num_nodes_to_select)}
        return [content for content, change in zip(contents, changes, strict=True) if id(change) in chosen]

    def _changes(self, content: RecordDict) -> ArrayRecord:
        (record,) = content.array_records.values()
        arrays = {name: array for name, array in from_record(record).items() if name in self.parameters}
        return ArrayRecord({name: Array(np.asarray(array - self.start[name])) for name, array in arrays.items()})


class MultiKrum(FedAvg):
    """Flower's average of the updates that a selection rule chooses; with one to select it is Krum."""

    def __init__(
        self, selection_rule: Nearest, num_malicious_nodes: int, num_nodes_to_select: int = 1, **arguments: int
    ) -> None:
        """Take the rule and what it needs to know; all else goes to Flower."""
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.selection_rule = selection_rule
        self.num_malicious_nodes, self.num_nodes_to_select = num_malicious_nodes, num_nodes_to_select

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what was chosen, by samples."""
        contents = {id(reply.content): reply for reply in replies}
        chosen = self.selection_rule(
            [reply.content for reply in contents.values()], self.num_malicious_nodes, self.num_nodes_to_select
        )
        return super().aggregate_train(server_round, [contents[id(content)] for content in chosen])
