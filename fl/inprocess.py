"""The same ServerApp and ClientApp in one process: each message goes straight to the client app.

For tests, notebooks and debugging: a federation starts in a second instead of fifteen.
"""

import itertools
from collections.abc import Iterable

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity


class InProcessGrid(Grid):
    """A grid with a number of simulated nodes that answer at once, one after another."""

    def __init__(self, client_app: ClientApp, nodes: int) -> None:
        """Set up the nodes."""
        # Messages take their sender from this process-wide record, which Flower's own launchers set as well.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.client_app = client_app
        self.contexts = {node + 2: _context(node, nodes) for node in range(nodes)}
        self.replies: dict[str, Message] = {}
        self.numbers = itertools.count(1)

    def set_run(self, run: FlowerRun) -> None:
        """Refuse: there is one run."""
        raise NotImplementedError("an in-process grid has one run")

    @property
    def run(self) -> FlowerRun:
        """Refuse: nothing reads it."""
        raise NotImplementedError("an in-process grid has no run record")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Give the ids of the simulated nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let each node answer its message."""
        identifiers = []
        for message in messages:
            identifier = str(next(self.numbers))
            message.metadata.__dict__["_message_id"] = identifier
            self.replies[identifier] = self.client_app(message, self.contexts[message.metadata.dst_node_id])
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand over replies."""
        return [self.replies.pop(identifier) for identifier in message_ids]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send and collect; nothing is ever late."""
        return self.pull_messages(self.push_messages(messages))


def _context(node: int, nodes: int) -> Context:
    config: UserConfig = {"partition-id": node, "num-partitions": nodes}
    return Context(run_id=1, node_id=node + 2, node_config=config, state=RecordDict(), run_config={})
