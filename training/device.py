"""Devices, precision and threads: how a network is run."""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch

from core.errors import UserError

Precision = Literal["fp32", "fp16", "bf16"]


def choose_device(name: str) -> torch.device:
    """Turn `train.device` into a device; `auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        UserError: The device asked for is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"train.device = {name!r}: this machine has no such device; use auto or cpu")
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def effective_precision(device: str, precision: Precision) -> Precision:
    """Tell what a kind of device computes in where `train.precision` is asked for: it may know fp32 alone."""
    return precision if device in {"fp16": ("cuda",), "bf16": ("cuda", "cpu")}.get(precision, ()) else "fp32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Give the mixed-precision context; nothing where the device computes in fp32."""
    effective = effective_precision(device.type, precision)
    if effective == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.float16 if effective == "fp16" else torch.bfloat16)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
