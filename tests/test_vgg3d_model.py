"""The 3-D VGG and its adapter against recorded outputs of the published networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.vgg3d import VGG3D, Adapter, Features
from models.vgg3d_shape import CHROMATIN, LIBRARY, VGG3DShape
from tests.formula_weights import fill, formula_values
from training.parameters import training_mode

FIXTURES = Path(__file__).parent / "fixtures" / "vgg3d"
TINY = {"fmaps": 2, "n_convolutions": (4, 2, 2, 2)}


def recorded(name: str) -> dict[str, Any]:
    return torch.load(FIXTURES / name, weights_only=True)  # type: ignore[no-any-return]


def agree(found: Tensor, expected: Tensor | np.ndarray, tolerance: float = 1e-4) -> None:
    """Compare relative to the largest value."""
    expected = torch.as_tensor(expected)
    assert found.shape == expected.shape
    assert float((found.detach() - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.fixture(params=["vgg3d_tiny_cube.pt", "vgg3d_tiny_aniso.pt"])
def tiny(request: pytest.FixtureRequest) -> tuple[VGG3D, dict[str, Any]]:
    expected = recorded(request.param)
    network = VGG3D(**expected["config"], strict=expected["source"] == "funlib")
    fill(network)
    stored = expected["features_state_dict"]
    network.features.load_state_dict({name.removeprefix("features."): value for name, value in stored.items()})
    return network, expected


def test_formula_weights_start_as_stated() -> None:
    values = formula_values("classifier.0.weight", (4096, 24000)).ravel()[:3]
    np.testing.assert_allclose(values, [-0.005983, -0.0095425, 0.0099806], atol=5e-7)


def test_names_and_shapes_are_the_published_ones(tiny: tuple[VGG3D, dict[str, Any]]) -> None:
    network, expected = tiny
    state = network.state_dict()
    assert list(state) == expected["state_dict_keys"]
    assert [list(value.shape) for value in state.values()] == expected["state_dict_shapes"]
    features = {name: tuple(value.shape) for name, value in state.items() if name.startswith("features.")}
    assert network.features.shape.layout() == features


def test_outputs_in_evaluation(tiny: tuple[VGG3D, dict[str, Any]]) -> None:
    network, expected = tiny
    network.eval()
    features = network(expected["x"], return_features=True)
    agree(features, expected["features_eval"])
    assert features[0].numel() == expected["feature_size"]
    logits = network(expected["x"])
    agree(logits, expected["logits_eval"])
    agree(network.classify(features), expected["logits_eval"])
    assert float(cross_entropy(logits, expected["labels"]).detach()) == pytest.approx(
        expected["ce_loss_eval"], abs=1e-5
    )


def test_outputs_and_statistics_in_training(tiny: tuple[VGG3D, dict[str, Any]]) -> None:
    network, expected = tiny
    network.train()
    agree(network(expected["x"], return_features=True), expected["features_train"])
    buffers = dict(network.features.named_buffers())
    assert buffers.keys() == expected["bn_after_one_train_forward"].keys()
    for name, value in expected["bn_after_one_train_forward"].items():
        torch.testing.assert_close(buffers[name], value, rtol=0, atol=1e-5)


def test_the_full_network_by_its_formula_weights() -> None:
    expected = np.load(FIXTURES / "vgg3d_full_formula.npz")
    network = VGG3D.chromatin(output_classes=int(expected["output_classes"])).eval()
    fill(network)
    state = network.state_dict()
    assert list(state) == expected["keys"].tolist()
    assert ["x".join(map(str, value.shape)) for value in state.values()] == expected["shapes"].tolist()
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["n_params"] == 117_127_247
    features = sum(parameter.numel() for parameter in network.features.parameters())
    assert features == expected["n_feature_params"] == 2_009_160
    volume = torch.from_numpy(expected["volume"])[None, None] / 255
    with torch.inference_mode():
        maps = network(volume, return_features=True)
        assert tuple(maps.shape) == tuple(expected["features_shape"])
        agree(maps.flatten()[:256], expected["features_flat_first256"], 1e-3)
        assert float(maps.double().mean()) == pytest.approx(float(expected["features_mean"]), rel=1e-3)
        assert float(maps.double().norm()) == pytest.approx(float(expected["features_l2"]), rel=1e-3)
        agree(network.classify(maps), expected["logits"], 1e-3)
        cut = volume[:, :, 10:-10, 10:-10, 10:-10]
        assert tuple(cut.shape) == tuple(expected["margin10_input_shape"])
        maps = network(cut, return_features=True)
    assert tuple(maps.shape) == tuple(expected["margin10_features_shape"])
    assert CHROMATIN.feature_size((60, 60, 60)) == expected["margin10_feature_size"] == 5184
    agree(maps.flatten()[:256], expected["margin10_features_first256"], 1e-3)


def test_defaults_of_both_variants() -> None:
    library = VGG3D((16, 16, 16))
    assert library.features.shape == LIBRARY
    assert library.classifier[6].out_features == 6
    chromatin = VGG3D.chromatin((16, 16, 16))
    assert chromatin.features.shape == CHROMATIN
    assert chromatin.classifier[6].out_features == 7
    assert [(stage[0], stage[-1]) for stage in CHROMATIN.stages] == [(0, 12), (13, 19), (20, 26), (27, 33)]
    assert CHROMATIN.widths == (24, 48, 96, 192)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fmap_inc": (2, 2, 2)}, "equally long"),
        ({"n_convolutions": (2, 2, 2, 2, 2)}, "equally long"),
        ({"downsample_factors": ((2, 2, 2),)}, "equally long"),
        ({"n_convolutions": (2, 0, 2, 2)}, "n_convolutions: 0"),
        ({"downsample_factors": ((2, 2),) * 4}, "depth, height, width"),
        ({"input_size": (16, 16)}, "depth, height, width"),
        ({"input_size": (16, 16, 15)}, "too small"),
        ({"input_size": (16, 16, 24), "strict": True}, "not divisible"),
    ],
)
def test_arguments_that_make_no_network(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VGG3D(**{"input_size": (16, 16, 16), "fmaps": 1, **arguments})


def test_sizes_are_rounded_down_unless_strict() -> None:
    assert VGG3DShape(fmaps=1).output_size((16, 31, 33)) == (1, 1, 2)
    network = Features(VGG3DShape(fmaps=1)).eval()
    assert tuple(network(torch.zeros(1, 1, 16, 31, 33)).shape) == (1, 8, 1, 1, 2)


@pytest.fixture
def adapter() -> tuple[Adapter, dict[str, Any]]:
    expected = recorded("adapter_tiny.pt")
    network = Adapter(VGG3D(**expected["base_config"]), **expected["adapter"])
    network.load_state_dict(expected["state_dict"])
    network.features.requires_grad_(False)
    return network.eval(), expected


def test_adapter_outputs(adapter: tuple[Adapter, dict[str, Any]]) -> None:
    network, expected = adapter
    features = network(expected["x"], return_features=True)
    agree(features, expected["features"])
    assert features[0].numel() == expected["feature_size"]
    logits = network(expected["x"])
    agree(logits, expected["logits_eval"])
    assert float(cross_entropy(logits, expected["labels"]).detach()) == pytest.approx(
        expected["ce_loss_eval"], rel=1e-5
    )
    trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert trainable == expected["n_trainable_frozen"]


def test_one_step_of_adam_with_frozen_features(adapter: tuple[Adapter, dict[str, Any]]) -> None:
    network, expected = adapter
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], **expected["adam"])
    cross_entropy(network(expected["x"]), expected["labels"]).backward()
    optimizer.step()
    state = network.state_dict()
    for name, value in expected["classifier_after_one_adam_step_evalmode"].items():
        agree(state[name], value)
        assert not torch.equal(state[name], expected["state_dict"][name])
    for name in (name for name in state if name.startswith("features.")):
        assert torch.equal(state[name], expected["state_dict"][name])


def test_published_adapter_size() -> None:
    network = Adapter(Features(CHROMATIN), (60, 60, 60), 19)
    assert sum(parameter.numel() for parameter in network.classifier.parameters()) == 2_927_123


def test_building_an_adapter_leaves_the_features_alone_and_draws_kaiming_weights() -> None:
    base = VGG3D((16, 16, 16), **TINY)
    before = {name: value.clone() for name, value in base.features.state_dict().items()}
    torch.manual_seed(1)
    network = Adapter(base, (32, 32, 32), 3, classifier_size=400)
    assert all(torch.equal(value, before[name]) for name, value in network.features.state_dict().items())
    assert not any(bool(module.bias.any()) for module in network.classifier if isinstance(module, nn.Linear))
    for layer in (0, 3):
        weight = network.classifier[layer].weight
        assert float(weight.detach().std()) == pytest.approx((2 / weight.shape[1]) ** 0.5, rel=0.02)
    torch.manual_seed(1)
    again = Adapter(base, (32, 32, 32), 3, classifier_size=400)
    assert torch.equal(network.classifier[6].weight, again.classifier[6].weight)


@pytest.mark.parametrize(("count", "layers"), [(0, 3), (1, 2), (3, 2), (4, 1), (5, 1)])
def test_freezing_the_first_modules_of_the_classifier(count: int, layers: int) -> None:
    network = Adapter(Features(VGG3DShape(fmaps=1)), (16, 16, 16), 3, classifier_size=4)
    network.freeze_classifier(count)
    training_mode(network)
    linear = [module for module in network.classifier if isinstance(module, nn.Linear)]
    assert sum(module.weight.requires_grad for module in linear) == layers
    assert [network.classifier[place].training for place in (2, 5)] == [count < 3, count < 6]


@pytest.mark.parametrize("count", [-1, 6])
def test_the_output_layer_always_trains(count: int) -> None:
    network = Adapter(Features(VGG3DShape(fmaps=1)), (16, 16, 16), 3, classifier_size=4)
    with pytest.raises(ValueError, match=r"give 0 \.\.\. 5"):
        network.freeze_classifier(count)
