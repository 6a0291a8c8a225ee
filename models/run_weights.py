"""The weights that a run stores, looked at without the task that they belong to."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

KEYS = {"fingerprint", "state"}
"""What every checkpoint of a run holds, whatever else."""


def is_run_weights(content: Mapping[str, Any]) -> bool:
    """Tell whether a file holds the weights of a run, `model_final.pt` or one of `checkpoints/`."""
    state = content.get("state")
    return content.keys() >= KEYS and isinstance(state, dict) and all(isinstance(one, Tensor) for one in state.values())


def describe(path: Path, content: Mapping[str, Any]) -> str:
    """Count tensors and values, running statistics included, and the values of each part of the network."""
    state: Mapping[str, Tensor] = content["state"]
    parts: Counter[str] = Counter()
    for name, tensor in state.items():
        parts[name.partition(".")[0]] += tensor.numel()
    return "\n".join(
        [
            f"{path}: weights of a run",
            f"tensors: {len(state)}",
            f"values: {parts.total():,}",
            *(f"  {part}: {count:,}" for part, count in parts.items()),
            *([f"sha256: {content['sha256']}"] if "sha256" in content else []),
        ]
    )
