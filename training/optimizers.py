"""Optimizers by name; each takes just the options that it uses."""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field

from training.options import Options, named


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


class SGD(Options):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Nesterov's form; needs momentum."""


Optimizer = Annotated[
    Annotated[AdamW | Adam | SGD, Field(discriminator="name")],
    named("adamw"),
]


def build_optimizer(
    options: AdamW | Adam | SGD, parameters: Iterable[torch.nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """Build the torch optimizer over the parameters that train."""
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }
    arguments = options.model_dump(exclude={"name"})
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return kinds[options.name](trainable, lr=lr, **arguments)  # type: ignore[call-arg]
