"""JointVAEVampPrior: a prior made of pseudo-inputs, a cycle term, and a slow start of the divergence."""

from collections.abc import Mapping

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from models.joint_vae.base import OTHER, Inputs, Platform, Tensors, errors, evaluating
from models.joint_vae.gaussian import GaussianVAE
from models.joint_vae.gaussians import limited, log_mixture, log_normal
from models.joint_vae.noise import Noise
from models.joint_vae.options import GaussianConfig, Stack, Training, Weight, Weights


class VampPriorModel(Stack):
    """Architecture of JointVAEVampPrior."""

    use_vampprior: bool = False
    """A mixture of the posteriors of pseudo-inputs as prior; its divergence is a sum over the latent space."""
    num_pseudoinputs: PositiveInt = 500
    """Pseudo-inputs of each platform."""
    train_pseudoinputs: bool = False
    """Let pseudo-inputs learn; in the reference they never move from their random start."""

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Pseudo-inputs make the prior on request."""
        given = not self.use_vampprior, "set use_vampprior: true"
        return dict.fromkeys(("num_pseudoinputs", "train_pseudoinputs"), given)


class VampPriorWeights(Weights):
    """Loss of JointVAEVampPrior."""

    cyclic: Weight = 0.0
    """Of a platform from the prediction made of it."""


class VampPriorTraining(Training):
    """What of `training` concerns JointVAEVampPrior."""

    idle = frozenset({"data_augmentation"})

    anneal_epochs: PositiveInt = 100
    """Epochs, counted over the whole run, in which the weight of the divergence grows from 0 to its full value."""


class VampPriorConfig(GaussianConfig):
    """Blocks of JointVAEVampPrior."""

    model: VampPriorModel = VampPriorModel()
    loss_weights: VampPriorWeights = VampPriorWeights()
    training: VampPriorTraining = VampPriorTraining()


class VampPriorVAE(GaussianVAE):
    """The prior may be the mixture of the posteriors of learned pseudo-inputs (Tomczak and Welling 2018)."""

    model_type = "JointVAEVampPrior"
    config: VampPriorConfig
    logvar_limit = 10.0

    def __init__(self, dims: Mapping[Platform, int], config: VampPriorConfig) -> None:
        """Draw fresh weights and pseudo-inputs from torch's current generator."""
        super().__init__(dims, config)
        if config.model.use_vampprior:
            for platform, width in dims.items():
                rows = nn.Parameter(torch.randn(config.model.num_pseudoinputs, width))
                rows.requires_grad_(config.model.train_pseudoinputs)
                self.register_parameter(f"pseudoinputs_{platform}", rows)

    def outputs(self, inputs: Inputs, noise: Noise) -> Tensors:
        """Give those of a Gaussian VAE, and of both platforms `cyclic`: each from the prediction made of it."""
        outputs = super().outputs(inputs, noise)
        platforms: tuple[Platform, ...] = ("a", "b") if len(inputs) > 1 else ()
        for platform in platforms:
            other = OTHER[platform]
            z = self.again(outputs[f"cross_{other}"], other, noise, "eps_cycle")
            outputs[f"cyclic_{platform}"] = self.decode(z, platform)
        return outputs

    def terms(self, outputs: Mapping[str, Tensor], targets: Inputs) -> Tensors:
        """Give those of a Gaussian VAE, the cycle term, and the weight that the divergence has now."""
        terms = super().terms(outputs, targets)
        if len(targets) > 1:
            terms["cyclic_loss"] = errors(outputs, targets, "cyclic")
        terms["current_kl_weight"] = terms["kl_loss"].new_tensor(self.weights()["kl_loss"])
        return terms

    @property
    def estimated(self) -> frozenset[str]:
        """The divergence from a mixture, which has no closed form."""
        return frozenset({"kl_loss"} if self.config.model.use_vampprior else ())

    def weights(self) -> dict[str, float]:
        """Give those of a Gaussian VAE, that of the divergence as far as it has grown, and that of the cycle."""
        weights = super().weights()
        if self.annealed and self.epoch is not None:
            weights["kl_loss"] *= min(1.0, self.epoch / self.config.training.anneal_epochs)
        return {**weights, "cyclic_loss": self.config.loss_weights.cyclic}

    def divergence(self, outputs: Mapping[str, Tensor], platform: Platform) -> Tensor:
        """Give the divergence from the standard prior, or from pseudo-inputs: then in nats, summed over the latent."""
        if not self.config.model.use_vampprior:
            return super().divergence(outputs, platform)
        z, mean = outputs[f"z_{platform}"], outputs[f"mean_{platform}"]
        own = log_normal(z, mean, limited(outputs[f"logvar_{platform}"], self.logvar_limit)).sum(-1)
        return (own - self._log_prior(z, platform)).mean()

    def _log_prior(self, z: Tensor, platform: Platform) -> Tensor:
        rows = self.get_parameter(f"pseudoinputs_{platform}")
        with evaluating(self.get_submodule(f"encoder_{platform}")), torch.set_grad_enabled(self._through_rows):
            means, logvars = self.encode(rows, platform)
        return log_mixture(z, means, limited(logvars, self.logvar_limit))

    @property
    def _through_rows(self) -> bool:
        return torch.is_grad_enabled() and self.config.model.train_pseudoinputs

    def platform_parameters(self, platform: Platform) -> tuple[str, ...]:
        """Give those of a Gaussian VAE, and the pseudo-inputs."""
        return (*super().platform_parameters(platform), f"pseudoinputs_{platform}")
