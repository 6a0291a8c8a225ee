"""Stored attention U-Nets: what is in a file, and whether it fits a network.

Accepted are bare state dicts, as published, and those in a `state_dict` or `model_state_dict`; names may begin with
`module.`; also safetensors. Nothing is ever unpickled beyond plain data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import UserError
from models import tensor_files
from models.attention_unet import AttentionUNet

WRAPPER = "module."
"""What `DataParallel` puts in front of every name."""
FIRST_CONVOLUTION = "enc1.0.weight"
LANDMARKS = (FIRST_CONVOLUTION, "bridge.0.weight", "att4.W_g.0.weight")
"""Names that tell an attention U-Net from other networks."""
BLOCKS = ("enc1", "enc2", "enc3", "enc4", "bridge")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, by the names of `AttentionUNet`; floating point in float32."""

    path: Path
    state: Mapping[str, Tensor]

    @property
    def channels(self) -> int:
        """Channels of the images that these weights were trained on."""
        return self.state[FIRST_CONVOLUTION].shape[1]

    @property
    def widths(self) -> list[int]:
        """Channels of the encoder blocks and the bridge, as far as they are there."""
        return [self.state[f"{block}.0.weight"].shape[0] for block in BLOCKS if f"{block}.0.weight" in self.state]

    @property
    def norm(self) -> str:
        """The norm; a group norm and an instance norm store the same."""
        return "batch" if "enc1.1.running_mean" in self.state else "group or instance"


def read(path: Path) -> Checkpoint:
    """Read a file.

    Raises:
        UserError: The file is missing, damaged or unsafe, is not of an attention U-Net, or holds values that are not
            finite.
    """
    stored = _state(tensor_files.load(path))
    missing = [name for name in LANDMARKS if name not in stored or stored[name].ndim != 4]
    if missing:
        raise UserError(f"{path}: no {missing[0]} of a 2-D convolution in it; give a checkpoint of an attention U-Net")
    for name, value in stored.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} holds NaN or infinite values; give an undamaged checkpoint")
    return Checkpoint(path, stored)


def is_attention_unet(content: Mapping[str, Any]) -> bool:
    """Tell whether what was read from a weight file holds an attention U-Net."""
    return set(LANDMARKS) <= _state(content).keys()


def load_weights(network: AttentionUNet, checkpoint: Checkpoint) -> None:
    """Load stored weights into a network, in place: all of them, or none.

    Raises:
        UserError: A tensor is missing, unknown to the network or of another shape.
    """
    own = network.state_dict()
    fault = _first_difference(own, checkpoint.state)
    if fault:
        file = f"in_channels {checkpoint.channels}, widths {checkpoint.widths}, norm {checkpoint.norm}"
        raise UserError(
            f"{checkpoint.path}: {fault}; the file has {file}: build the network like this, or give a file that fits"
        )
    network.load_state_dict({name: checkpoint.state.get(name, value) for name, value in own.items()})


def _state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Give the tensors of the state dict in a file by their bare names."""
    inner = content.get("state_dict", content.get("model_state_dict", content))
    named = inner.items() if isinstance(inner, Mapping) else []
    return {
        str(name).removeprefix(WRAPPER): value.float() if value.is_floating_point() else value
        for name, value in named
        if isinstance(value, Tensor)
    }


def _first_difference(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str:
    """Name the first tensor that does not fit, and how many there are; old files lack the batch counters."""
    shapes = [name for name in own if name in stored and stored[name].shape != own[name].shape]
    missing = [name for name in own if name not in stored and not name.endswith("num_batches_tracked")]
    unknown = [name for name in stored if name not in own]
    if shapes:
        name = shapes[0]
        fault = f"{name} has shape {tuple(stored[name].shape)}, the network needs {tuple(own[name].shape)}"
    elif missing:
        fault = f"{missing[0]} is missing"
    elif unknown:
        fault = f"{unknown[0]} is unknown to the network"
    else:
        return ""
    return f"{fault} ({len(missing)} missing, {len(shapes)} of another shape, {len(unknown)} unknown)"
