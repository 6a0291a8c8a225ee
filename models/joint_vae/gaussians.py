"""Densities, divergences and dependence of diagonal Gaussians given by mean and log-variance."""

import math

import torch
from torch import Tensor

LOG_2_PI = math.log(2 * math.pi)


def limited(logvar: Tensor, limit: float | None) -> Tensor:
    """Keep log-variances within +-limit."""
    return logvar if limit is None else logvar.clamp(-limit, limit)


def log_normal(x: Tensor, mean: Tensor | float = 0.0, logvar: Tensor | float = 0.0) -> Tensor:
    """Give the log-density of each value, in nats; sum over the last axis for that of a vector."""
    variance = logvar.exp() if isinstance(logvar, Tensor) else math.exp(logvar)
    return -0.5 * (LOG_2_PI + logvar + (x - mean) ** 2 / variance)


def divergence_from_standard(mean: Tensor, logvar: Tensor) -> Tensor:
    """Give the Kullback-Leibler divergence from N(0, 1) per latent dimension, its mean over batch and dimensions."""
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


def divergence(mean_a: Tensor, logvar_a: Tensor, mean_b: Tensor, logvar_b: Tensor) -> Tensor:
    """Give the Kullback-Leibler divergence of A from B per latent dimension, its mean over batch and dimensions."""
    variance_a, variance_b = logvar_a.exp() + 1e-8, logvar_b.exp() + 1e-8
    return 0.5 * ((variance_b / variance_a).log() + (variance_a + (mean_a - mean_b) ** 2) / variance_b - 1).mean()


def log_mixture(z: Tensor, means: Tensor, logvars: Tensor) -> Tensor:
    """Give the log-density [B] of positions [B, L] under equal shares of K Gaussians [K, L], or [B, K, L]."""
    components = log_normal(z.unsqueeze(1), means, logvars).sum(-1)
    return torch.logsumexp(components, 1) - math.log(components.shape[1])


def total_correlation(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Estimate how far latent dimensions depend on each other, in nats, from a batch [B, L] (Chen et al. 2018)."""
    pairs = log_normal(z.unsqueeze(1), mean, logvar)
    share = math.log(len(z))
    joint = torch.logsumexp(pairs.sum(-1), 1) - share
    single = (torch.logsumexp(pairs, 1) - share).sum(-1)
    return (joint - single).mean()
