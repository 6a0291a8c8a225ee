"""generative_vae: the posterior of a Gaussian VAE under decoders that generate rather than regress."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.joint_vae.adversarial import AdversarialDecoder
from models.joint_vae.alignment import alignment
from models.joint_vae.autoregressive import AutoregressiveDecoder
from models.joint_vae.base import OTHER, Inputs, Platform, Tensors
from models.joint_vae.diffusion import DiffusionDecoder
from models.joint_vae.gaussian import GaussianVAE
from models.joint_vae.generative_options import AutoregressiveOptions, DiffusionOptions, GenerativeConfig
from models.joint_vae.layers import Style, encoder
from models.joint_vae.noise import Noise

Generator = DiffusionDecoder | AutoregressiveDecoder | AdversarialDecoder


class GenerativeVAE(GaussianVAE):
    """Pairs are named by two letters: where the position comes from, and which platform is decoded.

    Each decoder states its own loss of a pair. `recon` and `cross` are absent while training a diffusion decoder,
    whose chains are run on request only.
    """

    model_type = "generative_vae"
    config: GenerativeConfig

    def make_encoder(self, width: int) -> nn.Module:
        """Make a plain encoder."""
        options = self.config.model.encoder
        return encoder(width, options.hidden_dims, self.config.model.latent_dim, Style.of(options))

    def make_decoder(self, width: int) -> nn.Module:
        """Make a decoder of the configured kind."""
        options, latent = self.config.model.decoder, self.config.model.latent_dim
        if isinstance(options, DiffusionOptions):
            return DiffusionDecoder(width, latent, options)
        if isinstance(options, AutoregressiveOptions):
            return AutoregressiveDecoder(width, latent, options)
        return AdversarialDecoder(width, latent, options)

    def _decoder(self, platform: Platform) -> Generator:
        decoder = self.get_submodule(f"decoder_{platform}")
        assert isinstance(decoder, Generator)
        return decoder

    def outputs(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give `mean`, `logvar`, `z`; the decoders' losses of each pair; `recon` and `cross` where there are any."""
        outputs = self.positions(inputs, noise)
        pairs = [("recon", platform, platform) for platform in inputs]
        pairs += [("cross", OTHER[platform], platform) for platform in inputs] if len(inputs) > 1 else []
        shown: dict[str, Tensor | None] = {}
        for name, source, target in pairs:
            z, decoder = outputs[f"z_{source}"], self._decoder(target)
            features, losses = decoder.learn(z, inputs[target], source + target, noise)
            outputs |= {f"{term}_{source}{target}": loss for term, loss in losses.items()}
            shown[f"{name}_{target}"] = features
        for name, source, target in pairs:
            if shown[f"{name}_{target}"] is None:
                shown[f"{name}_{target}"] = self._decoder(target).shown(outputs[f"z_{source}"], source + target, noise)
        return {**outputs, **{name: features for name, features in shown.items() if features is not None}}

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give the decoders' losses in place of squared errors, and those of an adversary where there is one."""
        own = [platform + platform for platform in targets]
        crossed = [OTHER[platform] + platform for platform in targets] if len(targets) > 1 else []

        def mean(name: str, pairs: list[str]) -> Tensor:
            return torch.stack([outputs[f"{name}_{pair}"] for pair in pairs]).mean()

        divergences = torch.stack([self.divergence(outputs, platform) for platform in targets])
        terms = {"recon_loss": mean("loss", own), "kl_loss": divergences.mean()}
        if crossed:
            terms |= {"cross_loss": mean("loss", crossed), "align_loss": alignment("mse", outputs)}
        if self.config.model.decoder_type == "gan":
            terms |= {f"{name}_loss": mean(name, own + crossed) for name in ("generator", "discriminator")}
        return terms

    def weights(self) -> dict[str, float]:
        """Give those of a Gaussian VAE, and that of the adversary."""
        adversarial = self.config.loss_weights.adversarial
        return {**super().weights(), "generator_loss": adversarial, "discriminator_loss": adversarial}

    def imputed(self, z: Tensor, target: Platform, n_samples: int, generator: torch.Generator) -> Tensor:
        """Generate features [B, D]; a diffusion decoder averages its chains, unless positions are drawn already."""
        return self._decoder(target).impute(z, n_samples, generator)
