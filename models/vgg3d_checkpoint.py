"""Stored 3-D VGG weights: what is in a file, and whether its features fit a network.

Accepted are files of `torch.save` with a `model_state_dict` (or `state_dict`) beside the optimizer's state, bare state
dicts, and safetensors; nothing is ever unpickled beyond plain data. Used are the entries `features.*`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models import tensor_files
from models.vgg3d import Features
from models.vgg3d_shape import MODULES_PER_CONVOLUTION, VGG3DShape

WRAPPER = "module."
"""What `DataParallel` puts in front of every name."""
STATE_KEYS = ("model_state_dict", "state_dict")
FIRST_CONVOLUTION = "features.0.weight"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        path: The file.
        features: Name (`features.*`) -> tensor; floating point in float32.
        ignored: Number of other tensors, such as those of a classifier.
    """

    path: Path
    features: Mapping[str, Tensor]
    ignored: int

    @property
    def channels(self) -> int:
        """Channels of the volumes that these weights were trained on."""
        return self.features[FIRST_CONVOLUTION].shape[1]

    @property
    def widths(self) -> list[list[int]]:
        """Feature maps of each convolution, stage by stage; a pooling shows as a gap in the numbering."""
        stages: list[list[int]] = []
        after = -1
        for index, name in sorted(
            (int(name.split(".")[1]), name) for name in self.features if name.endswith(".weight")
        ):
            if self.features[name].ndim < 2:
                continue
            if index != after:
                stages.append([])
            stages[-1].append(self.features[name].shape[0])
            after = index + MODULES_PER_CONVOLUTION
        return stages


@dataclass(frozen=True)
class Loaded:
    """What became of every tensor: names loaded, missing in the file, of another shape, and unknown to the network."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatching: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything fits and nothing is left over."""
        return not (self.missing or self.mismatching or self.unknown)


def read(path: Path) -> Checkpoint:
    """Read a file.

    Raises:
        UserError: The file is missing, damaged or unsafe, holds no features of a VGG, or values that are not finite.
    """
    state = _state(tensor_files.load(path))
    if state is None:
        raise UserError(
            f"{path}: holds neither model_state_dict nor a bare state dict; give a file that stores one of them"
        )
    tensors = {name.removeprefix(WRAPPER): value for name, value in state.items()}
    features = {name: _plain(value) for name, value in tensors.items() if re.match(r"features\.\d+\.", name)}
    if FIRST_CONVOLUTION not in features or features[FIRST_CONVOLUTION].ndim != 5:
        raise UserError(f"{path}: no {FIRST_CONVOLUTION} of a 3-D convolution in it; give a checkpoint of a 3-D VGG")
    for name, value in features.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} holds NaN or infinite values; give an undamaged checkpoint")
    return Checkpoint(path, features, len(tensors) - len(features))


def is_vgg3d(content: Mapping[str, Any]) -> bool:
    """Tell whether what was read from a weight file holds the features of a VGG."""
    return any(name.removeprefix(WRAPPER) == FIRST_CONVOLUTION for name in _state(content) or {})


def load_features(
    network: Features, checkpoint: Checkpoint, *, allow_partial: bool = False, adapt_channels: bool = False
) -> Loaded:
    """Load stored features into a network, all of them unless told otherwise.

    Args:
        network: Changed in place.
        checkpoint: What was read.
        allow_partial: Leave out what does not fit, and keep the fresh weights in its place.
        adapt_channels: Fit the first convolution to another number of channels, see `adapt_first_conv`.

    Raises:
        UserError: Something does not fit; or, partial, nothing does.
    """
    report = compare(network.shape, checkpoint, adapt_channels=adapt_channels)
    if not report.loaded or not (allow_partial or report.complete):
        raise UserError(_refusal(checkpoint, network.shape, report))
    found = _fitted(network.shape, checkpoint, adapt_channels)
    own = {f"features.{name}": value for name, value in network.state_dict(keep_vars=True).items()}
    with torch.no_grad():
        for name in report.loaded:
            own[name].copy_(found[name])
    return report


def compare(shape: VGG3DShape, checkpoint: Checkpoint, *, adapt_channels: bool = False) -> Loaded:
    """Say what of a checkpoint fits a network; arguments as in `load_features`."""
    expected, found = shape.layout(), _fitted(shape, checkpoint, adapt_channels)
    mismatching = tuple(name for name in expected if name in found and tuple(found[name].shape) != expected[name])
    return Loaded(
        loaded=tuple(name for name in expected if name in found and name not in mismatching),
        missing=tuple(name for name in expected if name not in found),
        mismatching=mismatching,
        unknown=tuple(name for name in found if name not in expected),
    )


def adapt_first_conv(weight: Tensor, channels: int) -> Tensor:
    """Fit the weight of a first convolution [O, C, D, H, W] to another number of input channels.

    Every new channel gets the sum over the old ones, divided by the number of new ones: an image repeated in all
    channels, before and after, gives the same output.
    """
    return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1, -1) / channels


def _state(content: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """Give the state dict in a file, or None where there is none."""
    state = next((content[key] for key in STATE_KEYS if key in content), content)
    if not isinstance(state, Mapping):
        return None
    named = all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    return state if named else None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32) if tensor.is_floating_point() else tensor.detach()


def _fitted(shape: VGG3DShape, checkpoint: Checkpoint, adapt_channels: bool) -> dict[str, Tensor]:
    """Give the stored features, the first convolution fitted to the channels where that is asked for."""
    found = dict(checkpoint.features)
    if adapt_channels and checkpoint.channels != shape.input_fmaps:
        found[FIRST_CONVOLUTION] = adapt_first_conv(found[FIRST_CONVOLUTION], shape.input_fmaps)
    return found


def _refusal(checkpoint: Checkpoint, shape: VGG3DShape, report: Loaded) -> str:
    """Name the first tensor that does not fit, how many there are of each kind, and what to change."""
    expected = shape.layout()
    if report.mismatching:
        name = report.mismatching[0]
        fault = f"{name} has shape {tuple(checkpoint.features[name].shape)}, the network needs {expected[name]}"
    elif report.missing:
        fault = f"{report.missing[0]} is missing (shape {expected[report.missing[0]]})"
    else:
        fault = f"{report.unknown[0]} is unknown to the network"
    counts = (
        f"{len(report.loaded)} fit, {len(report.missing)} missing, {len(report.mismatching)} of another shape, "
        f"{len(report.unknown)} unknown"
    )
    return f"{checkpoint.path}: {fault} ({counts}); {_remedy(checkpoint, shape, report)}"


def _remedy(checkpoint: Checkpoint, shape: VGG3DShape, report: Loaded) -> str:
    if report.mismatching == (FIRST_CONVOLUTION,) and checkpoint.channels != shape.input_fmaps:
        return f"set adapt_first_conv to use weights for {checkpoint.channels} channels"
    stages = checkpoint.widths
    counts, widths = tuple(map(len, stages)), tuple(stage[0] for stage in stages)
    if (counts, widths) != (shape.n_convolutions, shape.widths):
        return f"the file has n_convolutions {counts} with {widths} feature maps: build the network like this"
    return "give a complete checkpoint, or set allow_partial"
