"""The attention U-Net against recorded outputs of the published network, and what loads into it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d
from typer.testing import CliRunner

from models.__main__ import app
from models.attention_unet import AttentionUNet
from models.attention_unet_checkpoint import load_weights, read
from models.padding import pad_to
from models.segmentation_loss import BceDice
from tests.formula_weights import fill
from tests.refusals import refused

FIXTURES = Path(__file__).parent / "fixtures" / "attention_unet"
TINY = (4, 8, 16, 32, 64)
BEFORE_A_NORM = ("W_g.0.bias", "W_x.0.bias", "psi.0.bias")
Recorded = dict[str, Any]


def agree(found: Tensor, expected: Tensor | np.ndarray, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=0, atol=tolerance)


def feeds_a_norm(name: str) -> bool:
    """Tell whether a bias has no gradient but rounding, since a norm takes it away again."""
    in_block = name.startswith(("enc", "dec", "bridge")) and name.endswith((".0.bias", ".3.bias"))
    return in_block or name.endswith(BEFORE_A_NORM)


@pytest.fixture(params=[2, 3])
def tiny(request: pytest.FixtureRequest) -> tuple[AttentionUNet, Recorded]:
    path = FIXTURES / f"unet_tiny_{request.param}ch.pt"
    expected = torch.load(path, weights_only=True)
    network = AttentionUNet(request.param, expected["widths"])
    network.load_state_dict(expected["state_dict"])
    assert list(network.state_dict()) == list(expected["state_dict"])
    return network.eval(), expected


def test_logits_and_probabilities_in_evaluation(tiny: tuple[AttentionUNet, Recorded]) -> None:
    network, expected = tiny
    agree(network(expected["x"]), expected["eval_logits"])
    agree(network.predict_proba(expected["x"]), expected["eval_probs"])
    total, _ = BceDice().from_logits(network(expected["x"]), expected["y"])
    assert float(total.detach()) == pytest.approx(expected["eval_loss"], abs=1e-6)


@pytest.mark.parametrize("level", [1, 4])
def test_attention_maps(tiny: tuple[AttentionUNet, Recorded], level: int) -> None:
    network, expected = tiny
    maps: list[Tensor] = []
    getattr(network, f"att{level}").psi.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    network(expected["x"])
    agree(maps[0], expected[f"att{level}_psi"])


def test_sizes_that_sixteen_does_not_divide(tiny: tuple[AttentionUNet, Recorded]) -> None:
    network, expected = tiny
    images = expected["x_odd"]
    agree(network.native_logits(images), expected["odd_logits_native"])
    agree(network.native_logits(images).sigmoid(), expected["odd_probs_native"])
    height, width = images.shape[-2:]
    mirrored = np.pad(images, [(0, 0), (0, 0), (0, -height % 16), (0, -width % 16)], mode="reflect")
    agree(network(images), network(torch.from_numpy(mirrored))[..., :height, :width].detach(), 1e-6)
    network.resize_output = True
    agree(network.predict_proba(images), expected["odd_probs_resized"])
    agree(network(expected["x"]), expected["eval_logits"])


def test_training_step(tiny: tuple[AttentionUNet, Recorded]) -> None:
    network, expected = tiny
    optimizer = torch.optim.AdamW(network.parameters(), **expected["adamw"])
    logits = network.train()(expected["x"])
    agree(logits, expected["train_logits"], 1e-4)
    agree(logits.sigmoid(), expected["train_probs"])
    total, parts = BceDice(dice_weight=0.5).from_logits(logits, expected["y"])
    for found, name in ((total, "loss"), (parts["bce"], "bce"), (parts["dice"], "dice")):
        assert float(found.detach()) == pytest.approx(expected[f"train_{name}"], abs=1e-6)
    total.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, value in expected["grads"].items():
        agree(gradients[name], value, 1e-6)
    assert gradients.keys() == expected["grad_l2"].keys()
    for name, length in expected["grad_l2"].items():
        assert float(gradients[name].norm()) == pytest.approx(length, abs=1e-6), name
    optimizer.step()
    state = network.state_dict()
    assert state.keys() == expected["state_after_step"].keys()
    for name, value in expected["state_after_step"].items():
        if not feeds_a_norm(name):
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(("channels", "parameters"), [(2, 31_394_477), (3, 31_395_053)])
def test_the_published_size_by_its_formula_weights(channels: int, parameters: int) -> None:
    expected = np.load(FIXTURES / f"unet_full_formula_{channels}ch.npz")
    network = AttentionUNet(channels).eval()
    fill(network)
    state = network.state_dict()
    assert list(state) == expected["keys"].tolist()
    assert ["x".join(map(str, value.shape)) for value in state.values()] == expected["shapes"].tolist()
    assert sum(value.numel() for value in network.parameters()) == expected["n_params"] == parameters
    for name, first in zip(expected["probe_key"], expected["probe_first5"], strict=True):
        agree(state[name].flatten().repeat(5)[:5] if state[name].numel() < 5 else state[name].flatten()[:5], first)
    with torch.inference_mode():
        images = torch.from_numpy(expected["x"])
        agree(network(images), expected["eval_logits"], 1e-4)
        agree(network.predict_proba(images), expected["eval_probs"], 1e-5)


@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
def test_every_norm_trains_and_names_its_tensors_alike(norm: Any) -> None:
    torch.manual_seed(0)
    network = AttentionUNet(2, TINY, norm)
    plain = {name for name in AttentionUNet(2, TINY).state_dict() if name.endswith((".weight", ".bias"))}
    assert {name for name, _ in network.named_parameters()} == plain
    assert bool(list(network.buffers())) == (norm == "batch")
    images, target = torch.rand(2, 2, 32, 48), (torch.rand(2, 1, 32, 48) > 0.5).float()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        total, _ = BceDice().from_logits(network(images), target)
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < losses[0] - 0.01


def test_instance_norm_treats_each_image_for_itself_and_batch_norm_does_not() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 2, 32, 32)
    for norm in ("group", "instance"):
        network = AttentionUNet(2, TINY, norm)  # type: ignore[arg-type]
        agree(network(images)[:1], network(images[:1]).detach(), 1e-4)
    network = AttentionUNet(2, TINY)
    assert float((network(images)[:1] - network(images[:1])).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (5, 33), (1, 1)])
def test_any_size_comes_back(size: tuple[int, int]) -> None:
    network = AttentionUNet(2, TINY).eval()
    assert network(torch.rand(2, 2, *size)).shape == (2, 1, *size)


def test_probabilities_that_are_certain_have_finite_logits() -> None:
    network = AttentionUNet(2, TINY, resize_output=True).eval()
    torch.nn.init.constant_(network.final[0].bias, 500.0)
    images = torch.rand(1, 2, 20, 20)
    assert bool(network(images).isfinite().all()) and float(network.predict_proba(images).detach().min()) > 0.99


def test_padding_mirrors_what_it_can_and_adds_zeros_else() -> None:
    image = torch.arange(6.0).reshape(1, 2, 3)
    assert pad_to(image, 2, 5)[0].tolist() == [[0, 1, 2, 1, 0], [3, 4, 5, 4, 3]]
    assert pad_to(image, 3, 6)[0].tolist() == [[0, 1, 2, 0, 0, 0], [3, 4, 5, 0, 0, 0], [0, 1, 2, 0, 0, 0]]
    assert torch.equal(pad_to(image, 1, 1), image)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"widths": (4, 8, 16, 32)}, ("widths: [4, 8, 16, 32] must be five positive numbers",)),
        ({"widths": ()}, ("widths: [] must be five positive numbers",)),
        ({"widths": (4, 8, 0, 32, 64)}, ("widths: [4, 8, 0, 32, 64] must be five positive numbers",)),
        ({"in_channels": 0}, ("in_channels: 0",)),
        ({"norm": "layer"}, ("norm: 'layer'", "batch, group, instance")),
    ],
)
def test_arguments_that_make_no_network(arguments: dict[str, Any], parts: tuple[str, ...]) -> None:
    refused(lambda: AttentionUNet(**{"widths": TINY, **arguments}), *parts)


def test_resizing_needs_something_to_resize() -> None:
    network = AttentionUNet(2, TINY, resize_output=True).eval()
    refused(lambda: network(torch.rand(1, 2, 15, 40)), "resize_output: an image of 15 x 40 pixels is too small", "16")


def test_one_pixel_by_hand() -> None:
    """The gate weighs the skip by a sigmoid: with zero weights and a bias of psi's norm, by one number everywhere."""
    gate = AttentionUNet(1, (1, 1, 1, 1, 1)).eval().att1
    for parameter in gate.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(gate.psi[1].bias, np.log(3))
    skip = torch.rand(1, 1, 2, 2)
    agree(gate(torch.rand(1, 1, 4, 4), skip), conv2d(skip, torch.full((1, 1, 1, 1), 0.75)))


