"""A vector of expression values from one image: a convolutional encoder, averaged over the image, and a linear head.

The ResNets (He et al. 2016, arXiv:1512.03385) are MONAI's, set up to have torchvision's names, shapes and outputs, so
that its published ImageNet weights load.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from core.errors import UserError
from models.tensor_files import load

Backbone = Literal["resnet18", "resnet50", "tiny_cnn"]
RESNETS: dict[str, tuple[type[ResNetBlock] | type[ResNetBottleneck], list[int], int]] = {
    "resnet18": (ResNetBlock, [2, 2, 2, 2], 512),
    "resnet50": (ResNetBottleneck, [3, 4, 6, 3], 2048),
}
WIDTHS = (64, 128, 256, 512)
TINY_WIDTHS = (16, 32, 64)


class ImageRegressor(nn.Module):
    """`encoder` [B, 3, H, W] -> [B, features], `head` -> [B, output_dim] in the units of training.

    `mean` and `deviation` map those to the original units; they come with the data, not with the weights, and are no
    part of the state dict.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        backbone: str,
        output_dim: int,
        *,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
    ) -> None:
        """Build with fresh weights: convolutions Kaiming-normal over outgoing connections, head as PyTorch does.

        Args:
            backbone: resnet18, resnet50 or tiny_cnn.
            output_dim: Number of values to predict, K.
            mean: Of each target, shape [K]; None for zeros.
            deviation: Of each target, shape [K]; None for ones.

        Raises:
            ValueError: The backbone is unknown.
        """
        super().__init__()
        self.backbone = backbone
        self.encoder, features = _encoder(backbone)
        self.head = nn.Linear(features, output_dim)
        zeros, ones = torch.zeros(output_dim), torch.ones(output_dim)
        self.register_buffer("mean", zeros if mean is None else mean.float(), persistent=False)
        self.register_buffer("deviation", ones if deviation is None else deviation.float(), persistent=False)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Predict scaled values [B, K]."""
        scaled_BK: Tensor = self.head(self.encoder(images_B3HW))
        return scaled_BK

    def original_units(self, scaled_BK: Tensor) -> Tensor:
        """Undo the scaling of the targets."""
        return scaled_BK * self.deviation + self.mean

    def load_encoder(self, path: Path) -> None:
        """Take the encoder's weights from a file in torchvision's layout, whose classification layer `fc` is left out.

        Names may begin with `encoder.` (then a `head` is left out) or `module.`.

        Raises:
            UserError: The file is missing, unsafe, damaged, or of another network.
        """
        stored = load(path)
        inner = stored.get("state_dict", stored.get("model_state_dict", stored))
        state = _encoder_state(inner if isinstance(inner, Mapping) else stored)
        own = self.encoder.state_dict()
        wrong = _first_difference(own, state)
        if wrong:
            raise UserError(
                f"{path}: does not fit the encoder of backbone {self.backbone}: {wrong}; give its weights or change "
                "options.backbone"
            )
        self.encoder.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _encoder(backbone: str) -> tuple[nn.Module, int]:
    if backbone == "tiny_cnn":
        return _tiny_cnn(), TINY_WIDTHS[-1]
    if backbone not in RESNETS:
        known = ", ".join([*RESNETS, "tiny_cnn"])
        raise ValueError(f"backbone {backbone!r} is unknown; choose one of {known}")
    block, layers, features = RESNETS[backbone]
    settings: dict[str, Any] = {"spatial_dims": 2, "n_input_channels": 3, "feed_forward": False}
    as_torchvision: dict[str, Any] = {"conv1_t_stride": 2, "shortcut_type": "B", "bias_downsample": False}
    return ResNet(block, layers, list(WIDTHS), **settings, **as_torchvision), features


def _tiny_cnn() -> nn.Sequential:
    """Build a network small enough for tests: per width a convolution that halves the image, norm and ReLU."""
    layers: list[nn.Module] = []
    for inside, outside in zip((3, *TINY_WIDTHS), TINY_WIDTHS, strict=False):
        convolution = nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers += [convolution, nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _encoder_state(stored: Mapping[str, Any]) -> dict[str, Tensor]:
    named = {str(name).removeprefix("module."): value for name, value in stored.items() if isinstance(value, Tensor)}
    if any(name.startswith("encoder.") for name in named):
        return {name.removeprefix("encoder."): value for name, value in named.items() if name.startswith("encoder.")}
    return {name: value for name, value in named.items() if not name.startswith("fc.")}


def _first_difference(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str:
    """Name a missing or unknown entry or another shape; old files lack the batch counters, which nothing reads."""
    missing = [name for name in own if name not in stored and not name.endswith("num_batches_tracked")]
    if missing:
        return f"{missing[0]} is missing" + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
    unknown = [name for name in stored if name not in own]
    if unknown:
        return f"{unknown[0]} is unknown" + (f", and {len(unknown) - 1} more" if len(unknown) > 1 else "")
    for name, value in own.items():
        if name in stored and stored[name].shape != value.shape:
            return f"{name} has shape {list(stored[name].shape)} instead of {list(value.shape)}"
    return ""
