"""Every random draw is a pure function of (seed, purpose, client, epoch, ...): no global generator, no arrival order.

The counter-based idea follows fedjax (`fedjax/core/client_samplers.py`); the hash is SHA-256, so that neighbouring
seeds and names give unrelated streams.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch


def seed_for(seed: int, purpose: str, *keys: str | int) -> int:
    """Give the 63-bit seed of one purpose, e.g. `seed_for(42, "shuffle", "client_01", epoch)`."""
    text = "\x1f".join([str(seed), purpose, *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """Give a fresh numpy generator for one purpose."""
    return np.random.default_rng(seed_for(seed, purpose, *keys))


def torch_generator(seed: int, purpose: str, *keys: str | int) -> torch.Generator:
    """Give a fresh CPU torch generator for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, *keys))


@contextlib.contextmanager
def seeded_torch(seed: int, purpose: str, *keys: str | int) -> Iterator[None]:
    """Seed torch's own generators inside the block and restore them after it.

    Layers such as dropout and weight initialisers draw from torch's default generators and take no other; this is
    the one place where those are set.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(seed, purpose, *keys))
        yield