# Stored weights


def stored(state: dict[str, Tensor], folder: Path, form: str) -> Path:
    path = folder / ("best_model.safetensors" if form == "safetensors" else "best_model.pth")
    if form == "safetensors":
        save_file(state, path)
        return path
    content: Any = {
        "bare": state,
        "parallel": {f"module.{name}": value for name, value in state.items()},
        "wrapped": {"epoch": 3, "model_state_dict": state},
        "half": {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        "without counters": {name: value for name, value in state.items() if not name.endswith("tracked")},
    }[form]
    torch.save(content, path)
    return path


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    network = AttentionUNet(2, TINY)
    network(torch.rand(2, 2, 32, 32))
    return network.state_dict()


@pytest.mark.parametrize("form", ["bare", "parallel", "wrapped", "half", "safetensors", "without counters"])
def test_accepted_files(state: dict[str, Tensor], tmp_path: Path, form: str) -> None:
    checkpoint = read(stored(state, tmp_path, form))
    assert (checkpoint.channels, checkpoint.widths, checkpoint.norm) == (2, list(TINY), "batch")
    network = AttentionUNet(2, TINY)
    load_weights(network, checkpoint)
    for name, value in network.state_dict().items():
        if form == "half" and value.is_floating_point():
            assert torch.equal(value, state[name].half().float())
        elif not (form == "without counters" and name.endswith("tracked")):
            assert torch.equal(value, state[name])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"in_channels": 3}, "enc1.0.weight has shape (4, 2, 3, 3), the network needs (4, 3, 3, 3) (0 missing, 1 of"),
        ({"widths": (4, 8, 16, 32, 65)}, "bridge.0.weight has shape (64, 32, 3, 3), the network needs (65, 32, 3, 3)"),
        ({"norm": "group"}, "enc1.1.running_mean is unknown to the network"),
    ],
)
def test_a_file_of_another_network_is_refused_whole(
    state: dict[str, Tensor], tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    path = stored(state, tmp_path, "bare")
    network = AttentionUNet(**{"in_channels": 2, "widths": TINY, **arguments})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    line = refused(lambda: load_weights(network, read(path)), said)
    assert line.startswith(f"{path}: ")
    assert "the file has in_channels 2, widths [4, 8, 16, 32, 64], norm batch: build the network like this" in line
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_incomplete_foreign_and_damaged_files_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    def attempt(content: dict[str, Tensor]) -> None:
        load_weights(AttentionUNet(2, TINY), read(stored(content, tmp_path, "bare")))

    def without(*names: str) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name not in names}

    refused(lambda: attempt(without("dec2.3.bias")), "best_model.pth: dec2.3.bias is missing (1 missing, 0 of")
    refused(lambda: attempt({**state, "extra.bias": torch.zeros(1)}), "extra.bias is unknown to the network (0 missing")
    refused(lambda: attempt(without("att4.W_g.0.weight")), "no att4.W_g.0.weight of a 2-D convolution in it")
    refused(lambda: attempt({"features.0.weight": torch.zeros(1)}), "no enc1.0.weight", "of an attention U-Net")
    refused(lambda: attempt({**state, "final.0.bias": torch.tensor([torch.nan])}), "final.0.bias holds NaN")
    refused(lambda: read(tmp_path / "absent.pth"), "absent.pth: no such file")


def test_the_command_shows_what_a_network_must_look_like(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = stored(state, tmp_path, "parallel")
    shown = CliRunner().invoke(app, ["show", str(path)])
    assert shown.exit_code == 0
    values = sum(value.numel() for value in AttentionUNet(2, TINY).parameters())
    assert shown.stdout.splitlines() == [
        f"{path}: attention U-Net",
        "tensors: 220",
        f"parameters: {values:,}",
        "  in_channels: 2",
        "  widths: 4, 8, 16, 32, 64",
        "  norm: batch",
    ]
