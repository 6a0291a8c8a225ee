"""Learning-rate schedules as pure functions of the position, so that rounds, restarts and resumes need no state.

The exception is `plateau`, which answers to the validation metric and carries torch's own state.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from training.options import Options, named, refuse_useless

Interval = Literal["step", "epoch"]


class Constant(Options):
    """The same rate throughout, after an optional warm-up."""

    name: Literal["constant"] = "constant"
    per: Interval = "step"
    """What is counted: optimizer steps or epochs."""
    warmup: int = Field(0, ge=0)
    """Steps or epochs over which the rate climbs linearly from zero."""

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> Self:
        still = self.name == "constant" and not self.warmup
        refuse_useless(self, {"per": (still, "a constant rate without warm-up counts nothing: set warmup")})
        return self

    def rate(self, base: float, position: int, total: int) -> float:
        """Give the learning rate at `position` (0, 1, ...) of `total`."""
        return base * warmup_factor(position, self.warmup)


class Cosine(Constant):
    """Half a cosine from the base rate to `min_lr`, held there after the end.

    With a warm-up both factors multiply, as in the official NicheFormer fine-tuning.
    """

    name: Literal["cosine"] = "cosine"  # type: ignore[assignment]
    total: int | None = Field(None, ge=1)
    """Length in steps or epochs; by default the whole run."""
    min_lr: float = Field(0.0, ge=0)
    """The rate never falls below this."""

    def rate(self, base: float, position: int, total: int) -> float:
        """Give the learning rate at `position` (0, 1, ...) of `total`."""
        length = self.total or total
        decay = 0.5 * (1 + math.cos(math.pi * min(position, length) / length))
        return max(self.min_lr, base * decay * warmup_factor(position, self.warmup))


class Step(Constant):
    """Multiply the rate by `gamma` after every `every` steps or epochs."""

    name: Literal["step"] = "step"  # type: ignore[assignment]
    every: int = Field(ge=1)
    """Steps or epochs between two drops."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Factor of each drop."""

    def rate(self, base: float, position: int, total: int) -> float:
        """Give the learning rate at `position` (0, 1, ...) of `total`."""
        return base * self.gamma ** (position // self.every) * warmup_factor(position, self.warmup)


class Plateau(Options):
    """Lower the rate when the monitored validation metric stops improving (torch's ReduceLROnPlateau)."""

    name: Literal["plateau"] = "plateau"
    factor: float = Field(0.1, gt=0, lt=1)
    """Factor of each drop."""
    patience: int = Field(3, ge=0)
    """Validations without improvement before a drop."""
    min_lr: float = Field(0.0, ge=0)
    """The rate never falls below this."""


Schedule = Annotated[
    Annotated[Constant | Cosine | Step | Plateau, Field(discriminator="name")],
    named("constant"),
]


def warmup_factor(position: int, warmup: int) -> float:
    """Climb linearly: 0 at position 0, 1 from position `warmup` on (and always without a warm-up)."""
    return position / warmup if warmup and position <= warmup else 1.0
