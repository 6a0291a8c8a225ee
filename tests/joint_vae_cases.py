"""Recorded passes of the reference's joint VAEs, and networks that start from the recorded weights."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.joint_vae import build, load_reference_state_dict
from models.joint_vae.base import CrossPlatformModel
from models.joint_vae.reference import _renamed

FIXTURES = Path(__file__).parent / "fixtures" / "joint_vae"
CASES = sorted(path.stem for path in FIXTURES.glob("*.pt") if path.stem != "units")
GENERATIVE = [name for name in CASES if name.startswith("generative")]
OTHERS = [name for name in CASES if name not in GENERATIVE]


def recorded(name: str) -> dict[str, Any]:
    return torch.load(FIXTURES / f"{name}.pt", weights_only=True)  # type: ignore[no-any-return]


def quietly(model_type: str, config: Mapping[str, Any], widths: tuple[int, int] = (11, 9)) -> CrossPlatformModel:
    """Build a network without the warnings of keys that its type has no use for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(model_type, *widths, config)


def restored(case: Mapping[str, Any], **model_options: Any) -> CrossPlatformModel:
    """Build a recorded network with its weights and without dropout, as all passes were recorded."""
    config = {**case["config"], "model": {**case["config"]["model"], **model_options}}
    network = quietly(case["model_type"], config, (case["input_dim_a"], case["input_dim_b"]))
    load_reference_state_dict(network, case["state_dict"])
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    if "training_step_count" in case:
        network.advance(0, case["training_step_count"], evaluation=True)
    return network


def ours(name: str) -> str:
    """Give our name of a weight of the reference."""
    return _renamed(name)


def worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor | float]) -> float:
    """Compare all recorded values with ours of the same name; give the largest difference."""
    differences = [0.0]
    for name, value in expected.items():
        value = torch.as_tensor(value)
        assert found[name].shape == value.shape, name
        differences.append(float((found[name] - value).detach().abs().max()))
    return max(differences)
