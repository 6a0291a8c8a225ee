"""Optimizers by name; each takes just the options that it uses."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from training.options import Options, named, refuse_useless
from training.parameters import fits


class AdamW(Options):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, per step and unit of learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""


class Adam(AdamW):
    """Adam (Kingma and Ba, arXiv 1412.6980); its weight decay is an L2 penalty."""

    name: Literal["adam"] = "adam"  # type: ignore[assignment]
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty."""


class SGD(Options):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Nesterov's form; needs momentum."""

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "SGD":
        refuse_useless(self, {"nesterov": (not self.momentum, "set momentum")})
        return self


Optimizer = Annotated[
    Annotated[AdamW | Adam | SGD, Field(discriminator="name")],
    named("adamw"),
]


def build_optimizer(
    options: AdamW | Adam | SGD, network: nn.Module, lr: float, factors: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Build the torch optimizer over all parameters that ever train, one group for each factor on the rate.

    A parameter without a gradient is passed over by torch, weight decay included; so parts that start to train later
    need no new optimizer.

    Args:
        options: Name and options.
        network: What does not train has `requires_grad` off.
        lr: Base learning rate.
        factors: Pattern of parameters -> factor on their rate; the first that fits counts. Kept as `factor` of a group.
    """
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = next((value for pattern, value in factors.items() if fits(name, [pattern])), 1.0)
            groups.setdefault(factor, []).append(parameter)
    described = [{"params": members, "lr": lr * factor, "factor": factor} for factor, members in groups.items()]
    return kinds[options.name](described, **options.model_dump(exclude={"name"}))
