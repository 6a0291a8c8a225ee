"""A decoder by masked layers: each feature from a latent position and the features before it (Germain et al. 2015)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, mse_loss, relu

from models.joint_vae.base import Tensors
from models.joint_vae.generative_options import AutoregressiveOptions
from models.joint_vae.noise import Noise


class MaskedLinear(nn.Linear):
    """A linear layer some of whose connections are cut: `mask` [out, in] is 1 where there is one."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    @property
    def masked(self) -> Tensor:
        """The weights [out, in] that count."""
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Give [B, out] of [B, in]."""
        return linear(x, self.masked, self.bias)


class AutoregressiveDecoder(nn.Module):
    """Hidden units have random degrees: a unit sees the features up to its degree.

    Masks are drawn at construction from torch's current generator and are part of the state.
    """

    def __init__(self, width: int, latent: int, options: AutoregressiveOptions) -> None:
        """Draw fresh masks and weights."""
        super().__init__()
        self.options, self.width = options, width
        hidden = [self._degrees(width) for _ in range(options.n_layers)]
        degrees = [torch.arange(width), *hidden]
        masks = [(after.unsqueeze(1) >= before).float() for before, after in zip(degrees, hidden, strict=False)]
        out, last = torch.arange(width).unsqueeze(1), hidden[-1]
        masks.append((out > last if options.strict_masks else out >= last).float())
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        self.latent_proj = nn.ModuleList(nn.Linear(latent, options.hidden_dim) for _ in hidden)
        self.latent_skip = nn.Linear(latent, width) if options.strict_masks else None

    def _degrees(self, width: int) -> Tensor:
        """Draw degrees: with strict masks those that some output can see, from that of the first feature on."""
        low = 0 if self.options.strict_masks else min(1, width - 1)
        return torch.randint(low, low + max(width - 1, 1), (self.options.hidden_dim,))

    def _direct(self, z: Tensor) -> Tensor:
        direct: Tensor = z.new_zeros(()) if self.latent_skip is None else self.latent_skip(z)
        return direct

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Give each feature [B, D] from the true ones before it."""
        *hidden, last = self.layers
        for layer, project in zip(hidden, self.latent_proj, strict=True):
            x = relu(layer(x) + project(z))
        features: Tensor = last(x) + self._direct(z)
        return features

    def sample(self, z: Tensor, noise_BD: Tensor | None = None) -> Tensor:
        """Give features [B, D] one after the other, each from those before it and its noise; without noise the mean.

        The first layer's sum grows by one feature at a time, so that no step computes it anew.
        """
        first, *middle, last = self.layers
        assert isinstance(first, MaskedLinear) and isinstance(last, MaskedLinear)
        seen, read = first.masked, last.masked
        before, *shifts = (project(z) for project in self.latent_proj)
        before, direct = before + first.bias, (last.bias + self._direct(z)).expand(len(z), -1)
        columns: list[Tensor] = []
        for index in range(self.width):
            hidden = relu(before)
            for layer, shift in zip(middle, shifts, strict=True):
                hidden = relu(layer(hidden) + shift)
            column = hidden @ read[index] + direct[:, index]
            columns.append(column if noise_BD is None else column + noise_BD[:, index])
            before = before + columns[-1].unsqueeze(1) * seen[:, index]
        return torch.stack(columns, 1)

    def learn(self, z: Tensor, x: Tensor, pair: str, noise: Noise) -> tuple[Tensor | None, Tensors]:
        """Give features and their squared error: within a platform, and across on request, from true ones."""
        own = pair[0] == pair[1]
        if own or self.options.cross_loss == "teacher_forced":
            features = self(x, z)
            return features if own or self.training else None, {"loss": mse_loss(features, x)}
        sampled = self._sampled(z, pair, noise)
        return sampled, {"loss": mse_loss(sampled, x)}

    def shown(self, z: Tensor, pair: str, noise: Noise) -> Tensor:
        """Sample features."""
        return self._sampled(z, pair, noise)

    @torch.no_grad()
    def _sampled(self, z: Tensor, pair: str, noise: Noise) -> Tensor:
        return self.sample(z, noise.normal(f"sample_noise_{pair}", (len(z), self.width), z))

    def impute(self, z: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Sample without noise."""
        return self.sample(z)
