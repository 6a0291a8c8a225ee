"""Which input features an imputed feature rests on: attributions by gradients, for all outputs at once.

A graph is built once for a block of samples and serves many outputs, where attribution libraries run the network anew
for each output. Rows must be independent of each other: put the network in evaluation mode.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.randomness import torch_generator

Method = Literal["integrated_gradients", "gradient_shap", "deeplift"]
METHODS: tuple[Method, ...] = get_args(Method)
Impute = Callable[[Tensor], Tensor]

ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
)
SMALLEST_STEP = 1e-6
COMPLETENESS = 1e-3
ROWS_AT_ONCE = 4096
OUTPUTS_AT_ONCE = 16


def importance(
    impute: Impute,
    x_NI: Tensor,
    method: Method = "integrated_gradients",
    baseline: Literal["zero", "mean"] | Tensor = "zero",
    steps: int = 50,
    seed: int = 42,
) -> Tensor:
    """Give the median over samples of the absolute attribution, [I, O].

    Args:
        impute: Gives [M, O] for [M, I]; for DeepLIFT a module whose activations are modules, too.
        x_NI: Samples, in the units the network takes.
        method: `integrated_gradients` (Sundararajan et al. 2017), by Gauss-Legendre quadrature; `gradient_shap`
            (expected gradients, Erion et al. 2021), at random points between baseline and sample; `deeplift`
            (Shrikumar et al. 2017), its rescale rule.
        baseline: What a sample is compared with: zero, the mean of the samples, or a row [I].
        steps: Points on the way from baseline to sample; DeepLIFT needs none.
        seed: For the points of `gradient_shap`.

    Raises:
        UserError: The method or baseline is unknown, there are no steps, or DeepLIFT does not suit the network.
    """
    x_NI = x_NI.detach()
    baseline_I = baseline_row(x_NI, baseline)
    outputs = range(impute(baseline_I[None]).shape[1])
    blocks = []
    for first in range(0, len(outputs), OUTPUTS_AT_ONCE):
        block = outputs[first : first + OUTPUTS_AT_ONCE]
        blocks.append(median_size(attributions(impute, x_NI, baseline_I, block, method, steps, seed)))
    return torch.cat(blocks, dim=1)


def baseline_row(x_NI: Tensor, baseline: Literal["zero", "mean"] | Tensor) -> Tensor:
    """Give the row that samples are compared with, [I].

    Raises:
        UserError: It is neither known by name nor a row of as many features.
    """
    if isinstance(baseline, Tensor) and baseline.shape == x_NI.shape[1:]:
        return baseline.to(x_NI)
    if isinstance(baseline, str) and baseline in ("zero", "mean"):
        return x_NI.mean(0) if baseline == "mean" else torch.zeros_like(x_NI[0])
    given = tuple(baseline.shape) if isinstance(baseline, Tensor) else repr(baseline)
    raise UserError(f"importance_baseline = {given}: give zero, mean or a row of {x_NI.shape[1]} features")


def attributions(
    impute: Impute,
    x_NI: Tensor,
    baseline_I: Tensor,
    outputs: Sequence[int],
    method: Method = "integrated_gradients",
    steps: int = 50,
    seed: int = 42,
) -> Tensor:
    """Give the signed attributions of some outputs, [N, I, outputs].

    Raises:
        UserError: The method is unknown, there are no steps, or DeepLIFT does not suit the network.
    """
    if method not in METHODS:
        raise UserError(f"importance_method = {method!r}: unknown; choose one of {', '.join(METHODS)}")
    if steps < 1:
        raise UserError(f"importance_steps = {steps}: must be positive")
    if method == "deeplift":
        parts = [_deeplift(impute, rows_MI, baseline_I, outputs) for rows_MI in torch.split(x_NI, ROWS_AT_ONCE)]
        return torch.cat(parts)
    parts = []
    for number, rows_MI in enumerate(torch.split(x_NI, max(1, ROWS_AT_ONCE // steps))):
        if method == "integrated_gradients":
            along_SM, weight_S = _quadrature(steps, len(rows_MI), x_NI)
        else:
            random = torch_generator(seed, "gradient shap", number)
            along_SM = torch.rand(steps, len(rows_MI), generator=random).to(x_NI)
            weight_S = torch.full((steps,), 1 / steps).to(x_NI)
        points_SMI = baseline_I + along_SM[..., None] * (rows_MI - baseline_I)
        gradients = _gradients(impute, points_SMI.flatten(0, 1), outputs)
        means = [torch.einsum("s,smi->mi", weight_S, one.view_as(points_SMI)) for one in gradients]
        parts.append(torch.stack(means, dim=-1) * (rows_MI - baseline_I)[..., None])
    return torch.cat(parts)


def _quadrature(steps: int, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    along_S = torch.from_numpy((nodes + 1) / 2).to(like)
    return along_S[:, None].expand(steps, rows), torch.from_numpy(weights / 2).to(like)


def _gradients(impute: Impute, points_MI: Tensor, outputs: Sequence[int]) -> Iterator[Tensor]:
    """Give, output by output, its gradient at each point, [M, I]; one graph serves all."""
    points_MI = points_MI.detach().requires_grad_()
    with torch.enable_grad():
        sums_O = impute(points_MI).sum(0)
    for output in outputs:
        (gradient_MI,) = torch.autograd.grad(sums_O[output], points_MI, retain_graph=output != outputs[-1])
        yield gradient_MI


def _deeplift(impute: Impute, rows_MI: Tensor, baseline_I: Tensor, outputs: Sequence[int]) -> Tensor:
    """Give attributions by the rescale rule and check that they add up to the change of the output, [M, I, outputs]."""
    if not isinstance(impute, nn.Module):
        raise UserError("importance_method = 'deeplift': needs a network of modules; use integrated_gradients")
    both_2MI = torch.cat([rows_MI, baseline_I.expand_as(rows_MI)])
    with rescaled(impute):
        found = torch.stack([one[: len(rows_MI)] for one in _gradients(impute, both_2MI, outputs)], dim=-1)
    found = found * (rows_MI - baseline_I)[..., None]
    with torch.no_grad():
        change_MO = (impute(rows_MI) - impute(baseline_I[None]))[:, list(outputs)]
    missed = (found.sum(1) - change_MO).abs().max()
    if missed > COMPLETENESS * (1 + change_MO.abs().max()):
        raise UserError(
            f"importance_method = 'deeplift': attributions miss the change of an output by {float(missed):.2g}, since "
            "the network has layers that the rescale rule does not cover; use integrated_gradients"
        )
    return found


@contextmanager
def rescaled(network: nn.Module) -> Iterator[None]:
    """Let gradients of elementwise activations be slopes from baseline to sample, as DeepLIFT's rescale rule has it.

    Inputs to the network are then samples followed by as many baselines. Values stay what they are.
    """
    hooks = [module.register_forward_hook(_slope) for module in network.modules() if isinstance(module, ELEMENTWISE)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _slope(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    before, after = inputs[0], output
    step, rise = (sample - base for sample, base in (values.detach().chunk(2) for values in (before, after)))
    small = (step.abs() < SMALLEST_STEP).repeat(2, *[1] * (step.ndim - 1))
    slope = (rise / step).repeat(2, *[1] * (step.ndim - 1))
    line = torch.where(small, 0, slope) * before
    return torch.where(small, after, line + (after - line).detach())


def median_size(found_NIO: Tensor) -> Tensor:
    """Give the median over samples of the absolute attribution, [I, outputs], on the CPU."""
    return torch.from_numpy(np.median(found_NIO.abs().cpu().numpy(), axis=0))
