"""How sure an imputed value is: what the spread of the latent posterior does to it.

`decode` stands for any function [M, L] -> [M, O] that treats rows independently, such as a decoder in evaluation mode.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacfwd, jvp, vmap

from core.randomness import torch_generator

Decode = Callable[[Tensor], Tensor]


def confidence(sd_NO: Tensor) -> Tensor:
    """Give 1 / (1 + CV), where CV = exp(sd) - 1 is the coefficient of variation of values on a log scale, [N, O]."""
    return torch.exp(-sd_NO)


@torch.no_grad()
def sampled_variance(
    decode: Decode, mean_NL: Tensor, logvar_NL: Tensor, n_samples: int = 100, seed: int = 42
) -> tuple[Tensor, Tensor]:
    """Draw from the posterior and give the mean and the unbiased variance of what is decoded, [N, O] each.

    Draws are summed up one by one (Welford), so that memory does not grow with their number.

    Raises:
        ValueError: There are fewer than two draws.
    """
    if n_samples < 2:
        raise ValueError(f"n_samples = {n_samples}: a variance takes at least 2")
    noise = torch_generator(seed, "posterior samples")
    sd_NL = (logvar_NL / 2).exp()
    average_NO = torch.zeros(())
    squares_NO = torch.zeros(())
    for count in range(1, n_samples + 1):
        eps_NL = torch.randn(mean_NL.shape, generator=noise, dtype=mean_NL.dtype).to(mean_NL.device)
        decoded_NO = decode(mean_NL + sd_NL * eps_NL)
        deviation_NO = decoded_NO - average_NO
        average_NO = average_NO + deviation_NO / count
        squares_NO = squares_NO + deviation_NO * (decoded_NO - average_NO)
    return average_NO, squares_NO / (n_samples - 1)


def delta_variance(decode: Decode, mean_NL: Tensor, logvar_NL: Tensor, chunk: int = 16) -> Tensor:
    """Give the diagonal of J diag(var_z) J^T at the posterior mean, the variance to first order, [N, O].

    The Jacobian [O, L] is exact, by forward mode since latent dimensions are fewer than features; those of `chunk`
    samples are held at a time.
    """

    def one(mean_L: Tensor, logvar_L: Tensor) -> Tensor:
        jacobian_OL = jacfwd(lambda z_L: decode(z_L[None])[0])(mean_L)
        return torch.as_tensor(jacobian_OL.square() @ logvar_L.exp())

    with torch.no_grad():
        return torch.as_tensor(vmap(one, chunk_size=chunk)(mean_NL, logvar_NL))


def estimated_delta_variance(
    decode: Decode, mean_NL: Tensor, logvar_NL: Tensor, n_probes: int = 64, seed: int = 42
) -> Tensor:
    """Estimate `delta_variance` without its Jacobian, unbiased and never negative, [N, O].

    As in Hutchinson's estimator the probes are random signs, but they are put on the factor J diag(sd_z) of the matrix:
    one forward-mode product each, and far less noise than signs on the many outputs. For probe e the estimate is
    (J (sd_z e))^2; its relative standard error is at most sqrt(2 / n_probes).

    Raises:
        ValueError: There is no probe.
    """
    if n_probes < 1:
        raise ValueError(f"n_probes = {n_probes}: must be positive")
    signs = torch_generator(seed, "hutchinson probes")
    sd_NL = (logvar_NL / 2).exp()
    total_NO = torch.zeros(())
    with torch.no_grad():
        for _ in range(n_probes):
            drawn_NL = torch.randint(0, 2, mean_NL.shape, generator=signs).to(mean_NL) * 2 - 1
            tangent_NO = jvp(decode, (mean_NL,), (sd_NL * drawn_NL,))[1]
            total_NO = total_NO + tangent_NO.square()
    return total_NO / n_probes


def latent_variance(logvar_NL: Tensor) -> Tensor:
    """Give the mean posterior variance over latent dimensions, one number per sample, [N]."""
    return logvar_NL.exp().mean(dim=1)
