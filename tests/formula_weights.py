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
    uniform = _uniform(key, math.prod(shape)).reshape(shape)
    if key.endswith("running_var"):
        values = 0.5 + uniform
    elif key.endswith(("running_mean", ".bias")):
        values = 0.2 * uniform - 0.1
    elif len(shape) == 1:
        values = 0.75 + 0.5 * uniform
    else:
        values = math.sqrt(6 / math.prod(shape[1:])) * (2 * uniform - 1)
    return values.astype(np.float32)


def _uniform(key: str, count: int) -> npt.NDArray[np.float64]:
    mixed = np.arange(count, dtype=np.uint64)
    mixed *= np.uint64(HASH_FACTOR)
    mixed += np.uint64(zlib.crc32(key.encode()))
    mixed %= np.uint64(MODULUS)
    mixed ^= mixed >> np.uint64(16)
    mixed *= np.uint64(MIX_FACTOR)
    mixed %= np.uint64(MODULUS)
    mixed ^= mixed >> np.uint64(16)
    return mixed / float(MODULUS)
