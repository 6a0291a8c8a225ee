"""joint_vae, and JointMM: the same network, with a coherence term or a mixture-of-experts bound."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from models.joint_vae.base import OTHER, Inputs, Platform, Tensors, mean_over
from models.joint_vae.gaussian import GaussianVAE
from models.joint_vae.gaussians import divergence, divergence_from_standard, log_mixture, log_normal
from models.joint_vae.layers import Decoder, Style, encoder, plain, shortcut, stack
from models.joint_vae.noise import Noise
from models.joint_vae.options import Alignment, JointMMConfig, JointVAEConfig


class JointVAE(GaussianVAE):
    """The base type: residual layers, four kinds of alignment, noise on training batches."""

    model_type = "joint_vae"
    config: JointVAEConfig

    def make_encoder(self, width: int) -> nn.Module:
        """Make an encoder, with shortcuts on request."""
        model = self.config.model
        hidden = shortcut if model.use_residual_blocks else plain
        return encoder(width, model.encoder_layers, model.latent_dim, Style.of(model), hidden)

    def make_decoder(self, width: int) -> nn.Module:
        """Make a decoder, with shortcuts on request."""
        model = self.config.model
        hidden = shortcut if model.use_residual_blocks else plain
        return Decoder(stack(model.latent_dim, model.decoder_layers, width, Style.of(model), hidden))

    @property
    def alignment_type(self) -> Alignment:
        """What the loss's options say."""
        return self.config.loss_weights.alignment_type

    def prepared(self, inputs: Inputs, noise: Noise) -> tuple[Inputs, Inputs]:
        """Add noise to training batches; whether targets carry it too is an option."""
        options = self.config.training.data_augmentation
        if not (self.training and options.enabled):
            return inputs, inputs
        noisy: dict[Platform, Tensor] = {
            platform: x + options.gaussian_noise_std * noise.normal(f"aug_{platform}", x.shape, x)
            for platform, x in inputs.items()
        }
        return noisy, noisy if options.target == "noisy" else inputs


class JointMM(JointVAE):
    """One VAE per platform that share a latent space (the mixture of experts of Shi et al. 2019 on request)."""

    model_type = "JointMM"
    config: JointMMConfig

    def outputs(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give those of joint_vae, and `coherent`: each platform from its own encoded prediction."""
        outputs = super().outputs(inputs, noise)
        if len(inputs) > 1 and self.config.model.use_mmvae and self.config.loss_weights.mmvae_coherence > 0:
            positions = {
                platform: self.again(outputs[f"cross_{platform}"].detach(), platform, noise, "eps_coh")
                for platform in inputs
            }
            outputs |= {f"coherent_{platform}": self.decode(z, platform) for platform, z in positions.items()}
        return outputs

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give those of joint_vae, and what the options ask for."""
        terms, model = super().terms(outputs, targets), self.config.model
        if "coherent_a" in outputs:
            terms["mmvae_coherence_loss"] = mean_over(
                targets, lambda platform: mse_loss(outputs[f"coherent_{platform}"], targets[platform])
            )
        if model.use_mmvae and len(targets) > 1:
            terms |= _divergences(outputs)
        if model.objective == "moe":
            terms["moe_loss"] = mean_over(targets, lambda platform: _bound(outputs, targets, platform))
        return terms

    @property
    def estimated(self) -> frozenset[str]:
        """The bound of the mixture."""
        return frozenset({"moe_loss"} if self.config.model.objective == "moe" else ())

    def weights(self) -> dict[str, float]:
        """Give those of joint_vae and of coherence; the bound has its terms' natural weights."""
        weights = {**super().weights(), "mmvae_coherence_loss": self.config.loss_weights.mmvae_coherence}
        if self.config.model.objective == "joint":
            return weights
        return {"moe_loss": 1.0, **{name: weights[name] for name in ("align_loss", "mmvae_coherence_loss")}}


def _bound(outputs: Mapping[str, Tensor], targets: Inputs, source: Platform) -> Tensor:
    """Give the negative bound in nats per sample where a position was drawn from one platform's posterior.

    Every present platform counts with unit variance; the posterior is the equal mixture over present platforms.
    """
    z = outputs[f"z_{source}"]
    seen = [
        log_normal(targets[platform], outputs[f"{'recon' if platform == source else 'cross'}_{platform}"]).sum(-1)
        for platform in targets
    ]
    means, logvars = (
        torch.stack([outputs[f"{part}_{platform}"] for platform in targets], 1) for part in ("mean", "logvar")
    )
    return -(torch.stack(seen).sum(0) + log_normal(z).sum(-1) - log_mixture(z, means, logvars)).mean()


def _divergences(outputs: Mapping[str, Tensor]) -> Tensors:
    """Give the divergence of each posterior from the prior, and the mean of those between them."""
    posterior = {platform: (outputs[f"mean_{platform}"], outputs[f"logvar_{platform}"]) for platform in OTHER}
    between = [divergence(*posterior[one], *posterior[other]) for one, other in OTHER.items()]
    return {
        "kl_q0_to_prior": divergence_from_standard(*posterior["a"]),
        "kl_q1_to_prior": divergence_from_standard(*posterior["b"]),
        "js_q0_q1": torch.stack(between).mean(),
    }
