"""joint_vae_plus: spectrally normalised residual blocks, planar flows, total correlation, schedules."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from models.joint_vae.base import Inputs, Platform, Tensors, mean_over
from models.joint_vae.gaussian import GaussianVAE
from models.joint_vae.gaussians import limited, log_normal, total_correlation
from models.joint_vae.layers import Decoder, SpectralLinear, Style, encoder, residual, stack
from models.joint_vae.noise import Noise
from models.joint_vae.options import Activation, GaussianConfig, Stack, Weight, Weights

TINY = 1e-8


class PlusModel(Stack):
    """Architecture and schedules of joint_vae_plus."""

    activation: Activation = "swish"
    """Non-linearity of the residual blocks."""
    spectral_norm: bool = True
    """Divide each weight matrix by its largest singular value."""
    use_flows: bool = True
    """Planar flows behind each encoder."""
    num_flows: PositiveInt = 8
    """Flows in each chain."""
    kl_schedule: Literal["cyclical", "linear", "constant"] = "cyclical"
    """How the factor beta on the divergence grows over training steps."""
    kl_cycle_length: PositiveInt = 1000
    """Steps of a cycle, or until a linear schedule ends."""
    min_beta: float = Field(0.0, ge=0)
    """Smallest beta."""
    max_beta: float = Field(1.0, ge=0)
    """Largest beta; what evaluation uses."""
    kl_anneal_ratio: float = Field(0.5, ge=0, le=1)
    """Share of a cycle in which beta grows."""
    max_tc_weight: float | None = Field(None, ge=0)
    """Weight of the total correlation; by default `loss_weights.total_correlation`."""
    tc_anneal_schedule: Literal["constant", "linear"] = "constant"
    """How that weight grows."""
    tc_anneal_length: PositiveInt = 10000
    """Steps until it is reached."""
    flow_determinant: bool = False
    """Count the flows in the divergence; the reference leaves them out."""
    clamp_tc_logvar: bool = False
    """Limit the log-variances in the total correlation, which overflows for very narrow posteriors."""

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Flows and schedules are there on request."""
        flows = not self.use_flows, "set use_flows: true"
        schedule = self.kl_schedule == "constant", "set kl_schedule: cyclical"
        cycle = self.kl_schedule != "cyclical", "set kl_schedule: cyclical"
        tc = self.tc_anneal_schedule == "constant", "set tc_anneal_schedule: linear"
        return {
            **dict.fromkeys(("num_flows", "flow_determinant"), flows),
            **dict.fromkeys(("kl_cycle_length", "min_beta"), schedule),
            "kl_anneal_ratio": cycle,
            "tc_anneal_length": tc,
        }


class PlusWeights(Weights):
    """Loss of joint_vae_plus."""

    total_correlation: Weight = 0.0
    """Of the dependence between latent dimensions."""


class PlusConfig(GaussianConfig):
    """Blocks of joint_vae_plus."""

    model: PlusModel = PlusModel()
    loss_weights: PlusWeights = PlusWeights()

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """The total correlation has one weight."""
        given = self.model.max_tc_weight is not None, "leave out model.max_tc_weight"
        return {"loss_weights.total_correlation": given}


