"""The configuration of generative_vae and its three kinds of decoder."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from models.joint_vae.options import Activation, GaussianConfig, Hidden, Rate, Weight, Weights, Widths
from models.joint_vae.sections import Section

ALIASES = {"ddpm": "diffusion", "made": "autoregressive"}


class EncoderOptions(Hidden):
    """Both encoders."""

    foreign: ClassVar[Mapping[str, str]] = {}

    hidden_dims: Widths = (512, 256, 128)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Non-linearity; leaky_relu has slope 0.2."""
    dropout_rate: Rate = 0.2
    """Share of activations dropped while training."""


class DiffusionOptions(Section):
    """Decoder by removal of noise in steps."""

    kind: Literal["diffusion"] = "diffusion"
    """What `decoder_type` says."""
    n_timesteps: int = Field(100, ge=2)
    """Steps T."""
    hidden_dim: PositiveInt = 256
    """Width of the network that tells the noise."""
    chains: PositiveInt = 20
    """Samples whose mean is the prediction, in evaluation and imputation."""
    posterior_variance: Literal["inverted", "correct"] = "inverted"
    """Of a step back: inverted as in the reference, or as in DDPM."""
    scale_betas: bool = False
    """Scale the noise added per step by 1000 / T, so that it has covered the data after T steps; unscaled, sampling
    starts from a distribution that the network never saw."""


class AutoregressiveOptions(Section):
    """Decoder by masked layers, one feature after the other."""

    kind: Literal["autoregressive"] = "autoregressive"
    """What `decoder_type` says."""
    hidden_dim: PositiveInt = 256
    """Units of each hidden layer."""
    n_layers: PositiveInt = 2
    """Hidden layers."""
    strict_masks: bool = False
    """Hide from each output its own feature, which the reference shows, and let the first output see the latent
    position by a direct path."""
    cross_loss: Literal["sampled", "teacher_forced"] = "sampled"
    """What cross-reconstruction compares: noisy samples, which give no gradient, or outputs that see the features
    before them, which train."""


class AdversarialOptions(Section):
    """Decoder with a discriminator of its own per platform."""

    kind: Literal["gan"] = "gan"
    """What `decoder_type` says."""
    hidden_layers: Widths = (128, 256)
    """Hidden widths of the generator."""
    discriminator_layers: Widths = (256,)
    """Hidden widths of the discriminator."""
    noise_dim: PositiveInt = 16
    """Random numbers beside the latent position."""
    activation: Activation = "leaky_relu"
    """Non-linearity of the generator."""
    batch_norm: bool = True
    """Batch normalisation in the generator."""


DecoderOptions = DiffusionOptions | AutoregressiveOptions | AdversarialOptions


class GenerativeModel(Section):
    """Architecture of generative_vae."""

    foreign: ClassVar[Mapping[str, str]] = {"model_type": ""}
    idle = frozenset(
        {"encoder_layers", "decoder_layers", "activation", "dropout_rate", "batch_norm", "use_residual_blocks"}
    )

    latent_dim: PositiveInt = 32
    """Width L of the latent space."""
    decoder_type: Literal["diffusion", "autoregressive", "gan"] = "diffusion"
    """diffusion (also ddpm), autoregressive (also made) or gan."""
    encoder: EncoderOptions = EncoderOptions()
    """Both encoders."""
    decoder: Annotated[DecoderOptions, Field(discriminator="kind")] = DiffusionOptions()
    """Options of the decoder that `decoder_type` names."""

    @model_validator(mode="before")
    @classmethod
    def _decoder_of_type(cls, given: Any) -> Any:
        """Write the kind of decoder into the decoder's own block."""
        if not isinstance(given, Mapping):
            return given
        kind = given.get("decoder_type", "diffusion")
        kind = ALIASES.get(kind, kind) if isinstance(kind, str) else kind
        block = given.get("decoder", {})
        told = block.get("kind", kind) if isinstance(block, Mapping) else kind
        if ALIASES.get(told, told) != kind:
            raise ValueError(f"decoder.kind has no effect beside decoder_type = {kind!r}; set decoder_type alone")
        block = {**block, "kind": kind} if isinstance(block, Mapping) else block
        return {**given, "decoder_type": kind, "decoder": block}


class GenerativeWeights(Weights):
    """Loss of generative_vae."""

    idle = frozenset({"alignment_type", "total_correlation"})

    reconstruction: Weight = 1.0
    """Of a platform from itself."""
    kl_divergence: Weight = 1.0
    """Of the posterior from the prior."""
    latent_alignment: Weight = 1.0
    """Between the two platforms' means."""
    cross_reconstruction: Weight = 1.0
    """Of a platform from the other."""
    adversarial: Weight = 0.01
    """Of the losses of generator and discriminator."""


class GenerativeConfig(GaussianConfig):
    """Blocks of generative_vae."""

    model: GenerativeModel = GenerativeModel()
    loss_weights: GenerativeWeights = GenerativeWeights()

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Only one decoder has an adversary."""
        return {"loss_weights.adversarial": (self.model.decoder_type != "gan", "set model.decoder_type: gan")}
