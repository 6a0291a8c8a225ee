"""Stored 3-D VGG weights: what loads, what is refused, and what the one-line refusals say."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from core.errors import UserError
from models.__main__ import app
from models.vgg3d import VGG3D, Features
from models.vgg3d_checkpoint import FIRST_CONVOLUTION, adapt_first_conv, load_features, read
from models.vgg3d_shape import VGG3DShape

SHAPE = VGG3DShape(fmaps=2, n_convolutions=(4, 2, 2, 2))
State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    """The state dict of a whole network of this shape, whose running statistics are not the fresh ones."""
    torch.manual_seed(3)
    network = VGG3D((16, 16, 16), SHAPE.fmaps, n_convolutions=SHAPE.n_convolutions)
    network.classifier[0] = network.classifier[3] = torch.nn.Identity()
    network.train()
    network(torch.rand(2, 1, 16, 16, 16), return_features=True)
    return network.state_dict()


def saved(content: object, folder: Path, name: str = "weights.checkpoint") -> Path:
    torch.save(content, folder / name)
    return folder / name


def loaded_state(path: Path, shape: VGG3DShape = SHAPE) -> State:
    network = Features(shape)
    load_features(network, read(path))
    return {f"features.{name}": value for name, value in network.state_dict().items()}


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrapped", ["bare", "training", "parallel", "half", "safetensors"])
def test_accepted_files_hold_the_same_features(state: State, tmp_path: Path, wrapped: str) -> None:
    optimizer = {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-4}]}
    if wrapped == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    else:
        content: Any = {
            "bare": state,
            "training": {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": optimizer},
            "parallel": {"model_state_dict": {f"module.{name}": value for name, value in state.items()}},
            "half": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        }[wrapped]
        path = saved(content, tmp_path)
    checkpoint = read(path)
    assert checkpoint.ignored == 2 and checkpoint.channels == 1
    assert checkpoint.widths == [[2, 2, 2, 2], [4, 4], [8, 8], [16, 16]]
    found = loaded_state(path)
    assert found.keys() == SHAPE.layout().keys()
    for name, value in found.items():
        expected = state[name].half().to(value.dtype) if wrapped == "half" else state[name]
        assert torch.equal(value, expected)


def test_every_tensor_is_reported(state: State, tmp_path: Path) -> None:
    report = load_features(Features(SHAPE), read(saved(state, tmp_path)))
    assert report.loaded == tuple(SHAPE.layout())
    assert report.missing == report.mismatching == report.unknown == ()


def test_another_width_is_refused_by_key_and_both_shapes(state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path)
    network = Features(VGG3DShape(fmaps=3, n_convolutions=SHAPE.n_convolutions))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    message = refusal(lambda: load_features(network, read(path)))
    assert message.startswith(f"{path}: features.0.weight has shape (2, 1, 3, 3, 3), the network needs (3, 1, 3, 3, 3)")
    assert "(10 fit, 0 missing, 60 of another shape, 0 unknown)" in message
    assert "n_convolutions (4, 2, 2, 2) with (2, 4, 8, 16) feature maps" in message
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_other_convolutions_are_refused(state: State, tmp_path: Path) -> None:
    message = refusal(lambda: loaded_state(saved(state, tmp_path), VGG3DShape(fmaps=2)))
    assert "n_convolutions (4, 2, 2, 2)" in message


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_incomplete_and_foreign_features_are_refused_unless_partial(state: State, tmp_path: Path, change: str) -> None:
    if change == "missing":
        del state["features.27.bias"]
    else:
        state["features.99.bias"] = torch.zeros(2)
    path = saved(state, tmp_path)
    message = refusal(lambda: loaded_state(path))
    assert ("features.27.bias is missing (shape (16,))" in message) == (change == "missing")
    assert ("features.99.bias is unknown to the network" in message) == (change == "unknown")
    assert message.endswith("give a complete checkpoint, or set allow_partial")
    network = Features(SHAPE)
    fresh = network.state_dict()["27.bias"].clone()
    report = load_features(network, read(path), allow_partial=True)
    assert report.missing == (("features.27.bias",) if change == "missing" else ())
    assert report.unknown == (("features.99.bias",) if change == "unknown" else ())
    assert torch.equal(network.state_dict()["0.weight"], state[FIRST_CONVOLUTION])
    if change == "missing":
        assert torch.equal(network.state_dict()["27.bias"], fresh)


def test_partial_still_needs_something_that_fits(state: State, tmp_path: Path) -> None:
    path = saved({FIRST_CONVOLUTION: state[FIRST_CONVOLUTION]}, tmp_path)
    network = Features(VGG3DShape(fmaps=5))
    refusal(lambda: load_features(network, read(path), allow_partial=True))


def test_another_number_of_channels_is_refused_or_adapted(state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path)
    shape = VGG3DShape(fmaps=2, n_convolutions=SHAPE.n_convolutions, input_fmaps=3)
    message = refusal(lambda: loaded_state(path, shape))
    assert "(2, 1, 3, 3, 3), the network needs (2, 3, 3, 3, 3)" in message
    assert message.endswith("set adapt_first_conv to use weights for 1 channels")
    wide, narrow = Features(shape), Features(SHAPE)
    load_features(wide, read(path), adapt_channels=True)
    load_features(narrow, read(path))
    volumes = torch.rand(2, 1, 16, 16, 16)
    wide.eval(), narrow.eval()
    torch.testing.assert_close(wide(volumes.expand(-1, 3, -1, -1, -1)), narrow(volumes))


def test_adapting_three_channels_to_one_sums_them() -> None:
    weight = torch.arange(6.0).reshape(2, 3, 1, 1, 1)
    assert adapt_first_conv(weight, 1).flatten().tolist() == [3.0, 12.0]
    assert adapt_first_conv(weight, 2).flatten().tolist() == [1.5, 1.5, 6.0, 6.0]


class Harmful:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model_state_dict": [1, 2]}, "neither model_state_dict nor a bare state dict"),
        ({0: torch.zeros(2)}, "neither model_state_dict nor a bare state dict"),
        ({"epoch": 3}, "neither model_state_dict nor a bare state dict"),
        ({"classifier.0.weight": torch.zeros(2, 2)}, "no features.0.weight"),
        ({FIRST_CONVOLUTION: torch.zeros(2, 1, 3, 3)}, "no features.0.weight of a 3-D convolution"),
        ({FIRST_CONVOLUTION: torch.full((2, 1, 3, 3, 3), torch.nan)}, "features.0.weight holds NaN"),
        (torch.zeros(3), "holds a Tensor instead of named weights"),
    ],
)
def test_files_that_are_no_checkpoint(content: object, said: str, tmp_path: Path) -> None:
    path = saved(content, tmp_path)
    message = refusal(lambda: read(path))
    assert message.startswith(f"{path}: ") and said in message


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.checkpoint"
    path.write_bytes(pickle.dumps({"model_state_dict": Harmful()}, protocol=2))
    refusal(lambda: read(path))
    assert "run" not in capsys.readouterr().out
    assert "no such file" in refusal(lambda: read(tmp_path / "absent.checkpoint"))


def test_the_command_shows_what_a_network_must_look_like(state: State, tmp_path: Path) -> None:
    path = saved({"model_state_dict": state}, tmp_path)
    shown = CliRunner().invoke(app, ["show", str(path)])
    assert shown.exit_code == 0
    values = sum(value.numel() for name, value in state.items() if name.startswith("features") and "_" not in name)
    assert shown.stdout.splitlines() == [
        f"{path}: 3-D VGG",
        "tensors: 70 of features, 2 others",
        f"parameters of features: {values:,}",
        "  input_fmaps: 1",
        "  fmaps: 2, 4, 8, 16",
        "  n_convolutions: 4, 2, 2, 2",
    ]
