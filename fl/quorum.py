"""How many updates a strategy takes to keep its promise, and refusals of federations that cannot give so many."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from core.errors import UserError
from training.federation import Bulyan, Federation, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Strategy


class Quorum(NamedTuple):
    """The fewest updates, what takes so many, and what to do where there are fewer."""

    updates: int
    reason: str
    remedy: str


def quorum(options: Strategy) -> Quorum:
    """Give the updates without which a strategy withstands nobody, or fewer than it is told to."""
    match options:
        case FedMedian():
            return Quorum(3, "a median other than the mean", "choose another strategy")
        case FedTrimmedAvg(beta=beta) if beta > 0:
            return Quorum(_trimmed(beta), f"cutting beta = {beta:g} off each end", "raise beta")
        case Bulyan(num_malicious_nodes=f):
            return Quorum(4 * f + 3, f"withstanding num_malicious_nodes = {f}", "lower the number")
        case MultiKrum(num_malicious_nodes=f, num_nodes_to_select=m) if m + f > 2 * f + 3:
            reason = f"averaging num_nodes_to_select = {m} without num_malicious_nodes = {f}"
            return Quorum(m + f, reason, "lower the number")
        case Krum(num_malicious_nodes=f):
            return Quorum(2 * f + 3, f"withstanding num_malicious_nodes = {f}", "lower the number")
    return Quorum(1, "training", "")


def check_clients(options: Federation, clients: int) -> None:
    """Refuse a federation that has too few clients for what it asks.

    Raises:
        UserError: The strategy, `clients_per_round` or `min_clients` wants more.
    """
    for key in ("clients_per_round", "min_clients"):
        wanted = getattr(options, key)
        if wanted and wanted > clients:
            raise UserError(f"federation.{key} = {wanted}: there are {clients} clients; lower it or leave it out")
    sampled = options.clients_per_round or clients
    _require(options.strategy, sampled, f"{sampled} clients per round")


def check_absent(options: Federation, absent: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse clients that lack data for a part of the network where the strategy cannot do without their vote.

    Args:
        options: The `federation` section.
        absent: Client -> patterns of the parameters for which it has no data.

    Raises:
        UserError: Updates are chosen as a whole, or a part may be left with too few votes in a round.
    """
    lacking = {pattern: [name for name in absent if pattern in absent[name]] for pattern in sorted({*_all(absent)})}
    for pattern, clients in lacking.items():
        where = f"{clients[0]} has no data for {pattern}"
        if isinstance(options.strategy, Krum):
            raise UserError(
                f"federation.strategy = {options.strategy.name}: chooses among whole updates, but {where}; "
                "choose fedmedian or fedtrimmedavg, or leave the client out"
            )
        if len(clients) < len(absent):
            left = max(1, (options.clients_per_round or len(absent)) - len(clients))
            _require(options.strategy, left, f"{where}, which may leave {left} clients of a round to train it")


def _require(options: Strategy, updates: int, where: str) -> None:
    needed = quorum(options)
    if updates < needed.updates:
        raise UserError(
            f"federation.strategy = {options.name}: {where}, but {needed.reason} takes {needed.updates}; "
            f"add clients or {needed.remedy}"
        )


def _trimmed(beta: float) -> int:
    """Give the fewest clients of whom this share is one or more, as Flower counts them: rounded down."""
    clients = math.ceil(1 / beta)
    return clients if int(beta * clients) else clients + 1


def _all(absent: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [pattern for patterns in absent.values() for pattern in patterns]
