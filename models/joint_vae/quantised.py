"""JointVQ: a code from a shared codebook in place of a position (van den Oord et al. 2017)."""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from models.joint_vae.base import OTHER, CrossPlatformModel, Inputs, Platform, Tensors, errors, mean_over
from models.joint_vae.layers import Chain, Style
from models.joint_vae.noise import Noise
from models.joint_vae.options import Config, Layers, Multipliers, Weight

FEWEST = 1e-5
"""Least count that a moving average keeps, so that its code does not drift."""


class VQModel(Layers):
    """Architecture of JointVQ."""

    idle = frozenset({"encoder_layers", "decoder_layers", "use_residual_blocks"})

    num_embeddings: PositiveInt = 512
    """Codes K of the codebook that both platforms share."""
    vq_beta: Weight = 0.25
    """Weight of the pull of encodings towards their codes."""
    num_res_blocks: int = Field(0, ge=0)
    """Residual blocks in each encoder and decoder."""
    num_codebooks: PositiveInt = 1
    """Equal parts of the latent space that are each given a code of their own, so that a sample carries more bits."""
    codebook_update: Literal["gradient", "ema"] = "gradient"
    """Train codes by their gradient, or as moving averages of the encodings they stand for."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    """What a moving average keeps per batch."""
    restart_after: int = Field(0, ge=0)
    """Batches without use after which a code moves to an encoding of the batch; 0 for never."""

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Averages are kept on request."""
        return {"ema_decay": (self.codebook_update != "ema", "set codebook_update: ema")}

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.latent_dim % self.num_codebooks:
            raise ValueError(f"num_codebooks {self.num_codebooks} does not divide latent_dim {self.latent_dim}")
        return self


class VQWeights(Multipliers):
    """Loss of JointVQ."""

    idle = frozenset({"kl_divergence", "alignment_type"})

    reconstruction: Weight = 1.0
    """Of a platform from itself."""
    vq_loss: Weight = 1.0
    """Of the distance between encodings and codes."""
    latent_alignment: Weight = 1.0
    """Between the two platforms' codes."""
    cross_reconstruction: Weight = 1.0
    """Of a platform from the other."""


class VQConfig(Config):
    """Blocks of JointVQ."""

    model: VQModel = VQModel()
    loss_weights: VQWeights = VQWeights()


class CodeBlock(nn.Module):
    """A hidden layer beside an identity."""

    def __init__(self, width: int, style: Style) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        self.block = nn.Sequential(*style.normed(width, width), *style.bend())

    def forward(self, h: Tensor) -> Tensor:
        """Give [B, L] of [B, L]."""
        return h + self.block(h)  # type: ignore[no-any-return]


