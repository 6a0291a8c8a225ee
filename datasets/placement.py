"""How samples are given to clients and splits, whatever they are: what the image tasks share."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import UserError
from datasets.partitions import PartitionName, divide
from datasets.unit_splits import check_fractions

HELD_OUT = "held_out"
"""Stands for the client to whom nobody's samples belong."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Clients from a column or from a partition of units, and splits by units.

    Attributes:
        client_key: Column that names the client. Either it or `partition` is set.
        held_out: Value of that column whose samples belong to nobody.
        partition: How clients are made of whole units where no column names them.
        clients: Number of clients to make.
        alpha: Concentration of the `dirichlet` partition; small values skew labels.
        fractions: Shares of train, val and test, in units, for splits made here.
        seed: Seed of clients and splits made here.
    """

    client_key: str | None = None
    held_out: str = HELD_OUT
    partition: PartitionName | None = None
    clients: int | None = None
    alpha: float | None = None
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself or has no effect."""
        check_fractions(self.fractions)
        if (self.client_key is None) == (self.partition is None):
            raise UserError(
                "client_key, partition: give one of the two, a column that names clients or a way to make them"
            )
        if self.client_key is None and self.held_out != HELD_OUT:
            raise UserError(f"held_out_client: {self.held_out!r} has no effect without client_key; leave it out")
        if (self.partition is None) != (self.clients is None):
            raise UserError("partition, clients: belong together; give both or neither")
        if (self.partition == "dirichlet") != (self.alpha is not None):
            raise UserError("alpha: belongs to partition: dirichlet; give both or neither")

    def owner(self, value: str) -> str:
        """Give the client that a value of `client_key` names."""
        return HELD_OUT if value == self.held_out else value

    def divide(self, units: Sequence[str], labels: Sequence[str] = ()) -> dict[str, str]:
        """Give unit -> client by the partition.

        Raises:
            UserError: There are fewer units than clients.
        """
        assert self.partition is not None and self.clients is not None
        return divide(units, self.partition, self.clients, seed=self.seed, labels=labels, alpha=self.alpha)
