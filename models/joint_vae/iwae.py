"""JointIWAE: several draws per sample and the importance-weighted bound (Burda et al. 2016)."""

import math
import warnings
from collections.abc import Mapping
from typing import Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from models.joint_vae.base import Inputs, Platform, Tensors, mean_over
from models.joint_vae.gaussian import GaussianVAE
from models.joint_vae.gaussians import limited, log_normal
from models.joint_vae.noise import Noise
from models.joint_vae.options import BOUNDED, GaussianConfig, Stack, Weights


class IWAEModel(Stack):
    """Architecture and bound of JointIWAE."""

    k_samples: PositiveInt = 5
    """Draws of the importance-weighted bound; 1 gives the loss of joint_vae."""
    bound_per_feature: bool = False
    """Divide the bound by the number of features. Undivided it is in nats per sample, about 0.9 per feature, beside
    which the weights of alignment and cross-reconstruction hardly count for thousands of features."""


class IWAEConfig(GaussianConfig):
    """Blocks of JointIWAE. Its reconstruction and kl_divergence weights count with one draw only.

    The reference's own files set them beside several draws: there they are left out with a warning.
    """

    model: IWAEModel = IWAEModel()

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """One draw has no bound of its own."""
        return {"model.bound_per_feature": (self.model.k_samples == 1, "set model.k_samples above 1")}

    @model_validator(mode="after")
    def _bound_has_natural_weights(self) -> Self:
        weights, fields = self.loss_weights, Weights.model_fields
        idle = {name: fields[name].default for name in BOUNDED if getattr(weights, name) != fields[name].default}
        if self.model.k_samples == 1 or not idle:
            return self
        names = ", ".join(f"loss_weights.{name}" for name in idle)
        warnings.warn(f"{names}: no effect with model.k_samples above 1; leave it out", stacklevel=2)
        return self.model_copy(update={"loss_weights": weights.model_copy(update=idle)})


class IWAE(GaussianVAE):
    """Positions are [k, B, L] and what is decoded from them [k, B, D], or [B, D] for one draw.

    In training and for the bound, and wherever noise is given, k is `k_samples`; the posterior mean is one draw.
    """

    model_type = "JointIWAE"
    config: IWAEConfig
    logvar_limit = 10.0

    def drawn(self, platform: Platform, mean: Tensor, logvar: Tensor, noise: Noise, name: str = "eps") -> Tensors:
        """Draw positions `z_<platform>` [k, B, L] and keep the noise `eps_<platform>` they come from."""
        many = noise.draws or noise.given is not None
        eps = noise.normal(f"{name}_{platform}", (self.config.model.k_samples if many else 1, *mean.shape), mean)
        z = mean + (limited(logvar, self.logvar_limit) / 2).exp() * eps
        return {f"z_{platform}": z, f"eps_{platform}": eps}

    def decode(self, z: Tensor, platform: Platform) -> Tensor:
        """Give features of all draws; batch statistics are those of all draws together."""
        features = super().decode(z.flatten(0, 1), platform)
        return features.view(*z.shape[:2], -1).squeeze(0)

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give those of a Gaussian VAE for features averaged over draws, and the bound."""
        averaged = {
            name: value.mean(0) if value.dim() > 2 and name.startswith(("recon", "cross")) else value
            for name, value in outputs.items()
        }
        terms = super().terms(averaged, targets)
        if self.config.model.k_samples > 1:
            terms["iwae_loss"] = mean_over(targets, lambda platform: self._bound(outputs, targets, platform))
        return terms

    @property
    def estimated(self) -> frozenset[str]:
        """The bound."""
        return frozenset({"iwae_loss"} if self.config.model.k_samples > 1 else ())

    def weights(self) -> dict[str, float]:
        """Give those of a Gaussian VAE; the bound takes the place of reconstruction and divergence."""
        weights = super().weights()
        if self.config.model.k_samples == 1:
            return weights
        return {"iwae_loss": 1.0, **{name: weights[name] for name in ("align_loss", "cross_loss")}}

    def _bound(self, outputs: Mapping[str, Tensor], targets: Inputs, platform: Platform) -> Tensor:
        """Give the negative bound in nats per sample; in training the objective with its gradient.

        That is the sum of log-weights, each times its share held fixed.
        """
        z, eps, logvar = (outputs[f"{part}_{platform}"] for part in ("z", "eps", "logvar"))
        x = targets[platform]
        recon = outputs[f"recon_{platform}"].reshape(-1, *x.shape)
        posterior = (log_normal(eps) - logvar / 2).sum(-1)
        log_weights = log_normal(x, recon).sum(-1) + log_normal(z).sum(-1) - posterior
        if self.training:
            bound = (log_weights.softmax(0).detach() * log_weights).sum(0).mean()
        else:
            bound = (torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()
        return -bound / (x.shape[1] if self.config.model.bound_per_feature else 1)
