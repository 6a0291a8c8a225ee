"""How samples are given to clients and splits, whatever they are: what the image tasks share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from datasets.partitions import PartitionName, divide
from datasets.unit_splits import SPLITS, check_fractions, split_units

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
        """Give the client that a value of `client_key` names.

        Raises:
            UserError: It is "held_out", while another value is said to belong to nobody.
        """
        if value == HELD_OUT != self.held_out:
            raise UserError(
                f"{self.client_key or 'clients'}: a value is {HELD_OUT!r}, as samples of nobody are called, but "
                f"held_out_client names {self.held_out!r}; rename it, or make it {self.held_out!r}"
            )
        return HELD_OUT if value == self.held_out else value

    def divide(self, units: Sequence[str], labels: Sequence[str] = ()) -> dict[str, str]:
        """Give unit -> client by the partition.

        Raises:
            UserError: There are fewer units than clients.
        """
        assert self.partition is not None and self.clients is not None
        return divide(units, self.partition, self.clients, seed=self.seed, labels=labels, alpha=self.alpha)

    def draw(
        self, units_N: npt.NDArray[np.str_], clients_N: npt.NDArray[np.str_], *, source: Path, kind: str, remedy: str
    ) -> npt.NDArray[np.str_]:
        """Draw the splits of each client by whole units; what belongs to nobody is test.

        Args:
            units_N: Unit of every sample.
            clients_N: Client of every sample.
            source: File or folder to name in an error.
            kind: What the units are, in the plural, for an error.
            remedy: What to do about a client with too few of them.

        Returns:
            Name of the split of every sample, shape [samples].

        Raises:
            UserError: A client has fewer than three units.
        """
        splits_N = np.full(len(units_N), "test", dtype="<U5")
        for client in sorted(set(clients_N.tolist()) - {HELD_OUT}):
            rows = clients_N == client
            units = np.unique(units_N[rows]).tolist()
            if len(units) < len(SPLITS):
                raise UserError(
                    f"{source}: client {client!r} has {len(units)} {kind} ({', '.join(units)}), three needed for "
                    f"train, val and test; {remedy}"
                )
            splits_N[rows] = split_units(
                units_N[rows], self.fractions, seed=self.seed, client=client, source=str(source)
            )
        return splits_N
