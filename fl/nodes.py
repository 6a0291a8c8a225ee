"""Who serves which client, and how the server asks them."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from core.errors import UserError
from fl.exchange import Arrays, Part, pack, unpack
from fl.guard import out_of_place

PULL_INTERVAL = 0.02
"""Seconds between two looks for replies; Flower's own default is 0.1."""
SETTLING = 3.0
"""Seconds without a newcomer after which an unknown number of nodes counts as complete."""


Reject = Callable[[str, Part], str | None]
"""Tells what is wrong with a client's answer, or None where nothing is."""

NO_REPLY = Part({"error": {"kind": "failed", "message": "no reply", "details": ""}})
LENIENCE, GRACE = 1.5, 30.0
"""Factor and seconds by which the server waits longer than its clients, which end what takes too long themselves."""
DEATHS = ("ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerCrashedError", "NodeDiedError")
"""Ray's words for a worker whose process has ended."""


class RoundError(RuntimeError):
    """Too few clients answered for the run to go on."""


@dataclass(frozen=True)
class Failure:
    """A client that did not answer as asked."""

    client: str
    phase: str
    kind: str
    message: str
    details: str


@dataclass(frozen=True)
class Answers:
    """The good answers by client, in the order of names, and the failures.

    Attributes:
        dead: The clients of each simulated worker that ended, or never answered, while it served them.
    """

    good: dict[str, Part]
    failures: list[Failure]
    dead: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Lost:
    """A node whose reply cannot be used.

    Attributes:
        reason: One line.
        dead: Whether the process behind it ended or never answered.
    """

    reason: str
    dead: bool


