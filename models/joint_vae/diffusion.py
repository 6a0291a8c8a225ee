"""A decoder that removes noise in steps, told by a latent position (Ho et al. 2020)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from models.joint_vae.base import Tensors
from models.joint_vae.generative_options import DiffusionOptions
from models.joint_vae.noise import Noise

FIRST_BETA, LAST_BETA = 1e-4, 0.02
USUAL_STEPS = 1000
"""Steps that the usual noise per step is meant for."""
LARGEST_BETA = 0.999


class DiffusionDecoder(nn.Module):
    """Tells the noise in noisy features from them, the position and the time step."""

    betas: Tensor
    alphas_cum: Tensor

    def __init__(self, width: int, latent: int, options: DiffusionOptions) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        self.options, self.width, hidden = options, width, options.hidden_dim
        self.time_embed = nn.Embedding(options.n_timesteps, hidden)
        self.net = nn.Sequential(
            nn.Linear(width + latent + hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, width),
        )
        scale = USUAL_STEPS / options.n_timesteps if options.scale_betas else 1.0
        betas = torch.linspace(FIRST_BETA * scale, LAST_BETA * scale, options.n_timesteps).clamp(max=LARGEST_BETA)
        # Both follow from the options, so neither is part of the state.
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alphas_cum", (1 - betas).cumprod(0), persistent=False)

    def forward(self, noisy: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Give the noise [B, D] in features at time steps [B]."""
        noise: Tensor = self.net(torch.cat([noisy, z, self.time_embed(t)], 1))
        return noise

    def learn(self, z: Tensor, x: Tensor, pair: str, noise: Noise) -> tuple[None, Tensors]:
        """Give the error of the noise told at a random time step; in evaluation these steps are always the same."""
        source = noise.never_zero
        t, eps = source.integers(f"t_{pair}", self.options.n_timesteps, x), source.normal(f"n_{pair}", x.shape, x)
        kept = self.alphas_cum[t].unsqueeze(1)
        return None, {"loss": mse_loss(self(kept.sqrt() * x + (1 - kept).sqrt() * eps, z, t), eps)}

    @torch.no_grad()
    def shown(self, z: Tensor, pair: str, noise: Noise) -> Tensor | None:
        """Sample one chain from given noise, none in training, else give the mean of several."""
        if self.training and not noise.has(f"init_{pair}"):
            return None
        if noise.given is not None:
            return self._chain(z, pair, noise)
        return self._mean(z, noise.never_zero, self.options.chains)

    def impute(self, z: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
        """Give the mean of several chains, or a single chain where positions are drawn."""
        return self._mean(z, Noise(generator=generator), 1 if n_samples else self.options.chains)

    def _mean(self, z: Tensor, noise: Noise, chains: int) -> Tensor:
        total = self._chain(z, "", noise)
        for _ in range(chains - 1):
            total = total + self._chain(z, "", noise)
        return total / chains

    def _chain(self, z: Tensor, pair: str, noise: Noise) -> Tensor:
        steps, x = self.options.n_timesteps, noise.normal(f"init_{pair}", (len(z), self.width), z)
        for done, t in enumerate(reversed(range(steps))):
            eps = self(x, z, torch.full((len(z),), t, device=z.device))
            beta, kept = self.betas[t], self.alphas_cum[t]
            x = (x - beta / (1 - kept).sqrt() * eps) / (1 - beta).sqrt()
            if t > 0:
                x = x + self._variance(t).sqrt() * self._step_noise(f"step_noise_{pair}", done, x, noise)
        return x

    def _variance(self, t: int) -> Tensor:
        before, now = 1 - self.alphas_cum[t - 1], 1 - self.alphas_cum[t]
        return self.betas[t] * (before / now if self.options.posterior_variance == "correct" else now / before)

    @staticmethod
    def _step_noise(name: str, done: int, like: Tensor, noise: Noise) -> Tensor:
        """Take the noise of one step out of that of all steps [T - 1, B, D], or draw it when it is needed."""
        if noise.given is not None and name in noise.given:
            return noise.given[name][done].to(like)
        return noise.normal(name, like.shape, like)
