"""Which input features an imputed feature rests on: attributions by gradients, for all outputs at once.

A graph is built once for a block of samples and serves many outputs, where attribution libraries run the network anew
for each output. Rows must be independent of each other: put the network in evaluation mode.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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
"""Largest error of DeepLIFT's sum, which is exact where its rule holds."""
INCOMPLETE = 0.1
"""Share of the mean change of an output from which on sums that miss it are worth a warning."""
ROWS_AT_ONCE = 4096
GRAPH_BYTES = 1 << 30
"""What the graph of the rows at once may hold: a network that calls itself a thousand times takes fewer rows."""
OUTPUTS_AT_ONCE = 16


def importance(
    impute: Impute,
    x_NI: Tensor,
    method: Method = "integrated_gradients",
    baseline: Literal["zero", "mean"] | Tensor = "zero",
    steps: int = 50,
    seed: int = 42,
    outputs: Sequence[int] | None = None,
    watch: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Tensor:
    """Give the median over samples of the absolute attribution, [I, O].

    Warns where the attributions of a sample do not about add up to the change of the output.

    Args:
        impute: Gives [M, O] for [M, I]; for DeepLIFT a module whose activations are modules, too.
        x_NI: Samples, in the units the network takes.
        method: `integrated_gradients` (Sundararajan et al. 2017), by Gauss-Legendre quadrature; `gradient_shap`
            (expected gradients, Erion et al. 2021), at random points between baseline and sample; `deeplift`
            (Shrikumar et al. 2017), its rescale rule.
        baseline: What a sample is compared with: zero, the mean of the samples, or a row [I].
        steps: Points on the way from baseline to sample; DeepLIFT needs none.
        seed: For the points of `gradient_shap`.
        outputs: Those wanted; by default all.
        watch: Wraps the blocks of outputs, such as in a progress bar.

    Raises:
        UserError: The method or baseline is unknown, there are no steps, or DeepLIFT does not suit the network.
    """
    x_NI = x_NI.detach()
    baseline_I = baseline_row(x_NI, baseline)
    with torch.no_grad():
        change_NO = impute(x_NI) - impute(baseline_I[None])
    outputs = range(change_NO.shape[1]) if outputs is None else outputs
    medians, missed = [], []
    for block in watch([outputs[start : start + OUTPUTS_AT_ONCE] for start in range(0, len(outputs), OUTPUTS_AT_ONCE)]):
        found = attributions(impute, x_NI, baseline_I, block, method, steps, seed)
        missed.append((found.sum(1) - change_NO[:, list(block)]).abs())
        medians.append(median_size(found))
    _warn_incomplete(method, torch.cat(missed, dim=1), change_NO[:, list(outputs)])
    return torch.cat(medians, dim=1)


def _warn_incomplete(method: Method, missed_NO: Tensor, change_NO: Tensor) -> None:
    missed, change = float(missed_NO.mean()), float(change_NO.abs().mean())
    if missed > INCOMPLETE * change:
        warnings.warn(
            f"importance: attributions by {method} miss the change of an output by {missed:.2g} on average, where the "
            f"change is {change:.2g}; take more steps, or do not rely on them for a network whose output jumps",
            stacklevel=3,
        )


def baseline_row(x_NI: Tensor, baseline: Literal["zero", "mean"] | Tensor) -> Tensor:
    """Give the row that samples are compared with, [I].

    Raises:
        UserError: It is neither known by name nor a row of as many features, or the mean of a single sample.
    """
    if isinstance(baseline, str) and baseline == "mean" and len(x_NI) == 1:
        raise UserError("importance_baseline = 'mean': a single sample is its own mean; give more samples, or zero")
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
    at_once = _rows_at_once(impute, baseline_I)
    if method == "deeplift":
        pairs = max(1, at_once // 2)
        return torch.cat([_deeplift(impute, rows_MI, baseline_I, outputs) for rows_MI in torch.split(x_NI, pairs)])
    parts = []
    for number, rows_MI in enumerate(torch.split(x_NI, max(1, ROWS_AT_ONCE // steps))):
        if method == "integrated_gradients":
            along_SM, weight_S = _quadrature(steps, len(rows_MI), x_NI)
        else:
            random = torch_generator(seed, "gradient shap", number)
            along_SM = torch.rand(steps, len(rows_MI), generator=random).to(x_NI)
            weight_S = torch.full((steps,), 1 / steps).to(x_NI)
        points_SMI = baseline_I + along_SM[..., None] * (rows_MI - baseline_I)
        each = [
            torch.stack([*_gradients(impute, one, outputs)]) for one in torch.split(points_SMI.flatten(0, 1), at_once)
        ]
        gradients = torch.cat(each, dim=1)
        means = [torch.einsum("s,smi->mi", weight_S, one.view_as(points_SMI)) for one in gradients]
        parts.append(torch.stack(means, dim=-1) * (rows_MI - baseline_I)[..., None])
    return torch.cat(parts)


def _rows_at_once(impute: Impute, baseline_I: Tensor) -> int:
    """Give how many rows may share a graph, from what that of one row keeps beyond what is there for any number."""
    sizes = []
    for rows in (1, 2):
        kept: dict[int, int] = {}

        def pack(value: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            held = impute(baseline_I.expand(rows, -1).clone().requires_grad_())
        sizes.append(sum(kept.values()))
        del held
    return max(2, min(ROWS_AT_ONCE, GRAPH_BYTES // max(1, sizes[1] - sizes[0])))


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
