"""The regressor against recorded outputs of torchvision's networks with the same weights, and loading of weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from core.errors import UserError
from models.image_regressor import ImageRegressor
from tests.formula_weights import fill

FIXTURES = Path(__file__).parent / "fixtures" / "image_expression"
PARAMETERS = {"resnet18": 11_202_162, "resnet50": 23_610_482}


def close(found: Tensor, expected: np.ndarray) -> None:
    """Compare to 1e-4 of the largest value."""
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("backbone", PARAMETERS)
def test_networks_are_the_recorded_ones(backbone: str) -> None:
    recorded = np.load(FIXTURES / f"{backbone}_formula.npz")
    network = ImageRegressor(str(recorded["backbone"]), recorded["target"].shape[1])
    state = network.state_dict()
    assert list(state) == recorded["keys"].tolist()
    assert ["x".join(map(str, value.shape)) for value in state.values()] == recorded["shapes"].tolist()
    assert sum(one.numel() for one in network.parameters()) == recorded["n_params"] == PARAMETERS[backbone]
    fill(network)
    network.eval()
    images, target = torch.tensor(recorded["x"]), torch.tensor(recorded["target"])
    with torch.inference_mode():
        close(network.encoder(images), recorded["features_eval"])
        predicted = network(images)
    close(predicted, recorded["y_eval"])
    assert float(mse_loss(predicted, target)) == pytest.approx(float(recorded["mse_eval"]), rel=1e-5)


def test_training_is_the_recorded_one() -> None:
    recorded = np.load(FIXTURES / "resnet18_formula.npz")
    network = ImageRegressor("resnet18", 50)
    fill(network)
    predicted = network.train()(torch.tensor(recorded["x"]))
    loss = mse_loss(predicted, torch.tensor(recorded["target"]))
    loss.backward()
    close(predicted, recorded["y_train"])
    assert loss.item() == pytest.approx(float(recorded["mse_train"]), rel=1e-5)
    state = network.state_dict(keep_vars=True)
    for name, norm in {"head.weight": "grad_head_weight_l2", "encoder.conv1.weight": "grad_conv1_l2"}.items():
        assert state[name].grad.norm().item() == pytest.approx(float(recorded[norm]), rel=1e-4)
    for buffer in ("running_mean", "running_var"):
        close(state[f"encoder.bn1.{buffer}"], recorded[f"bn1_{buffer}_after"])


def test_fresh_weights() -> None:
    torch.manual_seed(0)
    network = ImageRegressor("resnet18", 5)
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.bias is None and module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    bound = 512**-0.5
    assert network.head.weight.abs().max() <= bound and network.head.bias.abs().max() <= bound


def test_unknown_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match="backbone 'vit' is unknown; choose one of resnet18, resnet50, tiny_cnn"):
        ImageRegressor("vit", 5)


def test_the_tiny_network_takes_any_size() -> None:
    network = ImageRegressor("tiny_cnn", 7)
    for size in (8, 33, 48):
        assert network(torch.rand(2, 3, size, size)).shape == (2, 7)
    assert sum(one.numel() for one in network.parameters()) < 30_000


def test_original_units_come_with_the_data_not_with_the_weights() -> None:
    network = ImageRegressor("tiny_cnn", 2, mean=torch.tensor([1.0, -2.0]), deviation=torch.tensor([2.0, 0.5]))
    assert network.original_units(torch.tensor([[1.0, 2.0]])).tolist() == [[3.0, -1.0]]
    assert all(name.startswith(("encoder.", "head.")) for name in network.state_dict())


Store = Callable[..., Path]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Weights in torchvision's layout, its classification layer included."""
    network = ImageRegressor("resnet18", 1)
    fill(network)
    state = {name.removeprefix("encoder."): value for name, value in network.encoder.state_dict().items()}
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("way", ["bare", "wrapped", "safetensors", "own", "parallel", "without counters"])
def test_published_weights_load(published: dict[str, Tensor], tmp_path: Path, way: str) -> None:
    path = tmp_path / ("weights.safetensors" if way == "safetensors" else "weights.pth")
    if way == "safetensors":
        save_file(published, path)
    else:
        own = {f"encoder.{name}": value for name, value in published.items() if not name.startswith("fc.")}
        old = {name: value for name, value in published.items() if not name.endswith("num_batches_tracked")}
        stored = {
            "bare": published,
            "wrapped": {"state_dict": published, "epoch": 3},
            "own": {**own, "head.weight": torch.zeros(1, 512)},
            "parallel": {f"module.{name}": value for name, value in published.items()},
            "without counters": old,
        }
        torch.save(stored[way], path)
    network = ImageRegressor("resnet18", 3)
    head = network.head.weight.clone()
    network.load_encoder(path)
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, published[name])
    assert torch.equal(network.head.weight, head)


def test_weights_that_do_not_fit_are_refused(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    narrow = {**published, "layer1.0.conv1.weight": torch.zeros(32, 64, 3, 3)}
    lacking = {name: value for name, value in published.items() if not name.startswith("layer4.1")}
    cases: dict[str, tuple[str, object]] = {
        r"layer1.0.conv1.weight has shape \[32, 64, 3, 3\] instead of \[64, 64, 3, 3\]": ("resnet18", narrow),
        r"layer4.1.conv1.weight is missing, and 9 more": ("resnet18", lacking),
        r"layer5.weight is unknown": ("resnet18", {**published, "layer5.weight": torch.zeros(1)}),
        r"does not fit the encoder of backbone resnet50: layer1.0.conv3.weight is missing": ("resnet50", published),
        r"holds a list instead of named weights": ("resnet18", [1, 2]),
    }
    for message, (backbone, stored) in cases.items():
        torch.save(stored, path)
        with pytest.raises(UserError, match=message):
            ImageRegressor(backbone, 3).load_encoder(path)
    with pytest.raises(UserError, match=r"none.pth: no such file"):
        ImageRegressor("tiny_cnn", 3).load_encoder(tmp_path / "none.pth")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not a checkpoint"):
        ImageRegressor("tiny_cnn", 3).load_encoder(path)
    torch.save({"weights": print}, path)
    with pytest.raises(UserError, match="could run code"):
        ImageRegressor("tiny_cnn", 3).load_encoder(path)
