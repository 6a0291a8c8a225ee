"""A decoder trained against a discriminator (Goodfellow et al. 2014; hinge loss of Lim and Ye 2017)."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss, relu

from models.joint_vae.base import Tensors
from models.joint_vae.generative_options import AdversarialOptions
from models.joint_vae.layers import Style, stack
from models.joint_vae.noise import Noise


class AdversarialDecoder(nn.Module):
    """A generator of features from position and noise, beside a discriminator of true and generated features.

    Both learn in one backward pass: the discriminator from generated features held fixed, the generator through a
    discriminator held fixed. Squared errors bind the features to the sample at hand.
    """

    def __init__(self, width: int, latent: int, options: AdversarialOptions) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        self.noise_dim = options.noise_dim
        style = Style(options.activation, 0.0, options.batch_norm)
        self.generator = stack(latent + options.noise_dim, options.hidden_layers, width, style)
        self.discriminator = stack(width, options.discriminator_layers, 1, Style("leaky_relu", 0.0, False))

    def forward(self, z: Tensor, noise_BN: Tensor) -> Tensor:
        """Generate features [B, D]."""
        features: Tensor = self.generator(torch.cat([z, noise_BN], 1))
        return features

    def learn(self, z: Tensor, x: Tensor, pair: str, noise: Noise) -> tuple[Tensor, Tensors]:
        """Give features, their squared error, and what generator and discriminator have to lose."""
        features = self._generated(z, pair, noise)
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        fooled = functional_call(self.discriminator, fixed, (features,))
        caught = relu(1 - self.discriminator(x)).mean() + relu(1 + self.discriminator(features.detach())).mean()
        return features, {"loss": mse_loss(features, x), "generator": -fooled.mean(), "discriminator": caught}

    def shown(self, z: Tensor, pair: str, noise: Noise) -> Tensor:
        """Generate features."""
        return self._generated(z, pair, noise)

    def _generated(self, z: Tensor, pair: str, noise: Noise) -> Tensor:
        features: Tensor = self(z, noise.normal(f"noise_{pair}", (len(z), self.noise_dim), z))
        return features

    def impute(self, z: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Generate without noise, or with it where positions are drawn."""
        return self._generated(z, "", Noise(generator=generator) if n_samples else Noise())
