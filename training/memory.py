"""Peak memory of this process and of its GPU."""

import resource
import sys

import torch


def peak_memory_mb() -> float:
    """Give the peak resident memory of this process in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def peak_gpu_mb(device: torch.device) -> float | None:
    """Give the peak memory allocated on a CUDA device in MB, or None elsewhere."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
