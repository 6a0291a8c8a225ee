"""Joint VAEs that predict one proteomics platform from another: eight types, built by name.

The types, their losses and their options follow the cpiVAE reference implementation (skysky2333/cpiVAE, BSD-2-Clause);
written anew.
"""

from collections.abc import Mapping
from typing import Any

from models.joint_vae.base import CrossPlatformModel
from models.joint_vae.generative import GenerativeVAE
from models.joint_vae.generative_options import GenerativeConfig
from models.joint_vae.iwae import IWAE, IWAEConfig
from models.joint_vae.joint import JointMM, JointVAE
from models.joint_vae.options import Config, JointMMConfig, JointVAEConfig
from models.joint_vae.plus import PlusConfig, PlusVAE
from models.joint_vae.quantised import VectorQuantisedVAE, VQConfig
from models.joint_vae.reference import load_reference_state_dict
from models.joint_vae.sections import choose
from models.joint_vae.unet import DirectMapping, UNetConfig
from models.joint_vae.vampprior import VampPriorConfig, VampPriorVAE

__all__ = ["CONFIGS", "TYPES", "build", "load_reference_state_dict"]

TYPES: Mapping[str, type[CrossPlatformModel]] = {
    kind.model_type: kind
    for kind in (
        JointVAE,
        JointMM,
        VampPriorVAE,
        IWAE,
        PlusVAE,
        VectorQuantisedVAE,
        DirectMapping,
        GenerativeVAE,
    )
}
CONFIGS: Mapping[str, type[Config]] = {
    "joint_vae": JointVAEConfig,
    "JointMM": JointMMConfig,
    "JointVAEVampPrior": VampPriorConfig,
    "JointIWAE": IWAEConfig,
    "joint_vae_plus": PlusConfig,
    "JointVQ": VQConfig,
    "res_unet": UNetConfig,
    "generative_vae": GenerativeConfig,
}


def build(
    model_type: str, input_dim_a: int, input_dim_b: int, config: Mapping[str, Any] | Config
) -> CrossPlatformModel:
    """Build a network with fresh weights from torch's current generator.

    Args:
        model_type: One of `TYPES`.
        input_dim_a: Features of platform A.
        input_dim_b: Features of platform B.
        config: The blocks `model`, `loss_weights` and `training` of a YAML file, or checked options of the type.

    Raises:
        UserError: The type, a key or a value is not known or does not suit; one line says which.
    """
    if model_type not in TYPES:
        raise choose("model.model_type", model_type, TYPES)
    section = CONFIGS[model_type]
    options = config if isinstance(config, section) else section.checked(config)
    return TYPES[model_type]({"a": input_dim_a, "b": input_dim_b}, options)
