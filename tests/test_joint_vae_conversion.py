"""Weights of the reference and averaged weights: what loads, what is refused, and that loading changes no bit."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from models.joint_vae import build, load_reference_state_dict
from models.joint_vae.layers import SpectralLinear
from tests.joint_vae_cases import CASES, quietly, recorded, restored
from tests.refusals import refused

GAN = {"model": {"decoder_type": "gan", "latent_dim": 4}}
EMA = {"model": {"latent_dim": 4, "num_codebooks": 2, "codebook_update": "ema", "restart_after": 3}}


def averaged(states: list[dict[str, Tensor]], weights: list[float]) -> dict[str, Tensor]:
    """Average in float64, as the server does; whole numbers are those of the first."""
    mean = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            total = sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True))
            mean[name] = (total / sum(weights)).to(first.dtype)
        else:
            mean[name] = first.clone()
    return mean


def network_of(name: str) -> torch.nn.Module:
    if name in ("gan", "ema"):
        torch.manual_seed(0)
        return build("generative_vae" if name == "gan" else "JointVQ", 11, 9, GAN if name == "gan" else EMA)
    return restored(recorded(name))


@pytest.mark.parametrize("name", [*CASES, "gan", "ema"])
def test_the_average_of_equal_states_changes_no_bit(name: str) -> None:
    network = network_of(name).train()
    torch.manual_seed(1)
    network(torch.randn(8, 11), torch.randn(8, 9))["total_loss"].backward()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(averaged([before] * 3, [3.0, 5.0, 7.0]))
    after = network.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert value.dtype == after[key].dtype and torch.equal(value, after[key]), key
    whole = [key for key, value in after.items() if not value.is_floating_point()]
    assert all(key.endswith(("num_batches_tracked", "patience")) for key in whole)


def test_averaged_power_iterations_count_by_direction_not_by_length() -> None:
    torch.manual_seed(0)
    layers = [SpectralLinear(6, 5) for _ in range(3)]
    mean = averaged([layer.state_dict() for layer in layers], [1.0, 1.0, 1.0])
    assert abs(float(mean["weight_u"].norm()) - 1) > 0.01
    layer, unit = SpectralLinear(6, 5).eval(), SpectralLinear(6, 5).eval()
    layer.load_state_dict(mean)
    unit.load_state_dict({name: value / value.norm() if name[-1] in "uv" else value for name, value in mean.items()})
    torch.testing.assert_close(layer(torch.eye(6)), unit(torch.eye(6)))


@pytest.mark.parametrize("name", CASES)
def test_our_own_names_load_as_well(name: str) -> None:
    case = recorded(name)
    network = restored(case)
    again = quietly(case["model_type"], case["config"])
    load_reference_state_dict(again, network.state_dict())
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def refusal(name: str, change: Any, *parts: str, **options: Any) -> None:
    case = recorded(name)
    state = dict(case["state_dict"])
    change(state)
    config = {**case["config"], "model": {**case["config"]["model"], **options}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = build(case["model_type"], 11, 9, config)
    refused(lambda: load_reference_state_dict(network, state), *parts)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    key = "model.encoder_a.mean_layer.weight"
    refusal(
        "joint_vae_plain_mse", lambda state: state.pop(key), "encoder_a.mean_layer.weight is missing (shape (4, 12))"
    )
    refusal("joint_vae_plain_mse", lambda state: state.update({key: torch.zeros(4, 3)}), "has shape (4, 3) instead of")
    refusal(
        "joint_vae_plain_mse", lambda state: state.update({"model.head.bias": torch.zeros(1)}), "head.bias is in no"
    )
    refusal("mm_default", lambda state: None, "encoder_a", "missing", use_residual_blocks=False)


def test_a_leaking_masked_decoder_does_not_pass_for_a_strict_one() -> None:
    decoder = {"hidden_dim": 20, "n_layers": 2, "strict_masks": True}
    refusal("generative_autoregressive", lambda state: None, "decoder_a.latent_skip.weight is missing", decoder=decoder)


def test_a_diffusion_decoder_of_another_schedule_is_refused() -> None:
    decoder = {"n_timesteps": 8, "hidden_dim": 12, "scale_betas": True}
    refusal("generative_diffusion", lambda state: None, "decoder_a.betas is another schedule", decoder=decoder)
