"""The options that give samples to clients and splits, shared by tasks whose data is a table with files."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from core.errors import UserError
from datasets.placement import HELD_OUT, Placement
from training.options import Options, named
from training.task import Task


class Evenly(Options):
    """Units are dealt at random."""

    name: Literal["evenly"] = "evenly"
    clients: int = Field(ge=1)
    """Number of clients to make."""


class Ranges(Evenly):
    """Runs of ids, as when ids were given out site by site."""

    name: Literal["ranges"] = "ranges"  # type: ignore[assignment]


class Dirichlet(Evenly):
    """Skewed labels (Hsu et al., arXiv 1909.06335)."""

    name: Literal["dirichlet"] = "dirichlet"  # type: ignore[assignment]
    alpha: float = Field(gt=0)
    """Concentration: 0.1 skews labels strongly, 100 hardly."""


Partition = Annotated[Annotated[Evenly | Ranges, Field(discriminator="name")], named("evenly")]
"""For units without a label."""
LabelledPartition = Annotated[Annotated[Evenly | Ranges | Dirichlet, Field(discriminator="name")], named("evenly")]
"""For units with one label each."""


class PlacementOptions(Task):
    """Clients from a column or a partition, splits by whole units."""

    client_key: str | None = None
    """Column that names the client; or set `partition`."""
    held_out_client: str = HELD_OUT
    """Value of `client_key` whose samples belong to no client."""
    partition: LabelledPartition | None = None
    """How units are divided where no column names clients: evenly, ranges or dirichlet."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test, in units, where splits are drawn here."""
    split_seed: int = Field(0, ge=0)
    """Seed of clients and splits made here; apart from the experiment's seed, so that seeds share their splits."""

    def placement(self) -> Placement:
        """Say how samples are given to clients and splits."""
        raise NotImplementedError

    def placed(self) -> dict[str, Any]:
        """Give the arguments that every placement takes."""
        partition = self.partition
        return {
            "client_key": self.client_key,
            "held_out": self.held_out_client,
            "partition": partition.name if partition else None,
            "clients": partition.clients if partition else None,
            "alpha": partition.alpha if isinstance(partition, Dirichlet) else None,
            "fractions": self.fractions,
            "seed": self.split_seed,
        }

    def refuse_absent(self, source: object, clients: list[str]) -> None:
        """Refuse a `held_out_client` that no row names, told by whoever found none.

        Raises:
            UserError: It was named in the config.
        """
        if self.held_out_client != HELD_OUT:
            raise UserError(
                f"{source}: {self.client_key} is nowhere {self.held_out_client!r}, which options.held_out_client "
                f"names; choose one of {', '.join(clients)}"
            )

    @model_validator(mode="after")
    def _clients_are_told(self) -> "PlacementOptions":
        try:
            self.placement()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self
