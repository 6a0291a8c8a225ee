"""The configuration of each model type: `model`, `loss_weights` and the part of `training` that its network needs.

Defaults are what the reference falls back to, else what it ships. Options that correct a fault of the reference are
off by default, so that weights and losses stay comparable; each says what it corrects.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.joint_vae.sections import Section

Activation = Literal["relu", "leaky_relu", "tanh", "elu", "gelu", "swish", "mish"]
Alignment = Literal["mse", "kl_divergence", "mmd", "mmd_median"]
Rate = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Widths = tuple[PositiveInt, ...]
BOUNDED = ("reconstruction", "kl_divergence")
"""Weights of the terms whose place a bound takes."""


class Hidden(Section):
    """What hidden layers look like."""

    foreign: ClassVar[Mapping[str, str]] = {"model_type": ""}

    activation: Activation = "leaky_relu"
    """Non-linearity; leaky_relu has slope 0.2."""
    dropout_rate: Rate = 0.15
    """Share of activations dropped while training."""
    batch_norm: bool = True
    """Batch normalisation behind each hidden layer."""


class Layers(Hidden):
    """Hidden layers around a latent space."""

    latent_dim: PositiveInt = 128
    """Width L of the latent space."""


class Stack(Layers):
    """Encoder and decoder by the widths of their hidden layers, without residual blocks."""

    idle = frozenset({"use_residual_blocks"})

    encoder_layers: Widths = (1024,)
    """Hidden widths of each encoder."""
    decoder_layers: Widths = (512,)
    """Hidden widths of each decoder."""


class Multipliers(Section):
    """What each term of the loss is multiplied by."""

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if not any(value for value in self.model_dump().values() if not isinstance(value, str)):
            raise ValueError("* = 0: without any weight nothing trains; raise one")
        return self


class Weights(Multipliers):
    """The four terms of a Gaussian VAE."""

    idle = frozenset({"alignment_type"})

    reconstruction: Weight = 0.9
    """Of a platform from itself."""
    kl_divergence: Weight = 0.00014
    """Of the posterior from the prior."""
    latent_alignment: Weight = 1.9
    """Between the two platforms' latent positions."""
    cross_reconstruction: Weight = 1.4
    """Of a platform from the other."""


class Training(Section):
    """What of `training` concerns the network; the rest is the trainer's."""

    foreign: ClassVar[Mapping[str, str]] = {
        "max_epochs": "federation.rounds",
        "learning_rate": "train.lr",
        "batch_size": "train.batch_size",
        "optimizer": "train.optimizer",
        "weight_decay": "train.optimizer",
        "momentum": "train.optimizer",
        "scheduler": "train.schedule",
        "scheduler_patience": "train.schedule",
        "scheduler_factor": "train.schedule",
        "min_lr": "train.schedule",
        "early_stopping_patience": "train.early_stopping",
        "gradient_clip_val": "train.clip_grad_norm",
        "gradient_clip_algorithm": "train.clip_grad_norm",
        "accumulate_grad_batches": "train.accumulate",
        "seed": "seed at the top",
    }
    idle = frozenset({"data_augmentation", "anneal_epochs"})


class Config(Section):
    """The three blocks of a model type."""

    model: Section
    """Architecture."""
    loss_weights: Section
    """Weights of the loss."""
    training: Training = Training()
    """Augmentation and warm-up."""


class GaussianConfig(Config):
    """Blocks of a Gaussian VAE."""

    loss_weights: Weights = Weights()


class JointVAEModel(Stack):
    """Architecture of joint_vae."""

    idle = frozenset()

    use_residual_blocks: bool = False
    """A shortcut beside each hidden layer."""


class JointVAEWeights(Weights):
    """Loss of joint_vae."""

    idle = frozenset()

    alignment_type: Alignment = "mse"
    """mse of the means, kl_divergence of A from B, mmd with bandwidth 1 (vanishes for wide latent spaces), or
    mmd_median, whose bandwidth follows the data (recommended over mmd)."""


class Augmentation(Section):
    """Noise on training batches."""

    enabled: bool = False
    """Add Gaussian noise to both platforms while training."""
    gaussian_noise_std: float = Field(0.01, ge=0)
    """Its deviation, in units of the scaled features."""
    target: Literal["noisy", "clean"] = "noisy"
    """What the outputs are compared with; clean makes it a denoising model, the reference compares with noisy."""

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Noise that is not added has no deviation."""
        return dict.fromkeys(("gaussian_noise_std", "target"), (not self.enabled, "set enabled: true"))


class JointVAETraining(Training):
    """What of `training` concerns joint_vae and JointMM."""

    idle = frozenset({"anneal_epochs"})

    data_augmentation: Augmentation = Augmentation()
    """Noise on training batches."""


class JointVAEConfig(GaussianConfig):
    """Blocks of joint_vae."""

    model: JointVAEModel = JointVAEModel()
    loss_weights: JointVAEWeights = JointVAEWeights()
    training: JointVAETraining = JointVAETraining()


class JointMMModel(JointVAEModel):
    """Architecture and objective of JointMM."""

    use_mmvae: bool = False
    """Compute the coherence term, where it has a weight, and the divergences of the posteriors."""
    objective: Literal["joint", "moe"] = "joint"
    """joint is the loss of joint_vae; moe the bound of a mixture-of-experts posterior in nats per sample, which takes
    the place of the terms for reconstruction, cross-reconstruction and divergence."""


class JointMMWeights(JointVAEWeights):
    """Loss of JointMM."""

    mmvae_coherence: Weight = 0.0
    """Of each platform from its own encoded prediction."""


class JointMMConfig(JointVAEConfig):
    """Blocks of JointMM."""

    model: JointMMModel = JointMMModel()
    loss_weights: JointMMWeights = JointMMWeights()

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Coherence is computed on request, and a bound has its terms' natural weights."""
        replaced = self.model.objective == "moe", "set model.objective: joint"
        return {
            "loss_weights.mmvae_coherence": (not self.model.use_mmvae, "set model.use_mmvae: true"),
            **dict.fromkeys((f"loss_weights.{name}" for name in ("cross_reconstruction", *BOUNDED)), replaced),
        }