class CodeEncoder(nn.Module):
    """A platform's features [B, D] to encodings [B, L]."""

    def __init__(self, width: int, options: VQModel) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        style = Style.of(options)
        self.initial_projection = Chain(*style.normed(width, options.latent_dim), *style.bend())
        self.res_blocks = nn.Sequential(*(CodeBlock(options.latent_dim, style) for _ in range(options.num_res_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Give encodings."""
        encoded: Tensor = self.res_blocks(self.initial_projection(x))
        return encoded


class CodeDecoder(nn.Module):
    """Codes [B, L] to a platform's features [B, D]."""

    def __init__(self, width: int, options: VQModel) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__()
        style = Style.of(options)
        self.res_blocks = nn.Sequential(*(CodeBlock(options.latent_dim, style) for _ in range(options.num_res_blocks)))
        self.final_projection = Chain(nn.Linear(options.latent_dim, width))

    def forward(self, z: Tensor) -> Tensor:
        """Give features."""
        features: Tensor = self.final_projection(self.res_blocks(z))
        return features


class Codes(nn.Module):
    """The table `weight` [K, L] of codes that learn by their gradient."""

    def __init__(self, weight: Tensor) -> None:
        """Take the codes to start from."""
        super().__init__()
        self.weight = nn.Parameter(weight)


class Quantiser(nn.Module):
    """Replaces each of M equal parts of an encoding by the nearest of the K codes for that part.

    Codes are parameters; or, as moving averages, `sums` over `counts`. These average over clients like the encodings
    they are made of. `patience` counts down to the restart of a code: its highest value, which counts where clients
    are joined, is that of the client that used the code last.
    """

    counts: Tensor
    sums: Tensor
    patience: Tensor

    def __init__(self, options: VQModel) -> None:
        """Draw codes uniformly from -1/K to 1/K, from torch's current generator."""
        super().__init__()
        self.options, size = options, options.num_embeddings
        weight = torch.empty(size, options.latent_dim).uniform_(-1 / size, 1 / size)
        per_code = (options.num_codebooks, size)
        if options.codebook_update == "gradient":
            self.embedding = Codes(weight)
        else:
            self.register_buffer("counts", torch.ones(per_code))
            self.register_buffer("sums", self._parts(weight).clone())
        if options.restart_after:
            self.register_buffer("patience", torch.full(per_code, options.restart_after))

    @property
    def codes(self) -> Tensor:
        """The codes [M, K, L / M]."""
        if self.options.codebook_update == "gradient":
            return self._parts(self.embedding.weight)
        return self.sums / self.counts.unsqueeze(-1)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give codes [B, L] with the gradient of encodings [B, L], the loss [B], and the indices chosen [B, M]."""
        parts, codes = self._parts(h), self.codes
        chosen = torch.cdist(parts, codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
        # By index, whose gradient needs no codes: they may move before it is taken.
        nearest = codes[torch.arange(len(codes), device=h.device).unsqueeze(1), chosen].transpose(0, 1).flatten(1)
        pull = self.options.vq_beta * (h - nearest.detach()).square().sum(-1)
        loss = pull if self.options.codebook_update == "ema" else (nearest - h.detach()).square().sum(-1) + pull
        if self.training:
            self._maintain(parts.detach().to(codes.dtype), chosen)
        return h + (nearest - h).detach(), loss, chosen.T

    def _parts(self, values: Tensor) -> Tensor:
        """Cut [N, L] into [M, N, L / M]."""
        return values.view(len(values), self.options.num_codebooks, -1).transpose(0, 1)

    @torch.no_grad()
    def _maintain(self, parts: Tensor, chosen: Tensor) -> None:
        used = torch.zeros(len(parts), self.options.num_embeddings, device=parts.device)
        used.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=used.dtype))
        if self.options.codebook_update == "ema":
            self._follow(parts, chosen, used)
        if self.options.restart_after:
            self.patience.sub_(1).masked_fill_(used > 0, self.options.restart_after)
            self._restart(parts)

    def _follow(self, parts: Tensor, chosen: Tensor, used: Tensor) -> None:
        """Move averages towards the encodings of a batch; a code without use stays where it is."""
        keep, index = self.options.ema_decay, chosen.unsqueeze(-1).expand_as(parts)
        self.counts.mul_(keep).add_(used, alpha=1 - keep)
        self.sums.mul_(keep).add_(torch.zeros_like(self.sums).scatter_add_(1, index, parts), alpha=1 - keep)
        enough = self.counts.clamp(min=FEWEST)
        self.sums.mul_((enough / self.counts).unsqueeze(-1))
        self.counts.copy_(enough)

    def _restart(self, parts: Tensor) -> None:
        """Move codes that were long unused to encodings of the batch, drawn from torch's own generator."""
        book, code = (self.patience <= 0).nonzero(as_tuple=True)
        rows = parts[book, torch.randint(parts.shape[1], (len(book),), device=parts.device)]
        self.patience[book, code] = self.options.restart_after
        if self.options.codebook_update == "ema":
            self.counts[book, code], self.sums[book, code] = 1.0, rows
        else:
            self.codes[book, code] = rows


class VectorQuantisedVAE(CrossPlatformModel):
    """Two encoders and two decoders around one codebook."""

    model_type = "JointVQ"
    config: VQConfig

    def __init__(self, dims: Mapping[Platform, int], config: VQConfig) -> None:
        """Draw fresh weights from torch's current generator."""
        super().__init__(dims, config)
        for platform, width in dims.items():
            self.add_module(f"encoder_{platform}", CodeEncoder(width, config.model))
            self.add_module(f"decoder_{platform}", CodeDecoder(width, config.model))
        self.vq_layer = Quantiser(config.model)

    def outputs(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give `z`, `vq_loss` [B], `codes` [B, M] and `recon` of each platform; of both `cross` too."""
        outputs: Tensors = {}
        for platform, x in inputs.items():
            quantised = self.vq_layer(self.get_submodule(f"encoder_{platform}")(x))
            for name, value in zip(("z", "vq_loss", "codes"), quantised, strict=True):
                outputs[f"{name}_{platform}"] = value
        for name in ("recon", "cross") if len(inputs) > 1 else ("recon",):
            for platform in inputs:
                z = outputs[f"z_{platform if name == 'recon' else OTHER[platform]}"]
                outputs[f"{name}_{platform}"] = self.get_submodule(f"decoder_{platform}")(z)
        return outputs

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give reconstruction, quantisation and how many codes are in use; of both platforms the rest too."""
        terms = {
            "recon_loss": errors(outputs, targets, "recon"),
            "vq_loss": mean_over(targets, lambda platform: outputs[f"vq_loss_{platform}"].mean()),
            "perplexity": mean_over(targets, lambda platform: self._perplexity(outputs[f"codes_{platform}"])),
        }
        if len(targets) > 1:
            terms["align_loss"] = mse_loss(outputs["z_a"], outputs["z_b"])
            terms["cross_loss"] = errors(outputs, targets, "cross")
        return terms

    def _perplexity(self, codes: Tensor) -> Tensor:
        """Give the number of codes that are effectively in use within a batch, between 1 and K."""
        books = [column.bincount(minlength=self.config.model.num_embeddings) for column in codes.T]
        shares = torch.stack(books) / len(codes)
        used: Tensor = torch.special.entr(shares).sum(-1).exp().mean()
        return used

    def weights(self) -> dict[str, float]:
        """Give the weights of the four terms."""
        given = self.config.loss_weights
        quantisation = {"recon_loss": given.reconstruction, "vq_loss": given.vq_loss}
        return {**quantisation, "align_loss": given.latent_alignment, "cross_loss": given.cross_reconstruction}

    def encode(self, x: Tensor, platform: Platform) -> tuple[Tensor, Tensor]:
        """Give the code [B, L], and zeros for its log-variance."""
        code, _, _ = self.vq_layer(self.get_submodule(f"encoder_{platform}")(x))
        return code, torch.zeros_like(code)

    def predicted(
        self, x: Tensor, source: Platform, target: Platform, n_samples: int, generator: torch.Generator
    ) -> Tensor:
        """Decode the code."""
        features: Tensor = self.get_submodule(f"decoder_{target}")(self.encode(x, source)[0])
        return features
