"""What every model of two platforms can do, and the Gaussian VAE most of them are variants of."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from core.errors import UserError
from models.joint_vae.noise import Noise, evaluation_generator
from models.joint_vae.options import Config

Platform = Literal["a", "b"]
OTHER: Mapping[Platform, Platform] = {"a": "b", "b": "a"}
Tensors = dict[str, Tensor]
Inputs = Mapping[Platform, Tensor]
"""Features [B, D] of one platform or both."""


class CrossPlatformModel(nn.Module):
    """A network that predicts platform B from A and A from B.

    Losses are computed in `forward`, beside the outputs: each term under its name, and `total_loss`. A pass in
    training draws from torch's own generator; a pass in evaluation draws nothing from it and uses posterior means, but
    for terms that only draws estimate: for these numbers that are always the same.
    """

    model_type: ClassVar[str]
    config: Config

    def __init__(self, dims: Mapping[Platform, int], config: Config) -> None:
        """Take the number of features of each platform, and the options."""
        super().__init__()
        self.dims, self.config = dict(dims), config
        self.epoch: int | None = None
        self.step: int | None = None
        self.anneal_evaluation = False

    # A pass

    def forward(self, a: Tensor, b: Tensor, *, noise: Mapping[str, Tensor] | None = None) -> Tensors:
        """Give outputs and loss terms of samples measured on both platforms.

        Args:
            a: Scaled features [B, D_a].
            b: Scaled features [B, D_b] of the same samples.
            noise: Standard normal numbers by name; what is missing among them is 0.

        Raises:
            UserError: A training batch of one sample, with batch normalisation by the batch.
        """
        return self._run({"a": a, "b": b}, noise)

    def single(self, x: Tensor, platform: Platform, *, noise: Mapping[str, Tensor] | None = None) -> Tensors:
        """Give outputs and loss terms of samples measured on one platform [B, D]: what needs no other platform.

        Raises:
            UserError: As for `forward`; or this model type learns from pairs only.
        """
        return self._run({checked(platform): x}, noise)

    def _run(self, inputs: Inputs, given: Mapping[str, Tensor] | None) -> Tensors:
        self._refuse_lone_sample(inputs)
        noise = Noise(given, draws=self.training)
        inputs, targets = self.prepared(inputs, noise)
        outputs = self.outputs(inputs, noise)
        terms = self.terms(outputs, targets)
        if self.estimated and noise.is_zero:
            drawn = self.terms(self.outputs(inputs, noise.never_zero), targets)
            terms |= {name: drawn[name] for name in self.estimated}
        weighted = [weight * terms[name] for name, weight in self.weights().items() if name in terms]
        return {**outputs, **terms, "total_loss": torch.stack(weighted).sum()}

    @property
    def estimated(self) -> frozenset[str]:
        """Terms of the loss that hold for drawn positions only: at the posterior mean they are no bound of anything."""
        return frozenset()

    def prepared(self, inputs: Inputs, noise: Noise) -> tuple[Inputs, Inputs]:
        """Give what goes in, and what the outputs are compared with."""
        return inputs, inputs

    def outputs(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give everything but the losses."""
        raise NotImplementedError

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give the terms of the loss that the present platforms allow."""
        raise NotImplementedError

    def weights(self) -> dict[str, float]:
        """Give what each term counts in the total; a term that is not named is only recorded."""
        raise NotImplementedError

    def _refuse_lone_sample(self, inputs: Inputs) -> None:
        alone = self.training and min(map(len, inputs.values())) == 1
        if alone and any(isinstance(module, nn.BatchNorm1d) and module.training for module in self.modules()):
            raise UserError(
                "model.batch_norm = True: a training batch of 1 sample has no batch statistics; give batches and "
                "clients at least 2 training samples, or set model.batch_norm to false"
            )

    # Use

    def impute(
        self,
        x: Tensor,
        source: Platform,
        target: Platform,
        *,
        n_samples: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predict a platform [B, D_target] from another [B, D_source], or reconstruct it from itself.

        Args:
            x: Scaled features.
            source: The platform they are of.
            target: The platform wanted.
            n_samples: Draws from the posterior whose predictions are averaged; 0 takes its mean. A model without a
                posterior predicts the same with any number.
            generator: What to draw from, on the CPU; by default one that is always in the same state.
        """
        source, target = checked(source), checked(target)
        with evaluating(self):
            return self.predicted(x, source, target, n_samples, generator or evaluation_generator())

    def predicted(
        self, x: Tensor, source: Platform, target: Platform, n_samples: int, generator: torch.Generator
    ) -> Tensor:
        """Predict a platform, in evaluation mode."""
        raise NotImplementedError

    def latent(self, x: Tensor, platform: Platform) -> tuple[Tensor, Tensor]:
        """Give mean and log-variance [B, L] of the posterior of samples [B, D].

        Raises:
            UserError: This model type has no latent space.
        """
        with evaluating(self):
            return self.encode(x, checked(platform))

    def encode(self, x: Tensor, platform: Platform) -> tuple[Tensor, Tensor]:
        """Give mean and log-variance [B, L]."""
        raise UserError(f"model_type = {self.model_type!r} has no latent space; choose another type, such as joint_vae")

    # Federation

    def advance(self, epoch: int, step: int, *, evaluation: bool = False) -> None:
        """Say how far the whole run has come; schedules are a function of this alone, no state.

        Before the first call, and in evaluation, every weight has its full value.

        Args:
            epoch: Epochs finished, over all rounds.
            step: Training steps finished, over all rounds.
            evaluation: Let schedules apply in evaluation as well, as the reference does.
        """
        self.epoch, self.step, self.anneal_evaluation = epoch, step, evaluation

    @property
    def annealed(self) -> bool:
        """Whether schedules apply now."""
        return self.training or self.anneal_evaluation

    def platform_parameters(self, platform: Platform) -> tuple[str, ...]:
        """Give patterns of the parameters that a client without this platform has no use for."""
        return tuple(f"{part}_{checked(platform)}*" for part in ("encoder", "decoder"))


def checked(platform: str) -> Platform:
    """Check the name of a platform.

    Raises:
        UserError: It is neither a nor b.
    """
    if platform not in get_args(Platform):
        raise UserError(f"platform = {platform!r}: unknown; choose a or b")
    return platform  # type: ignore[return-value]


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode inside the block, and every part of it back to its own mode after it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def mean_over(platforms: Iterable[Platform], value: Callable[[Platform], Tensor]) -> Tensor:
    """Give the mean of a value over platforms."""
    return torch.stack([value(platform) for platform in platforms]).mean()


def errors(outputs: Mapping[str, Tensor], targets: Inputs, name: str) -> Tensor:
    """Give the mean squared error of the outputs of a name, the mean over the present platforms."""
    return mean_over(targets, lambda platform: mse_loss(outputs[f"{name}_{platform}"], targets[platform]))
