"""What all joint VAEs share: seeds, noise, schedules, one platform alone, imputation, latent space, platforms."""

from fnmatch import fnmatch
from typing import Any

import pytest
import torch
from torch import Tensor

from models.joint_vae import TYPES, build
from models.joint_vae.base import CrossPlatformModel
from tests.joint_vae_cases import quietly, recorded, restored, worst
from tests.refusals import refused

SMALL: dict[str, dict[str, Any]] = {
    "joint_vae": {"latent_dim": 3, "encoder_layers": [8], "decoder_layers": [8]},
    "JointMM": {"latent_dim": 3, "encoder_layers": [8], "decoder_layers": [8], "use_mmvae": True},
    "JointVAEVampPrior": {"latent_dim": 3, "encoder_layers": [8], "decoder_layers": [8], "use_vampprior": True},
    "JointIWAE": {"latent_dim": 3, "encoder_layers": [8], "decoder_layers": [8], "k_samples": 2},
    "joint_vae_plus": {"latent_dim": 3, "encoder_layers": [8], "decoder_layers": [8], "num_flows": 2},
    "JointVQ": {"latent_dim": 4, "num_embeddings": 6, "num_res_blocks": 1},
    "res_unet": {"encoder_layers": [8, 6], "bottleneck_dim": 4},
    "diffusion": {"decoder_type": "diffusion", "latent_dim": 3, "decoder": {"n_timesteps": 4, "chains": 3}},
    "autoregressive": {"decoder_type": "autoregressive", "latent_dim": 3},
    "gan": {"decoder_type": "gan", "latent_dim": 3},
}
WITH_LATENT = [name for name in SMALL if name != "res_unet"]


def small(name: str, **options: Any) -> CrossPlatformModel:
    torch.manual_seed(5)
    model_type = name if name in TYPES else "generative_vae"
    return quietly(model_type, {"model": {**SMALL[name], **options}}, (7, 5))


