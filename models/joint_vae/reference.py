"""Weights under the names of the reference implementation (skysky2333/cpiVAE) as weights of ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.errors import UserError
from models.joint_vae.diffusion import DiffusionDecoder

RENAMED = (
    (r"^model\.", ""),
    (r"^vae_([ab])\.(encoder|decoder)\.", r"\2_\1."),
    (r"^encoder_([ab])\.flows\.flows\.", r"flows_\1."),
    (r"\.linear\.(weight\w*|bias)$", r".\1"),
)
CONSTANT = re.compile(r"^prior_(mean|logvar)$|^decoder_[ab]\.(sqrt_\w+|alphas\w*)$")
"""What follows from the options or is zero."""
SCHEDULE = re.compile(r"^(decoder_[ab])\.betas$")


def load_reference_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load weights under the reference's names, or ours; nothing may be missing or left over.

    Raises:
        UserError: They do not fit; one line names the first key that does not.
    """
    given = {_renamed(name): value for name, value in state_dict.items()}
    _check_schedules(model, given)
    given = {name: value for name, value in given.items() if not (CONSTANT.match(name) or SCHEDULE.match(name))}
    expected = model.state_dict()
    remedy = "give weights of this model_type and these model options"
    for name, value in expected.items():
        if name not in given:
            raise UserError(f"state_dict: {name} is missing (shape {tuple(value.shape)}); {remedy}")
        if given[name].shape != value.shape:
            found = tuple(given[name].shape)
            raise UserError(f"state_dict: {name} has shape {found} instead of {tuple(value.shape)}; {remedy}")
    for name in given:
        if name not in expected:
            raise UserError(f"state_dict: {name} is in no layer of the model; {remedy}")
    model.load_state_dict(given)


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _check_schedules(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Refuse weights trained with another amount of noise per step."""
    for name, value in given.items():
        match = SCHEDULE.match(name)
        decoder = model.get_submodule(match[1]) if match and hasattr(model, match[1]) else None
        if not isinstance(decoder, DiffusionDecoder):
            continue
        if value.shape != decoder.betas.shape or not torch.allclose(value.to(decoder.betas), decoder.betas):
            raise UserError(
                f"state_dict: {name} is another schedule than that of the options; set model.decoder.n_timesteps "
                "and scale_betas as they were in training"
            )
