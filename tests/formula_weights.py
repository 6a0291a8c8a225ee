"""Weights made from their names: how a recorded network too large to store is built again, bit for bit.

Every entry of a state dict is a pure function of its key and shape: a hash of the CRC-32 of the key and of the flat
index gives u in [0, 1), which is then scaled by the kind of the entry.
"""

import math
import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

HASH_FACTOR = 2654435761
MIX_FACTOR = 0x45D9F3B
MODULUS = 2**32
BLOCK = 2**20
"""Values worked out at once, so that a large network needs little memory beside itself."""


def fill(target: nn.Module | dict[str, Tensor]) -> None:
    """Set every entry of a network, or of a state dict, in place."""
    tensors = target.state_dict() if isinstance(target, nn.Module) else target
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(formula_values(key, tuple(tensor.shape))))


def formula_values(key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32 | np.int64]:
    """Give the values of one entry."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    if key.endswith("running_var"):
        low, width = 0.5, 1.0
    elif key.endswith(("running_mean", ".bias")):
        low, width = -0.1, 0.2
    elif len(shape) == 1:
        low, width = 0.75, 0.5
    else:
        bound = math.sqrt(6 / math.prod(shape[1:]))
        low, width = -bound, 2 * bound
    count = math.prod(shape)
    values = np.empty(count, dtype=np.float32)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        values[start:stop] = low + width * _uniform(key, start, stop)
    return values.reshape(shape)


def _uniform(key: str, start: int, stop: int) -> npt.NDArray[np.float64]:
    mixed = np.arange(start, stop, dtype=np.uint64)
    mixed = (mixed * np.uint64(HASH_FACTOR) + np.uint64(zlib.crc32(key.encode()))) % np.uint64(MODULUS)
    mixed ^= mixed >> np.uint64(16)
    mixed = (mixed * np.uint64(MIX_FACTOR)) % np.uint64(MODULUS)
    mixed ^= mixed >> np.uint64(16)
    return mixed / float(MODULUS)
