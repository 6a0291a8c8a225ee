"""Faults that a federation is made to suffer on purpose, for tests and for studies of how it stands them.

Which client is struck in which round is a pure function of (seed, rule, client, round).
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from core.randomness import generator
from training.options import WEEK, Options


class Fault(Options):
    """Whom a fault strikes, and when: in one `round`, or in each round with probability `rate`."""

    client: str | None = None
    """Name of the client; by default any."""
    round: int | None = Field(None, ge=1)
    """The round, counted from 1."""
    rate: float | None = Field(None, gt=0, le=1)
    """Probability that a client is struck in a round."""
    times: int | None = Field(None, ge=1)
    """Attempts of a client in a round that are struck, so that a retry can succeed; by default all."""

    @model_validator(mode="after")
    def _when(self) -> "Fault":
        if (self.round is None) == (self.rate is None):
            raise ValueError("give one of the two, round or rate")
        return self

    def strikes(self, seed: int, number: int, client: str, server_round: int) -> bool:
        """Tell whether this rule, the `number`-th of the experiment, strikes a client in a round."""
        if self.client not in (None, client):
            return False
        if self.rate is None:
            return self.round == server_round
        return bool(generator(seed, "fault", number, client, server_round).random() < self.rate)


class Raise(Fault):
    """Training raises an exception."""

    kind: Literal["exception"] = "exception"


class Exit(Fault):
    """The process of the client ends, as when the system kills it."""

    kind: Literal["exit"] = "exit"


class Hang(Fault):
    """Training never ends; `federation.client_timeout` is the remedy."""

    kind: Literal["hang"] = "hang"


class Slow(Fault):
    """Training takes longer."""

    kind: Literal["slow"] = "slow"
    seconds: float = Field(1.0, gt=0, le=WEEK)
    """Seconds added."""


class NotANumber(Fault):
    """One weight of the update is NaN."""

    kind: Literal["nan"] = "nan"


class WrongShape(Fault):
    """One array of the update has a row too many."""

    kind: Literal["wrong_shape"] = "wrong_shape"


class Scaled(Fault):
    """The update, as a difference from the global weights, is multiplied."""

    kind: Literal["scaled"] = "scaled"
    factor: float = 10.0
    """What it is multiplied by."""

    @field_validator("factor")
    @classmethod
    def _changes_something(cls, factor: float) -> float:
        if factor == 1:
            raise ValueError("leaves the update as it is; choose another factor or remove the rule")
        return factor


class SignFlip(Fault):
    """The update points the other way."""

    kind: Literal["sign_flip"] = "sign_flip"


class LabelFlip(Fault):
    """The client trains on wrong labels."""

    kind: Literal["label_flip"] = "label_flip"


AnyFault = Annotated[
    Raise | Exit | Hang | Slow | NotANumber | WrongShape | Scaled | SignFlip | LabelFlip, Field(discriminator="kind")
]
