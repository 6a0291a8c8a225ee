"""res_unet: two independent networks, A to B and B to A, without a latent space."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from core.errors import UserError
from models.joint_vae.base import OTHER, CrossPlatformModel, Inputs, Platform, Tensors, checked, errors
from models.joint_vae.layers import ResidualBlock, Style
from models.joint_vae.noise import Noise
from models.joint_vae.options import Config, Hidden, JointVAEWeights, Multipliers, Weight, Widths

WIDEST_TOKEN = 128


class UNetModel(Hidden):
    """Architecture of res_unet."""

    idle = frozenset({"latent_dim", "decoder_layers", "use_residual_blocks"})

    encoder_layers: Annotated[Widths, Field(min_length=1)] = (1024,)
    """Widths of the blocks on the way down; the way up has them in reverse."""
    bottleneck_dim: PositiveInt = 64
    """Width of the narrowest block."""
    use_attention: bool = False
    """Attention over features in front of each block; its memory grows with the square of the features."""
    attention_heads: PositiveInt = 8
    """Heads of the attention."""
    attention_embed_dim: PositiveInt | None = None
    """Width of a feature's token; by default half the features, at most 128. The heads must divide it."""

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Attention is there on request."""
        given = not self.use_attention, "set use_attention: true"
        return dict.fromkeys(("attention_heads", "attention_embed_dim"), given)


class UNetWeights(Multipliers):
    """Loss of res_unet."""

    idle = frozenset({*JointVAEWeights.model_fields})

    imputation: Weight = 1.0
    """Of a platform from the other."""
    cycle_consistency: Weight = 0.1
    """Of a platform from the prediction made of it."""


class UNetConfig(Config):
    """Blocks of res_unet."""

    model: UNetModel = UNetModel()
    loss_weights: UNetWeights = UNetWeights()


class FeatureAttention(nn.Module):
    """Self-attention between the features [B, D] of a sample, each a token; memory grows with the square of D."""

    def __init__(self, features: int, options: UNetModel) -> None:
        """Draw fresh weights from torch's current generator.

        Raises:
            UserError: The heads do not divide the width of a token.
        """
        super().__init__()
        width, heads = options.attention_embed_dim or min(WIDEST_TOKEN, features // 2), options.attention_heads
        if width < 1 or width % heads:
            raise UserError(
                f"model.attention_heads = {heads}: does not divide the {width} values of a token of {features} "
                "features; set model.attention_embed_dim to a multiple of it"
            )
        self.value_embedding = nn.Linear(1, width)
        self.position_embedding = nn.Embedding(features, width)
        self.attention = nn.MultiheadAttention(width, heads, options.dropout_rate, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Give features [B, D] that know of each other."""
        tokens = self.value_embedding(x.unsqueeze(-1)) + self.position_embedding.weight
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        features: Tensor = self.output_proj(self.norm(tokens + attended))
        return features.squeeze(-1)


class Descent(nn.Module):
    """Blocks of the encoder widths; each one's output is kept."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        """Take the blocks."""
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the output of each block."""
        kept: list[Tensor] = []
        for layer in self.layers:
            kept.append(layer(kept[-1] if kept else x))
        return kept


class Ascent(nn.Module):
    """Blocks of the encoder widths in reverse, each fed the output before it and what is left of the skips."""

    def __init__(self, blocks: list[nn.Module], width_in: int, width: int) -> None:
        """Take the blocks and draw a fresh output layer."""
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        self.output_layer = nn.Linear(width_in, width)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Give features [B, D]; `skips` are in the order of use, one less than blocks."""
        for index, layer in enumerate(self.layers):
            x = layer(torch.cat([x, skips[index]], 1) if index < len(skips) else x)
        features: Tensor = self.output_layer(x)
        return features


class ResUNet(nn.Module):
    """One direction: features [B, D_source] to features [B, D_target]."""

    def __init__(self, width_in: int, width: int, options: UNetModel) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        style = Style.of(options)

        def block(block_in: int, block_out: int) -> nn.Module:
            attention = FeatureAttention(block_in, options) if options.use_attention else None
            return ResidualBlock(block_in, block_out, style, attention)

        down = options.encoder_layers
        up, skips = down[::-1], [*down[-2::-1], 0]
        self.encoder = Descent([block(*pair) for pair in zip((width_in, *down), down, strict=False)])
        self.bottleneck = block(down[-1], options.bottleneck_dim)
        inputs = [before + skip for before, skip in zip((options.bottleneck_dim, *up), skips, strict=False)]
        self.decoder = Ascent([block(*pair) for pair in zip(inputs, up, strict=True)], up[-1], width)

    def forward(self, x: Tensor) -> Tensor:
        """Give the other platform's features."""
        kept = self.encoder(x)
        features: Tensor = self.decoder(self.bottleneck(kept[-1]), kept[-2::-1])
        return features


class DirectMapping(CrossPlatformModel):
    """Both directions, each other's check: what one predicts, the other must turn back."""

    model_type = "res_unet"
    config: UNetConfig

    def __init__(self, dims: Mapping[Platform, int], config: UNetConfig) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__(dims, config)
        self.net_a_to_b = ResUNet(dims["a"], dims["b"], config.model)
        self.net_b_to_a = ResUNet(dims["b"], dims["a"], config.model)

    def _to(self, target: Platform, x: Tensor) -> Tensor:
        features: Tensor = (self.net_a_to_b if target == "b" else self.net_b_to_a)(x)
        return features

    def single(self, x: Tensor, platform: Platform, *, noise: Mapping[str, Tensor] | None = None) -> Tensors:
        """Refuse: there is nothing to learn from one platform.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"model_type = {self.model_type!r}: learns from samples measured on both platforms only, here is only "
            f"platform {checked(platform)}; choose another type, such as joint_vae"
        )

    def outputs(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give `imputed`, also as `cross`, and `cycle`: each platform from the prediction made of it."""
        imputed = {platform: self._to(platform, inputs[OTHER[platform]]) for platform in inputs}
        outputs = {f"{name}_{platform}": x for name in ("imputed", "cross") for platform, x in imputed.items()}
        cycle = {f"cycle_{platform}": self._to(platform, imputed[OTHER[platform]]) for platform in inputs}
        return {**outputs, **cycle}

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give both terms and the error of each direction."""
        each = {
            f"impute_loss_{platform}": mse_loss(outputs[f"imputed_{platform}"], targets[platform])
            for platform in targets
        }
        pair = {"imputation_loss": errors(outputs, targets, "imputed"), "cycle_loss": errors(outputs, targets, "cycle")}
        return {**pair, **each}

    def weights(self) -> dict[str, float]:
        """Give the weights of both terms."""
        weights = self.config.loss_weights
        return {"imputation_loss": weights.imputation, "cycle_loss": weights.cycle_consistency}

    def predicted(
        self, x: Tensor, source: Platform, target: Platform, n_samples: int, generator: torch.Generator
    ) -> Tensor:
        """Map to the other platform; a platform to itself goes there and back."""
        there = self._to(OTHER[source], x)
        return there if target != source else self._to(source, there)

    def platform_parameters(self, platform: Platform) -> tuple[str, ...]:
        """Give everything: each direction needs both platforms."""
        return ("net_*",)