class PlanarFlow(nn.Module):
    """One invertible step z + u_hat tanh(w.z + b) (Rezende and Mohamed 2015)."""

    def __init__(self, latent: int) -> None:
        """Draw all parameters from N(0, 1), from torch's current generator."""
        super().__init__()
        self.u, self.w, self.b = (nn.Parameter(torch.randn(size)) for size in (latent, latent, 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Give new positions [B, L] and the log of the absolute determinant [B]."""
        along = torch.dot(self.u, self.w)
        u_hat = self.u + (softplus(along) - 1 - along) * self.w / (self.w.square().sum() + TINY)
        bend = torch.tanh(z @ self.w + self.b)
        determinant = 1 + (1 - bend**2) * torch.dot(self.w, u_hat)
        return z + bend.unsqueeze(-1) * u_hat, determinant.abs().clamp(min=TINY).log()


class PlanarFlows(nn.Sequential):
    """A chain of flows; the logs of their determinants add up."""

    def __init__(self, count: int, latent: int) -> None:
        """Draw all parameters from torch's current generator."""
        super().__init__(*(PlanarFlow(latent) for _ in range(count)))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Give final positions [B, L] and the log-determinant [B] of the chain."""
        total = z.new_zeros(len(z))
        for flow in self:
            z, log_determinant = flow(z)
            total = total + log_determinant
        return z, total


class PlusVAE(GaussianVAE):
    """Positions go through flows; the total loss counts the dependence between latent dimensions."""

    model_type = "joint_vae_plus"
    config: PlusConfig
    logvar_limit = 10.0

    def __init__(self, dims: Mapping[Platform, int], config: PlusConfig) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__(dims, config)
        model = config.model
        for platform in dims if model.use_flows else ():
            self.add_module(f"flows_{platform}", PlanarFlows(model.num_flows, model.latent_dim))

    @property
    def _style(self) -> Style:
        return Style.of(self.config.model, SpectralLinear if self.config.model.spectral_norm else nn.Linear)

    def make_encoder(self, width: int) -> nn.Module:
        """Make an encoder of residual blocks."""
        model = self.config.model
        return encoder(width, model.encoder_layers, model.latent_dim, self._style, residual)

    def make_decoder(self, width: int) -> nn.Module:
        """Make a decoder of residual blocks."""
        model = self.config.model
        return Decoder(stack(model.latent_dim, model.decoder_layers, width, self._style, residual))

    def drawn(self, platform: Platform, mean: Tensor, logvar: Tensor, noise: Noise, name: str = "eps") -> Tensors:
        """Draw a position, `start_<platform>`, and send it through the flows."""
        drawn = super().drawn(platform, mean, logvar, noise, name)
        if not self.config.model.use_flows:
            return drawn
        start = drawn[f"z_{platform}"]
        z, log_determinant = self.get_submodule(f"flows_{platform}")(start)
        return {f"start_{platform}": start, f"z_{platform}": z, f"log_det_jac_{platform}": log_determinant}

    def divergence(self, outputs: Mapping[str, Tensor], platform: Platform) -> Tensor:
        """Give the divergence before the flows, with `flow_determinant` the one behind them.

        The latter is the former, known exactly, and an unbiased estimate of what the flows change.
        """
        exact = super().divergence(outputs, platform)
        if not self.estimated:
            return exact
        start, z, log_determinant = (outputs[f"{part}_{platform}"] for part in ("start", "z", "log_det_jac"))
        change = (log_normal(start) - log_normal(z)).sum(-1) - log_determinant
        return exact + change.mean() / z.shape[-1]

    @property
    def estimated(self) -> frozenset[str]:
        """The divergence, where flows count in it."""
        model = self.config.model
        return frozenset({"kl_loss"} if model.use_flows and model.flow_determinant else ())

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give those of a Gaussian VAE, total correlation, and the scheduled factors `beta` and `tc_weight`."""
        terms = super().terms(outputs, targets)
        terms["tc_loss"] = mean_over(targets, lambda platform: self._total_correlation(outputs, platform))
        scheduled = {"beta": self._beta, "tc_weight": self._tc_weight}
        return {**terms, **{name: terms["kl_loss"].new_tensor(value) for name, value in scheduled.items()}}

    def _total_correlation(self, outputs: Mapping[str, Tensor], platform: Platform) -> Tensor:
        z, mean, logvar = (outputs[f"{part}_{platform}"] for part in ("z", "mean", "logvar"))
        limit = self.logvar_limit if self.config.model.clamp_tc_logvar else None
        return total_correlation(z, mean, limited(logvar, limit))

    def weights(self) -> dict[str, float]:
        """Give those of a Gaussian VAE as the schedules have them now."""
        weights = super().weights()
        return {**weights, "kl_loss": weights["kl_loss"] * self._beta, "tc_loss": self._tc_weight}

    @property
    def _beta(self) -> float:
        scheduled = self.annealed and self.step is not None
        return beta(self.step or 0, self.config.model) if scheduled else self.config.model.max_beta

    @property
    def _tc_weight(self) -> float:
        model = self.config.model
        given = model.max_tc_weight
        full = self.config.loss_weights.total_correlation if given is None else given
        if self.step is None or not self.annealed or model.tc_anneal_schedule == "constant":
            return full
        return min(full, full * self.step / model.tc_anneal_length)

    def platform_parameters(self, platform: Platform) -> tuple[str, ...]:
        """Give those of a Gaussian VAE, and the flows."""
        return (*super().platform_parameters(platform), f"flows_{platform}*")


def beta(step: int, model: PlusModel) -> float:
    """Give the factor on the divergence at a training step."""
    low, high, cycle = model.min_beta, model.max_beta, model.kl_cycle_length
    if model.kl_schedule == "constant":
        return high
    if model.kl_schedule == "linear":
        return min(high, low + (high - low) * step / cycle)
    grows, within = int(cycle * model.kl_anneal_ratio), step % cycle
    return low + (high - low) * within / grows if within < grows else high
