"""Batches in which some samples were measured on both platforms and some on one, through a network."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from models.imputation.confidence import sampled_deviation
from models.joint_vae.base import OTHER, CrossPlatformModel, Platform, Tensors, checked, evaluating
from models.joint_vae.noise import evaluation_generator
from training.task import Batch


def learn(network: CrossPlatformModel, batch: Batch, parts: Sequence[str]) -> Batch:
    """Give the terms of the loss, [2] each, and what the network says of the samples.

    Samples on both platforms and on each alone go through the network group by group. A term is its mean over the
    samples of the groups that have it, and their number.

    Args:
        network: In training or evaluation mode.
        batch: `a` and `b` [B, D], `has_a` and `has_b` [B].
        parts: Outputs wanted, such as `cross_a`, [B, D] each; zeros where a sample has none.
    """
    outputs: Batch = {part: torch.zeros_like(batch[part[-1]]) for part in parts}
    sums: Tensors = {}
    counts: Counter[str] = Counter()
    count = len(batch["has_a"])
    for platforms, rows in _groups(batch).items():
        size = int(rows.sum())
        if not size:
            continue
        # A lone sample has no batch statistics of its own; where it is the whole batch, the network refuses it.
        with _running_statistics(network) if size == 1 < count else contextlib.nullcontext():
            given = _pass(network, batch, platforms, rows)
        for name, value in given.items():
            if name in outputs:
                outputs[name][rows] = value.to(outputs[name])
            elif value.dim() == 0:
                sums[name] = sums[name] + value * size if name in sums else value * size
                counts[name] += size
    means = {name: total.float() / counts[name] for name, total in sums.items()}
    return {
        **outputs,
        **{name: torch.stack([mean, torch.full_like(mean, counts[name])]) for name, mean in means.items()},
    }


def impute(network: CrossPlatformModel, batch: Batch, n_samples: int, *, latent: bool) -> Batch:
    """Predict the platform that new samples lack, [B, D].

    Args:
        network: A trained one.
        batch: `a` or `b` alone, [B, D].
        n_samples: Draws from the posterior to average; 0 takes its mean. From two on, the `deviation` of what is drawn
            is given, too.
        latent: Whether to give the position in the latent space as `embedding`, the own platform as `rebuilt` from it,
            and as `given`, too.
    """
    source = checked(next(iter(batch)))
    x, target = batch[source], OTHER[source]
    outputs = {f"predicted_{target}": network.impute(x, source, target, n_samples=n_samples)}
    if n_samples > 1:
        drawn = evaluation_generator()
        outputs[f"deviation_{target}"] = sampled_deviation(
            lambda: network.impute(x, source, target, n_samples=1, generator=drawn), n_samples
        )
    if not latent:
        return outputs
    rebuilt = network.impute(x, source, source)
    return {**outputs, "embedding": network.latent(x, source)[0], "rebuilt": rebuilt, "given": x}


class Imputer(nn.Module):
    """The way through a trained network from one platform to the other."""

    def __init__(self, network: CrossPlatformModel, source: Platform, target: Platform, n_samples: int) -> None:
        """Take the network, the direction, and how many draws from the posterior to average; 0 takes its mean."""
        super().__init__()
        self.network, self.source, self.target, self.n_samples = network, source, target, n_samples

    def forward(self, x: Tensor) -> Tensor:
        """Give [N, D_target] of [N, D_source]."""
        return self.network.impute(x, self.source, self.target, n_samples=self.n_samples)


def _groups(batch: Batch) -> dict[tuple[Platform, ...], Tensor]:
    """Give the samples on both platforms, on a alone and on b alone."""
    has_a, has_b = batch["has_a"], batch["has_b"]
    return {("a", "b"): has_a & has_b, ("a",): has_a & ~has_b, ("b",): has_b & ~has_a}


def _pass(network: CrossPlatformModel, batch: Batch, platforms: Sequence[Platform], rows: Tensor) -> Tensors:
    if len(platforms) == 1:
        return network.single(batch[platforms[0]][rows], platforms[0])
    given: Tensors = network(*(batch[platform][rows] for platform in platforms))
    return given


@contextlib.contextmanager
def _running_statistics(network: nn.Module) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                stack.enter_context(evaluating(module))
        yield
