"""Layers the model types are put together from: plain, residual, spectrally normalised; encoders and decoders."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from models.joint_vae.options import Hidden as HiddenOptions

FIRST_ITERATIONS = 15
"""Power iterations of fresh weights, so that an untrained network is normalised, too."""
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
}


class LinearLayer(Protocol):
    """What makes a linear layer of given input and output width."""

    def __call__(self, width_in: int, width: int, /) -> nn.Module:
        """Make one."""
        ...


@dataclass(frozen=True)
class Style:
    """What hidden layers look like."""

    activation: str
    dropout: float
    batch_norm: bool
    linear: LinearLayer = nn.Linear

    @classmethod
    def of(cls, options: HiddenOptions, linear: LinearLayer = nn.Linear) -> "Style":
        """Take the style from options."""
        return cls(options.activation, options.dropout_rate, options.batch_norm, linear)

    def normed(self, width_in: int, width: int) -> list[nn.Module]:
        """Make a linear layer with its norm."""
        return [self.linear(width_in, width), *([nn.BatchNorm1d(width)] if self.batch_norm else [])]

    def bend(self) -> list[nn.Module]:
        """Make an activation with its dropout, which is left out where nothing is dropped."""
        return [ACTIVATIONS[self.activation](), *([nn.Dropout(self.dropout)] if self.dropout else [])]


class Chain(nn.Module):
    """Modules one after the other, numbered under `layers`."""

    def __init__(self, *modules: nn.Module) -> None:
        """Take the modules."""
        super().__init__()
        self.layers = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """Give [B, out] of [B, in]."""
        result: Tensor = self.layers(x)
        return result


class ShortcutLayer(nn.Module):
    """A hidden layer with a shortcut around it, a projection where the widths differ."""

    def __init__(self, width_in: int, width: int, style: Style) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        self.main_path = nn.Sequential(*style.normed(width_in, width))
        self.shortcut = nn.Sequential(*style.normed(width_in, width)) if width_in != width else nn.Identity()
        self.after = nn.Sequential(*style.bend())

    def forward(self, x: Tensor) -> Tensor:
        """Give [B, width] of [B, width_in]."""
        result: Tensor = self.after(self.main_path(x) + self.shortcut(x))
        return result


class ResidualBlock(nn.Module):
    """Two linear layers beside an identity, a projection where the widths differ; attention in front on request."""

    def __init__(self, width_in: int, width: int, style: Style, attention: nn.Module | None = None) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        self.attention = attention or nn.Identity()
        self.layer1, self.norm1 = style.linear(width_in, width), self._norm(width, style)
        self.layer2, self.norm2 = style.linear(width, width), self._norm(width, style)
        self.input_projection = style.linear(width_in, width) if width_in != width else nn.Identity()
        self.between = nn.Sequential(*style.bend())
        self.activation = ACTIVATIONS[style.activation]()

    @staticmethod
    def _norm(width: int, style: Style) -> nn.Module:
        return nn.BatchNorm1d(width) if style.batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Give [B, width] of [B, width_in]."""
        x = self.attention(x)
        inner = self.between(self.norm1(self.layer1(x)))
        result: Tensor = self.activation(self.norm2(self.layer2(inner)) + self.input_projection(x))
        return result


class SpectralLinear(nn.Module):
    """A linear layer whose weight is divided by an estimate of its largest singular value (Miyato et al. 2018).

    Each forward pass in training improves the estimate by one power iteration. Its vectors are buffers; their lengths
    do not count, since averages of several states are shorter than 1.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, width_in: int, width: int) -> None:
        """Draw fresh weights and vectors from torch's current generator."""
        super().__init__()
        plain = nn.Linear(width_in, width)
        self.weight_orig, self.bias = plain.weight, plain.bias
        for name, size in (("weight_u", width), ("weight_v", width_in)):
            self.register_buffer(name, torch.randn(size))
        # A network on the meta device has names and shapes only.
        for _ in range(0 if plain.weight.is_meta else FIRST_ITERATIONS):
            self._iterate()

    def forward(self, x: Tensor) -> Tensor:
        """Give [B, width] of [B, width_in]."""
        with torch.autocast(x.device.type, enabled=False):
            if self.training:
                self._iterate()
            # The next pass overwrites the vectors before this one's gradient is taken.
            u, v = self.weight_u.clone(), self.weight_v.clone()
            weight = self.weight_orig * (u.norm() * v.norm() / torch.dot(u, self.weight_orig @ v))
        return linear(x, weight, self.bias)

    @torch.no_grad()
    def _iterate(self) -> None:
        self.weight_v.copy_(normalize(self.weight_orig.T @ self.weight_u, dim=0))
        self.weight_u.copy_(normalize(self.weight_orig @ self.weight_v, dim=0))


class Encoder(nn.Module):
    """A backbone under two linear heads: mean and log-variance [B, L] of a platform's posterior."""

    def __init__(self, backbone: nn.Module, width: int, latent: int, linear: LinearLayer = nn.Linear) -> None:
        """Put fresh heads on a backbone that gives `width` values."""
        super().__init__()
        self.backbone = backbone
        self.mean_layer = linear(width, latent)
        self.logvar_layer = linear(width, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and log-variance of [B, D]."""
        hidden = self.backbone(x)
        return self.mean_layer(hidden), self.logvar_layer(hidden)


class Decoder(nn.Module):
    """A network from latent positions [B, L] to features [B, D]."""

    def __init__(self, network: nn.Module) -> None:
        """Take the network."""
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        """Give features."""
        features: Tensor = self.network(z)
        return features


Hidden = Callable[[int, int, Style], list[nn.Module]]
"""What makes the modules of one hidden layer."""


def plain(width_in: int, width: int, style: Style) -> list[nn.Module]:
    """Make a hidden layer without shortcut."""
    return [*style.normed(width_in, width), *style.bend()]


def shortcut(width_in: int, width: int, style: Style) -> list[nn.Module]:
    """Make a hidden layer with a shortcut."""
    return [ShortcutLayer(width_in, width, style)]


def residual(width_in: int, width: int, style: Style) -> list[nn.Module]:
    """Make a hidden block of two layers with an identity."""
    return [ResidualBlock(width_in, width, style)]


def stack(width_in: int, hidden: Sequence[int], width: int, style: Style, make: Hidden = plain) -> Chain:
    """Chain hidden layers and a linear output layer."""
    widths = [width_in, *hidden]
    modules = [module for pair in itertools.pairwise(widths) for module in make(*pair, style)]
    return Chain(*modules, style.linear(widths[-1], width))


def encoder(width_in: int, hidden: Sequence[int], latent: int, style: Style, make: Hidden = plain) -> Encoder:
    """Make an encoder; its backbone ends with a linear layer as wide as its last hidden one, or as the input."""
    width = hidden[-1] if hidden else width_in
    return Encoder(stack(width_in, hidden, width, style, make), width, latent, style.linear)