class Nodes:
    """The connected nodes. Simulated ones can serve every client; deployed ones only those whose data they hold."""

    def __init__(self, grid: Grid, expected: int, timeout: float = 300.0) -> None:
        """Wait until the expected number of nodes has joined (0: until no more come).

        Raises:
            RoundError: They did not join in time.
        """
        if hasattr(grid, "pull_interval"):
            grid.pull_interval = PULL_INTERVAL
        self.grid = grid
        self.owners: dict[str, int] | None = None
        self.identifiers = self._join(expected, time.monotonic() + timeout)

    def _join(self, expected: int, deadline: float) -> list[int]:
        """Wait for the nodes; where their number is not known, until no more have come for a while."""
        found: list[int] = []
        changed = time.monotonic()
        while not (len(found) >= expected if expected else found and time.monotonic() - changed > SETTLING):
            if time.monotonic() > deadline:
                raise RoundError(f"{len(found)} of {expected or 'any'} nodes joined in time; see the log of the nodes")
            time.sleep(PULL_INTERVAL if found else 0)
            now = sorted(self.grid.get_node_ids())
            found, changed = now, changed if now == found else time.monotonic()
        return found

    def greet(self, request: Mapping[str, Any]) -> list[str]:
        """Learn the clients' names; fix the order of nodes, whose ids are random, by their partition numbers.

        Raises:
            UserError: A node runs other code, cannot read its data, or holds a client that another one holds too.
        """
        parts = {}
        for node, reply in self._send("query.hello", {node: dict(request) for node in self.identifiers}, {}).items():
            if isinstance(reply, Lost):
                raise RoundError(f"a node failed in hello: {reply.reason}")
            parts[node] = reply["node"]
            raise_refusals(
                [_failure("a node", "hello", parts[node].info["error"])] if "error" in parts[node].info else []
            )
        self.identifiers = sorted(parts, key=lambda node: (parts[node].info["partition"], node))
        if all(part.info["shared"] for part in parts.values()):
            return list(parts[self.identifiers[0]].info["clients"])
        return self._learn_owners({node: parts[node].info["clients"] for node in self.identifiers})

    def ask(
        self,
        kind: str,
        clients: Sequence[str],
        request: Mapping[str, Any],
        arrays: Arrays | None,
        reject: Reject,
        *,
        alone: Collection[str] = (),
        timeout: float | None = None,
    ) -> Answers:
        """Ask clients and wait for all; one message per node carries the request for its share of them.

        Args:
            kind: Message type, such as `train`.
            clients: Names.
            request: Plain values for all of them; `round` among them where there is one, and under `own` those that
                a client gets for itself.
            arrays: Global weights, or None.
            reject: Tells what is wrong with a client's good-looking answer, or None.
            alone: Clients that get a message of their own, one after another, until a worker dies: it fails all that
                it is given from then on, whoever is asked.
            timeout: Seconds that one client may take.
        """
        together = [name for name in sorted(clients) if name not in alone]
        turns = [together] * bool(together) + [[name] for name in sorted(clients) if name in alone]
        parts: list[Answers] = []
        while turns and not (parts and parts[-1].dead):
            parts.append(self._ask_once(kind, turns.pop(0), request, arrays, reject, timeout))
        good = {name: part for answers in parts for name, part in answers.good.items()}
        failures = [failure for answers in parts for failure in answers.failures]
        return Answers(
            {name: good[name] for name in sorted(good)},
            sorted(failures, key=lambda one: one.client),
            [share for answers in parts for share in answers.dead],
        )

    def _ask_once(
        self,
        kind: str,
        clients: list[str],
        request: Mapping[str, Any],
        arrays: Arrays | None,
        reject: Reject,
        timeout: float | None,
    ) -> Answers:
        shares = self._shares(clients)
        requests = {node: _share(request, names) for node, names in shares.items()}
        longest = timeout and timeout * max(map(len, shares.values())) * LENIENCE + GRACE
        replies = self._send(kind, requests, {"global": arrays} if arrays is not None else {}, longest)
        phase, number = kind.removeprefix("query."), request.get("round", 0)
        good: dict[str, Part] = {}
        failures: list[Failure] = []
        dead: list[list[str]] = []
        for node, names in shares.items():
            reply = replies.get(node, Lost(f"no reply within {longest or 0:.0f} s", dead=True))
            if isinstance(reply, Lost):
                failures += [Failure(name, phase, "failed", reply.reason, "") for name in names]
                dead += [names] * (reply.dead and self.owners is None)
                continue
            for name in names:
                part = reply.get(name, NO_REPLY)
                if "error" in part.info:
                    failures.append(_failure(name, phase, part.info["error"]))
                elif reason := out_of_place(part, name, number) or reject(name, part):
                    failures.append(Failure(name, phase, "rejected", reason, ""))
                else:
                    good[name] = part
        return Answers(good, failures, dead)

    def _learn_owners(self, clients: Mapping[int, list[str]]) -> list[str]:
        self.owners = {}
        for node, names in clients.items():
            for name in names:
                if name in self.owners:
                    raise UserError(f"client {name!r} is held by two nodes; give each node a data folder of its own")
                self.owners[name] = node
        return sorted(self.owners)

    def _shares(self, clients: list[str]) -> dict[int, list[str]]:
        shares: dict[int, list[str]] = {}
        for number, name in enumerate(clients):
            node = self.owners[name] if self.owners else self.identifiers[number % len(self.identifiers)]
            shares.setdefault(node, []).append(name)
        return shares

    def _send(
        self, kind: str, requests: Mapping[int, dict[str, Any]], arrays: dict[str, Arrays], timeout: float | None = None
    ) -> "dict[int, dict[str, Part] | Lost]":
        messages = [
            Message(content=pack({"all": Part(request, arrays)}), message_type=kind, dst_node_id=node)
            for node, request in requests.items()
        ]
        replies: dict[int, dict[str, Part] | Lost] = {}
        for message in self.grid.send_and_receive(messages, timeout=timeout):
            node = message.metadata.src_node_id
            if node in replies:
                replies[node] = Lost("its node answered twice", dead=False)
            elif message.has_error():
                reason = " ".join(str(message.error.reason).split())
                replies[node] = Lost(reason, dead=any(name in reason for name in DEATHS))
            else:
                replies[node] = _unpacked(message.content)
        return replies


def _share(request: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Give the request for a node; no node learns what another one's clients are told."""
    own = request.get("own", {})
    return {**request, "clients": names, "own": {name: own[name] for name in names if name in own}}


def _unpacked(record: RecordDict) -> "dict[str, Part] | Lost":
    try:
        return unpack(record)
    except ValueError as error:
        return Lost(str(error), dead=False)


def raise_refusals(failures: Sequence[Failure]) -> None:
    """Turn failures into an error: refused input stays the user's error, all else ends the run.

    Raises:
        UserError: A client refused its input.
        RoundError: A client failed.
    """
    for failure in failures:
        if failure.kind == "refused":
            raise UserError(failure.message)
    for failure in failures:
        raise RoundError(f"{failure.client} failed in {failure.phase}: {failure.message}")


def _failure(client: str, phase: str, error: Mapping[str, Any]) -> Failure:
    return Failure(client, phase, error["kind"], error["message"], error["details"])