def pairs(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(count, 7, generator=generator), torch.randn(count, 5, generator=generator)


def test_all_types_are_tried() -> None:
    assert {name if name in TYPES else "generative_vae" for name in SMALL} == set(TYPES)


@pytest.mark.parametrize("name", list(SMALL))
def test_the_same_seed_gives_the_same_weights_and_the_same_training_pass(name: str) -> None:
    one, other = small(name).train(), small(name).train()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    losses = []
    for network in (one, other):
        torch.manual_seed(3)
        losses.append(network(*pairs())["total_loss"])
    assert torch.equal(*losses)
    assert losses[0].dim() == 0 and bool(losses[0].isfinite())


@pytest.mark.parametrize("name", list(SMALL))
def test_evaluation_draws_nothing_from_the_global_generator(name: str) -> None:
    network = small(name).eval()
    state = torch.get_rng_state()
    first = network(*pairs())
    second = network(*pairs())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert {"cross_a", "cross_b", "total_loss"} <= first.keys()
    assert all(value.dim() == 0 for key, value in first.items() if key.endswith("_loss"))


@pytest.mark.parametrize("name", list(SMALL))
def test_half_precision_runs_and_stays_near(name: str) -> None:
    options = {"codebook_update": "ema", "restart_after": 1} if name == "JointVQ" else {}
    network = small(name, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network.train()(*pairs())["total_loss"]
    loss.backward()
    assert loss.dtype is torch.float32 and bool(loss.isfinite())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network.eval()(*pairs())["total_loss"]
    full = network(*pairs())["total_loss"]
    torch.testing.assert_close(half, full, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", WITH_LATENT)
def test_one_platform_alone_trains_its_own_part_only(name: str) -> None:
    network = small(name).train()
    found = network.single(pairs()[0], "a")
    assert not {"cross_loss", "align_loss", "recon_b"} & found.keys()
    found["total_loss"].backward()
    foreign = network.platform_parameters("b")
    for key, weight in network.named_parameters():
        if any(fnmatch(key, pattern) for pattern in foreign):
            assert weight.grad is None, key
    trained = [key for key, weight in network.named_parameters() if weight.grad is not None]
    assert any(key.startswith("encoder_a") for key in trained) and any(key.startswith("decoder_a") for key in trained)


@pytest.mark.parametrize("name", WITH_LATENT)
def test_platform_parameters_split_the_network(name: str) -> None:
    network = small(name)
    own, other = (network.platform_parameters(platform) for platform in ("a", "b"))
    for key, _ in network.named_parameters():
        serves = [any(fnmatch(key, pattern) for pattern in patterns) for patterns in (own, other)]
        shared = key.startswith("vq_layer")
        assert sum(serves) == (0 if shared else 1), key


def test_one_platform_alone_weighs_as_in_a_pair() -> None:
    case = recorded("joint_vae_plain_mse")
    network = restored(case).eval()
    both = network(case["x_a"], case["x_b"])
    one, other = network.single(case["x_a"], "a"), network.single(case["x_b"], "b")
    torch.testing.assert_close((one["recon_loss"] + other["recon_loss"]) / 2, both["recon_loss"])
    torch.testing.assert_close((one["kl_loss"] + other["kl_loss"]) / 2, both["kl_loss"])
    torch.testing.assert_close(one["total_loss"], 0.9 * one["recon_loss"] + 0.1 * one["kl_loss"])


def test_a_direct_mapping_refuses_what_it_cannot_do() -> None:
    network = small("res_unet")
    refused(lambda: network.single(pairs()[0], "a"), "'res_unet'", "both platforms", "platform a")
    refused(lambda: network.latent(pairs()[0], "a"), "'res_unet'", "no latent space")
    refused(lambda: network.impute(pairs()[0], "a", "c"), "platform = 'c'", "a or b")


@pytest.mark.parametrize("name", list(SMALL))
def test_imputation_has_the_width_of_its_target_and_is_repeatable(name: str) -> None:
    network = small(name).train()
    for source, x in zip("ab", pairs(), strict=True):
        for target, width in (("a", 7), ("b", 5)):
            found = network.impute(x, source, target)
            assert found.shape == (6, width) and torch.equal(found, network.impute(x, source, target))
            generators = [torch.Generator().manual_seed(4) for _ in range(2)]
            drawn = [network.impute(x, source, target, n_samples=3, generator=each) for each in generators]
            assert drawn[0].shape == (6, width) and torch.equal(*drawn)
    assert all(module.training for module in network.modules())


def test_many_draws_tend_to_the_mean_of_a_linear_decoder() -> None:
    network = small("joint_vae", decoder_layers=[]).double()
    x = pairs()[0].double()
    drawn = network.impute(x, "a", "b", n_samples=4000)
    torch.testing.assert_close(drawn, network.impute(x, "a", "b"), rtol=0, atol=0.06)
    assert not torch.equal(drawn, network.impute(x, "a", "b", n_samples=1))


@pytest.mark.parametrize("name", WITH_LATENT)
def test_latent_space_is_that_of_an_evaluation_pass(name: str) -> None:
    network = small(name).train()
    x, other = pairs()
    mean, logvar = network.latent(x, "a")
    found = network.eval()(x, other)
    if name == "JointVQ":
        assert torch.equal(mean, found["z_a"]) and not bool(logvar.any())
    else:
        assert torch.equal(mean, found["mean_a"]) and torch.equal(logvar, found["logvar_a"])


@pytest.mark.parametrize("target", ["noisy", "clean"])
def test_augmentation_in_training_with_noisy_or_clean_targets(target: str) -> None:
    options = {"enabled": True, "gaussian_noise_std": 0.4, "target": target}
    torch.manual_seed(5)
    config = {"model": SMALL["joint_vae"], "training": {"data_augmentation": options}}
    network = quietly("joint_vae", config, (7, 5)).train()
    a, b = pairs()
    noise = {"aug_a": torch.ones(6, 7), "aug_b": torch.full((6, 5), -1.0)}
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    found = network(a, b, noise=noise)
    goals = (a + 0.4, b - 0.4) if target == "noisy" else (a, b)
    expected = sum((found[f"recon_{name}"] - goal).square().mean() for name, goal in zip("ab", goals, strict=True)) / 2
    torch.testing.assert_close(found["recon_loss"], expected)
    torch.testing.assert_close(found["recon_a"], network(a + 0.4, b - 0.4, noise={})["recon_a"])
    network.eval()
    assert torch.equal(network(a, b, noise=noise)["recon_a"], network(a, b)["recon_a"])


def test_noise_is_drawn_in_the_order_of_the_record() -> None:
    network = small("JointVAEVampPrior").train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    torch.manual_seed(8)
    drawn = network(*pairs())
    torch.manual_seed(8)
    noise = {name: torch.randn(6, 3) for name in ("eps_a", "eps_b", "eps_cycle_b", "eps_cycle_a")}
    assert worst(network(*pairs(), noise=noise), {key: drawn[key] for key in ("z_a", "z_b", "cyclic_a")}) == 0


def test_a_lone_training_sample_is_refused_where_it_has_no_statistics() -> None:
    network = small("joint_vae").train()
    refused(lambda: network(*pairs(1)), "model.batch_norm", "1 sample")
    refused(lambda: network.single(pairs(1)[0], "a"), "model.batch_norm")
    assert bool(network.eval()(*pairs(1))["total_loss"].isfinite())
    assert bool(small("joint_vae", batch_norm=False).train()(*pairs(1))["total_loss"].isfinite())


def test_warm_up_of_the_divergence_is_a_function_of_the_epoch_and_for_training_only() -> None:
    torch.manual_seed(5)
    config = {"model": SMALL["JointVAEVampPrior"], "training": {"anneal_epochs": 10}}
    network = quietly("JointVAEVampPrior", config, (7, 5)).train()
    full = network.config.loss_weights.model_dump()["kl_divergence"]
    weight = lambda: float(network(*pairs())["current_kl_weight"])  # noqa: E731
    assert weight() == pytest.approx(full)
    for epoch, share in ((0, 0.0), (5, 0.5), (10, 1.0), (99, 1.0), (2, 0.2)):
        network.advance(epoch, 0)
        assert network.train() and weight() == pytest.approx(full * share)
        assert network.eval() and weight() == pytest.approx(full)
    network.advance(5, 0, evaluation=True)
    assert weight() == pytest.approx(full / 2)
    assert not [key for key in network.state_dict() if "epoch" in key or "step" in key]


def test_schedules_over_steps_apply_in_training_only() -> None:
    network = small("joint_vae_plus", max_tc_weight=0.4, tc_anneal_schedule="linear", tc_anneal_length=100)
    network.advance(0, 25)
    factors = lambda found: (float(found["beta"]), float(found["tc_weight"]))  # noqa: E731
    assert factors(network.train()(*pairs())) == pytest.approx((0.05, 0.1))
    assert factors(network.eval()(*pairs())) == pytest.approx((1.0, 0.4))


def test_pseudo_inputs_learn_on_request() -> None:
    network = small("JointVAEVampPrior", num_pseudoinputs=4, train_pseudoinputs=True).train()
    a, b = pairs(6)
    untouched = build("JointVAEVampPrior", 7, 5, {"model": {**SMALL["JointVAEVampPrior"], "num_pseudoinputs": 4}})
    assert untouched.get_parameter("pseudoinputs_b").requires_grad is False
    network(a, b)["total_loss"].backward()
    grad = network.get_parameter("pseudoinputs_a").grad
    assert grad is not None and bool(grad.any())
