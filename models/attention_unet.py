"""A U-Net with attention gates on its skips, for binary segmentation of images.

The gates are those of Oktay et al. 2018 (arXiv:1804.03999). As in the published rosette networks, whose checkpoints
load, a skip is the pooled output of its encoder block: half the size of the decoder tensor that it joins. MONAI's
`AttentionUnet` is another network: strided convolutions in place of pooling, and skips of the decoder's size.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from core.errors import UserError
from models.padding import pad_to

Norm = Literal["batch", "group", "instance"]

WIDTHS = (64, 128, 256, 512, 1024)
"""Channels of the four encoder blocks and the bridge, as published."""
STRIDE = 16
"""Pixels of the input that become one pixel of the bridge."""
GROUPS = 8
"""Groups of a group norm, or as many as divide the channels."""


class AttentionGate(nn.Module):
    """Weighs every place of a skip [B, X, h, w] by what the decoder knows, [B, G, H, W]."""

    def __init__(self, gating: int, skip: int, norm: Norm) -> None:
        """Take the channels of the decoder tensor and of the skip; inside, there are half as many as in the skip."""
        super().__init__()
        inner = max(1, skip // 2)
        self.W_g = nn.Sequential(nn.Conv2d(gating, inner, 1), _norm(norm, inner))
        self.W_x = nn.Sequential(nn.Conv2d(skip, inner, 1), _norm(norm, inner))
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), _norm(norm, 1), nn.Sigmoid())

    def forward(self, gating: Tensor, skip: Tensor) -> Tensor:
        """Give the weighted skip, at its own size."""
        own = self.W_x(skip)
        attention_B1hw: Tensor = self.psi(torch.relu(_resized(self.W_g(gating), own.shape[-2:]) + own))
        return skip * attention_B1hw


class AttentionUNet(nn.Module):
    """Images [B, C, H, W] of any size to logits [B, 1, H, W].

    A size that is no multiple of 16 is padded to one, and the logits are cropped. Norms that measure what they see need
    more than one value per channel: a batch of one image in training, or with group or instance norm at any time, has
    to be larger than 16 x 16 pixels.
    """

    def __init__(
        self,
        in_channels: int = 2,
        widths: Sequence[int] = WIDTHS,
        norm: Norm = "batch",
        resize_output: bool = False,
    ) -> None:
        """Build with PyTorch's default initial weights, from torch's current generator.

        Args:
            in_channels: Channels of the images.
            widths: Channels of the four encoder blocks and the bridge.
            norm: What follows every convolution. Group (of up to eight groups) and instance norm have no running
                statistics, which federated averaging could spoil; but published checkpoints are of a batch norm.
            resize_output: Instead of padding, let the network lose the rest of the size, and enlarge its probabilities
                bilinearly to the size of the image, as published networks were first evaluated.

        Raises:
            UserError: There are not five positive widths, no channels, or the norm is unknown.
        """
        super().__init__()
        first, second, third, fourth, bridge = _five(widths)
        if in_channels < 1:
            raise UserError(f"in_channels: {in_channels} channels; give at least 1")
        self.resize_output = resize_output
        self.enc1 = _block(in_channels, first, norm, pool=True)
        self.enc2 = _block(first, second, norm, pool=True)
        self.enc3 = _block(second, third, norm, pool=True)
        self.enc4 = _block(third, fourth, norm, pool=True)
        self.bridge = _block(fourth, bridge, norm)
        self.att4 = AttentionGate(fourth, fourth, norm)
        self.att3 = AttentionGate(third, third, norm)
        self.att2 = AttentionGate(second, second, norm)
        self.att1 = AttentionGate(first, first, norm)
        self.upconv4 = nn.ConvTranspose2d(bridge, fourth, 2, stride=2)
        self.dec4 = _block(2 * fourth, fourth, norm)
        self.upconv3 = nn.ConvTranspose2d(fourth, third, 2, stride=2)
        self.dec3 = _block(2 * third, third, norm)
        self.upconv2 = nn.ConvTranspose2d(third, second, 2, stride=2)
        self.dec2 = _block(2 * second, second, norm)
        self.upconv1 = nn.ConvTranspose2d(second, first, 2, stride=2)
        self.dec1 = _block(2 * first, first, norm)
        self.final = nn.Sequential(nn.Conv2d(first, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits [B, 1, H, W].

        Raises:
            UserError: With `resize_output`, an image has a side of fewer than 16 pixels.
        """
        height, width = images_BCHW.shape[-2:]
        if not self.resize_output:
            padded = pad_to(images_BCHW, *(math.ceil(side / STRIDE) * STRIDE for side in (height, width)))
            return self.native_logits(padded)[..., :height, :width]
        if min(height, width) < STRIDE:
            raise UserError(
                f"resize_output: an image of {height} x {width} pixels is too small; give at least {STRIDE} x {STRIDE} "
                "pixels, or turn resize_output off"
            )
        logits = self.native_logits(images_BCHW)
        if logits.shape[-2:] == images_BCHW.shape[-2:]:
            return logits
        probabilities = _resized(logits.float().sigmoid(), images_BCHW.shape[-2:])
        return probabilities.logit(eps=torch.finfo(torch.float32).eps)

    def predict_proba(self, images_BCHW: Tensor) -> Tensor:
        """Give the probability [B, 1, H, W] of each pixel to be foreground, in float32; errors as in `forward`."""
        return self(images_BCHW).float().sigmoid()  # type: ignore[no-any-return]

    def native_logits(self, images_BCHW: Tensor) -> Tensor:
        """Give logits at the size that is left of each side: the next lower multiple of 16."""
        skips: list[Tensor] = []
        inside = images_BCHW
        for encoder in (self.enc1, self.enc2, self.enc3, self.enc4):
            inside = encoder(inside)
            skips.append(inside)
        inside = self.bridge(inside)
        for enlarge, gate, decoder in (
            (self.upconv4, self.att4, self.dec4),
            (self.upconv3, self.att3, self.dec3),
            (self.upconv2, self.att2, self.dec2),
            (self.upconv1, self.att1, self.dec1),
        ):
            inside = enlarge(inside)
            gated = _resized(gate(inside, skips.pop()), inside.shape[-2:])
            inside = decoder(torch.cat([inside, gated], dim=1))
        logits: Tensor = self.final(inside)
        return logits


def _five(widths: Sequence[int]) -> tuple[int, ...]:
    if len(widths) != len(WIDTHS) or min(widths) < 1:
        raise UserError(
            f"widths: {list(widths)} must be five positive numbers (channels of four encoder blocks and the bridge); "
            f"the published ones are {list(WIDTHS)}"
        )
    return tuple(widths)


def _block(inside: int, outside: int, norm: Norm, *, pool: bool = False) -> nn.Sequential:
    """Build two 3x3 convolutions, each with norm and ReLU; a pooling, where there is one, halves the size."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [nn.Conv2d(channels, outside, 3, padding=1), _norm(norm, outside), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(channels, GROUPS), channels)
    if kind == "instance":
        return nn.GroupNorm(channels, channels)
    raise UserError(f"norm: {kind!r} is unknown; choose one of batch, group, instance")


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize bilinearly, without antialiasing."""
    if images.shape[-2:] == torch.Size(size):
        return images
    return interpolate(images, size=list(size), mode="bilinear", align_corners=False)
