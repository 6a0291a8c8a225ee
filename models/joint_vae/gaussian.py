"""The Gaussian VAE of two platforms that most model types are variants of."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.joint_vae.alignment import alignment
from models.joint_vae.base import OTHER, CrossPlatformModel, Inputs, Platform, Tensors, errors, mean_over
from models.joint_vae.gaussians import divergence_from_standard, limited
from models.joint_vae.layers import Decoder, Style, encoder, stack
from models.joint_vae.noise import Noise
from models.joint_vae.options import Alignment, GaussianConfig, Stack


class GaussianVAE(CrossPlatformModel):
    """An encoder and a decoder per platform around one latent space; each decoder reads both platforms' positions."""

    config: GaussianConfig
    logvar_limit: ClassVar[float | None] = None
    """Where log-variances end in sampling and divergence."""

    def __init__(self, dims: Mapping[Platform, int], config: GaussianConfig) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__(dims, config)
        for part, make in (("encoder", self.make_encoder), ("decoder", self.make_decoder)):
            for platform, width in dims.items():
                self.add_module(f"{part}_{platform}", make(width))

    def make_encoder(self, width: int) -> nn.Module:
        """Make the encoder of a platform of this many features."""
        model = self.config.model
        assert isinstance(model, Stack)
        return encoder(width, model.encoder_layers, model.latent_dim, Style.of(model))

    def make_decoder(self, width: int) -> nn.Module:
        """Make the decoder of a platform of this many features."""
        model = self.config.model
        assert isinstance(model, Stack)
        return Decoder(stack(model.latent_dim, model.decoder_layers, width, Style.of(model)))

    @property
    def alignment_type(self) -> Alignment:
        """How the platforms' positions are compared."""
        return "mse"

    def encode(self, x: Tensor, platform: Platform) -> tuple[Tensor, Tensor]:
        """Give mean and log-variance [B, L]."""
        mean, logvar = self.get_submodule(f"encoder_{platform}")(x)
        return mean, logvar

    def decode(self, z: Tensor, platform: Platform) -> Tensor:
        """Give features [B, D] of positions [B, L]."""
        features: Tensor = self.get_submodule(f"decoder_{platform}")(z)
        return features

    def drawn(self, platform: Platform, mean: Tensor, logvar: Tensor, noise: Noise, name: str = "eps") -> Tensors:
        """Draw a position `z_<platform>` from a posterior, with what else comes of it.

        Without noise it is the mean, even where far from all training data the deviation is beyond all numbers.
        """
        eps = noise.normal(f"{name}_{platform}", mean.shape, mean)
        exponent = (limited(logvar, self.logvar_limit) / 2).where(eps != 0, 0.0)
        return {f"z_{platform}": mean + exponent.exp() * eps}

    def again(self, x: Tensor, platform: Platform, noise: Noise, name: str) -> Tensor:
        """Encode predicted features and draw from their posterior: positions [B, L]."""
        return self.drawn(platform, *self.encode(x, platform), noise, name)[f"z_{platform}"]

    def outputs(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give `mean`, `logvar`, `z`, `recon` of each platform; of both `cross_a` (A from B) and `cross_b` too."""
        outputs = self.positions(inputs, noise)
        for platform in inputs:
            outputs[f"recon_{platform}"] = self.decode(outputs[f"z_{platform}"], platform)
        for platform in inputs if len(inputs) > 1 else ():
            outputs[f"cross_{platform}"] = self.decode(outputs[f"z_{OTHER[platform]}"], platform)
        return outputs

    def positions(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give posterior and position of each platform."""
        outputs: Tensors = {}
        for platform, x in inputs.items():
            mean, logvar = self.encode(x, platform)
            outputs |= {f"mean_{platform}": mean, f"logvar_{platform}": logvar}
            outputs |= self.drawn(platform, mean, logvar, noise)
        return outputs

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give reconstruction and divergence; of both platforms cross-reconstruction and alignment too."""
        terms = {
            "recon_loss": errors(outputs, targets, "recon"),
            "kl_loss": mean_over(targets, lambda platform: self.divergence(outputs, platform)),
        }
        if len(targets) > 1:
            terms["cross_loss"] = errors(outputs, targets, "cross")
            terms["align_loss"] = alignment(self.alignment_type, outputs)
        return terms

    def divergence(self, outputs: Mapping[str, Tensor], platform: Platform) -> Tensor:
        """Give the divergence of a platform's posterior from the prior."""
        logvar = limited(outputs[f"logvar_{platform}"], self.logvar_limit)
        return divergence_from_standard(outputs[f"mean_{platform}"], logvar)

    def weights(self) -> dict[str, float]:
        """Give the weights of the four terms."""
        weights = self.config.loss_weights
        return {
            "recon_loss": weights.reconstruction,
            "kl_loss": weights.kl_divergence,
            "align_loss": weights.latent_alignment,
            "cross_loss": weights.cross_reconstruction,
        }

    def predicted(
        self, x: Tensor, source: Platform, target: Platform, n_samples: int, generator: torch.Generator
    ) -> Tensor:
        """Decode the posterior mean, or average over draws."""
        mean, logvar = self.encode(x, source)
        noise = Noise(generator=generator) if n_samples else Noise()
        total = torch.zeros((), device=x.device)
        for _ in range(max(n_samples, 1)):
            z = self.drawn(source, mean, logvar, noise)[f"z_{source}"]
            total = total + self.imputed(z, target, n_samples, generator)
        return total / max(n_samples, 1)

    def imputed(self, z: Tensor, target: Platform, n_samples: int, generator: torch.Generator) -> Tensor:
        """Give features [B, D] of positions, in evaluation mode."""
        return self.decode(z, target)
