"""BatchNorm over the batch of all processes, as one process with the whole batch would normalise.

The method is that of torch's `SyncBatchNorm`, which knows CUDA only and cannot be put in without changing the network.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def synced_batchnorm(network: nn.Module, processes: int) -> Iterator[None]:
    """Share the statistics of the BatchNorm layers that are in training mode, inside the block.

    Every process has to run the network equally often, on at least one sample.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    if processes == 1:
        layers = []
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: _BatchNorm, x: Tensor) -> Tensor:
    """Normalise `x` [samples, channels, ...] by the statistics over all processes, and update the running ones."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    values = x.float()
    own = x.numel() // x.shape[1]
    summed = _summed(torch.cat([values.sum(axes), values.new_tensor([own])]))
    mean, count = summed[:-1] / summed[-1], summed[-1].detach()
    centred = values - mean.view(shape)
    variance = _summed(centred.square().sum(axes)) / count
    if layer.running_mean is not None:
        _update(layer, mean.detach(), variance.detach() * count / (count - 1))
    scaled: Tensor = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        scaled = scaled * layer.weight.view(shape) + layer.bias.view(shape)
    return scaled.to(x.dtype)


def _update(layer: _BatchNorm, mean: Tensor, unbiased: Tensor) -> None:
    assert layer.num_batches_tracked is not None and layer.running_mean is not None and layer.running_var is not None
    layer.num_batches_tracked.add_(1)
    momentum = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, momentum)
    layer.running_var.lerp_(unbiased, momentum)


def _summed(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum over the processes; so is its gradient, since the loss is a sum over them, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total
