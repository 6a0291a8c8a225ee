"""Where a pass through a network takes its random numbers from, by name."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from core.randomness import torch_generator


class Noise:
    """Standard normal numbers by name: given ones, drawn ones, or zeros.

    Where numbers are given they are all there is, and what is not among them is 0. A generator draws on the CPU, so
    that a seed gives the same numbers on every device.
    """

    def __init__(
        self,
        given: Mapping[str, Tensor] | None = None,
        *,
        draws: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Take given numbers, else draw from a generator, else (`draws`) from torch's own, else give zeros.

        `draws` with a generator makes of it as many draws as training does.
        """
        self.given = given
        self.draws = draws and given is None
        self.generator = generator

    def has(self, name: str) -> bool:
        """Say whether numbers of this name were given."""
        return self.given is not None and name in self.given

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Give numbers of a shape, with the type and device of a tensor."""
        if self.given is not None and name in self.given:
            return self.given[name].to(like)
        if self.generator is not None:
            return torch.randn(*shape, generator=self.generator).to(like)
        make = torch.randn if self.draws else torch.zeros
        return make(*shape, dtype=like.dtype, device=like.device)

    def integers(self, name: str, below: int, like: Tensor) -> Tensor:
        """Give one whole number in [0, below) per row of a tensor, [B]."""
        if self.given is not None and name in self.given:
            return self.given[name].to(like.device)
        if self.draws and self.generator is None:
            return torch.randint(below, (len(like),), device=like.device)
        return torch.randint(below, (len(like),), generator=self.generator or evaluation_generator()).to(like.device)

    @property
    def never_zero(self) -> "Noise":
        """Give a source that never gives mere zeros: this one, or in its place numbers that are always the same."""
        return Noise(draws=True, generator=evaluation_generator()) if self.is_zero else self

    @property
    def is_zero(self) -> bool:
        """Whether all numbers are 0."""
        return self.given is None and not self.draws and self.generator is None


def evaluation_generator() -> torch.Generator:
    """Give a generator in the state that every evaluation starts from."""
    return torch_generator(0, "joint VAE, evaluation")
