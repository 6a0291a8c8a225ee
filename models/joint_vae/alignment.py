"""How far two platforms' positions of the same samples are apart in the latent space."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from models.joint_vae.gaussians import divergence
from models.joint_vae.options import Alignment


def alignment(kind: Alignment, outputs: Mapping[str, Tensor]) -> Tensor:
    """Compute the loss of one kind from means, log-variances and positions of both platforms."""
    if kind == "mse":
        return mse_loss(outputs["mean_a"], outputs["mean_b"])
    if kind == "kl_divergence":
        return divergence(*(outputs[f"{part}_{platform}"] for platform in "ab" for part in ("mean", "logvar")))
    return mmd(outputs["z_a"], outputs["z_b"], None if kind == "mmd_median" else 1.0)


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = 1.0) -> Tensor:
    """Estimate the squared maximum mean discrepancy of two sets of positions [N, L] and [M, L], at least 0.

    Unbiased within the sets (Gretton et al. 2012); 0 where a set has fewer than two members.

    Args:
        x: One set.
        y: The other; it may have another size.
        bandwidth: Of the Gaussian kernel; by default it follows the data: the kernel's exponent is -1 at the median
            squared distance within the joined sets, so that its values neither vanish nor saturate.
    """
    if min(len(x), len(y)) <= 1:
        return (x.sum() + y.sum()) * 0
    both = torch.cat([x, y]).to(torch.promote_types(x.dtype, torch.float32))
    squares = _squared_distances(both - both.detach().mean(0))
    scale = 2 * bandwidth**2 if bandwidth is not None else _median(squares.detach())
    kernel, n = (-squares / scale).exp(), len(x)
    within = [_pairs(block) for block in (kernel[:n, :n], kernel[n:, n:])]
    return (within[0] + within[1] - 2 * kernel[:n, n:].mean()).clamp(min=0)


def _squared_distances(x: Tensor) -> Tensor:
    lengths = x.square().sum(-1)
    with torch.autocast(x.device.type, enabled=False):
        return (lengths.unsqueeze(1) + lengths - 2 * x @ x.T).clamp(min=0)


def _median(squares: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(len(squares), len(squares), 1, device=squares.device)
    return squares[rows, columns].median().clamp(min=torch.finfo(squares.dtype).tiny)


def _pairs(kernel: Tensor) -> Tensor:
    """Give the mean over pairs of different members."""
    size = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (size * (size - 1))
