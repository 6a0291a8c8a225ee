"""Frozen layers run once per sample: their output replaces the sample, for training and evaluation alike."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from core.errors import UserError
from core.files import atomic, sha256_json
from core.progress import bar
from training.config import Train
from training.device import autocast
from training.loading import InMemory, load_batches, ordered_batches
from training.parameters import trainable_state, weights_hash
from training.task import Batch, Samples, Task


def frozen_hash(network: nn.Module) -> str:
    """Give the SHA-256 of everything in a network that does not train."""
    trains = trainable_state(network)
    return weights_hash({name: value for name, value in network.state_dict().items() if name not in trains})


def encode_samples(
    task: Task,
    network: nn.Module,
    samples: Samples,
    options: Train,
    device: torch.device,
    *,
    key: tuple[str, ...],
    folder: Path,
) -> Samples:
    """Give the samples with the frozen front of the network already applied.

    Args:
        task: Its `encode` runs the frozen front; where it gives None the samples come back unchanged.
        network: Gives the frozen weights; on `device`.
        samples: What to encode. Samples that augment (`reseed`) are never encoded.
        options: The `train` section; `cache_features: false` turns this off.
        device: Where the network is.
        key: Identifies the data, the frozen weights and the options that they are run with.
        folder: Where encoded samples are kept between runs.
    """
    wanted = options.cache_features and len(samples) > 0 and not hasattr(samples, "reseed")
    if not wanted or options.limit_batches:
        return samples
    path = folder / f"{sha256_json([*key, options.precision, device.type])[:32]}.safetensors"
    stored = _read(path, len(samples))
    if stored is None:
        size = encoded_bytes(task, network, samples, device)
        if size is None or size * len(samples) > options.cache_limit_gb * 1e9:
            return samples
        stored = _encode(task, network, samples, options, device)
        _write(path, stored)
    return InMemory(stored, getattr(samples, "names", None), getattr(samples, "units", None))


def encoded_bytes(task: Task, network: nn.Module, samples: Samples, device: torch.device) -> int | None:
    """Give the size of one encoded sample in bytes, or None where the task has no frozen front to run."""
    network.eval()
    with torch.inference_mode():
        (batch,) = load_batches(samples, [[0]], 0, 0)
        encoded = task.encode(network, {key: value.to(device) for key, value in batch.items()})
    return None if encoded is None else sum(value.nbytes for value in encoded.values())


def _encode(task: Task, network: nn.Module, samples: Samples, options: Train, device: torch.device) -> Batch:
    network.eval()
    parts: list[Batch] = []
    batches = ordered_batches(samples, options.batch_size)
    loaded = load_batches(samples, batches, options.loader_workers, 0, "encoding")
    with torch.inference_mode(), autocast(device, options.precision):
        for batch in bar(loaded, len(batches), "frozen layers"):
            encoded = task.encode(network, {key: value.to(device) for key, value in batch.items()})
            assert encoded is not None
            parts.append({key: value.cpu() for key, value in encoded.items()})
    return {key: torch.cat([part[key] for part in parts]).clone() for key in parts[0]}


def _read(path: Path, count: int) -> Batch | None:
    """Give cached samples; a damaged or foreign file counts as absent and is made anew."""
    try:
        stored = load_file(path)
    except (OSError, SafetensorError):
        return None
    return stored if all(len(value) == count for value in stored.values()) else None


def _write(path: Path, batch: Batch) -> None:
    try:
        with atomic(path) as temporary:
            save_file({key: value.contiguous() for key, value in batch.items()}, temporary)
    except (UserError, OSError, SafetensorError):
        return  # A cache that cannot be written costs time, not results.
