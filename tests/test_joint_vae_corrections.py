"""Options that put right what the reference has wrong, and the decoders and objectives it lacks."""

from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor

from models.joint_vae.autoregressive import AutoregressiveDecoder
from models.joint_vae.base import CrossPlatformModel
from models.joint_vae.diffusion import DiffusionDecoder
from models.joint_vae.gaussians import log_normal
from models.joint_vae.generative_options import AutoregressiveOptions, DiffusionOptions
from models.joint_vae.noise import Noise
from models.joint_vae.quantised import Quantiser, VQModel
from tests.joint_vae_cases import quietly, recorded, restored


def pairs(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(count, 11, generator=generator), torch.randn(count, 9, generator=generator)


def made(
    model_type: str, seed: int = 5, loss_weights: dict[str, Any] | None = None, **model: Any
) -> CrossPlatformModel:
    torch.manual_seed(seed)
    return quietly(model_type, {"model": model, "loss_weights": loss_weights or {}})


def strict_decoder() -> AutoregressiveDecoder:
    torch.manual_seed(0)
    return AutoregressiveDecoder(6, 3, AutoregressiveOptions(hidden_dim=40, strict_masks=True)).double()


def test_a_strict_masked_decoder_shows_no_feature_to_itself_and_the_position_to_all() -> None:
    decoder = strict_decoder()
    x, z = torch.randn(6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    seen = torch.autograd.functional.jacobian(lambda row: decoder(row[None], z[None])[0], x) != 0
    assert torch.equal(seen, torch.ones(6, 6).tril(-1).bool())
    position = torch.autograd.functional.jacobian(lambda row: decoder(x[None], row[None])[0], z)
    assert bool((position != 0).any(1).all())


def test_sampling_one_by_one_equals_sampling_by_whole_passes() -> None:
    decoder = strict_decoder()
    z, noise = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    x = torch.zeros(4, 6, dtype=torch.float64)
    for index in range(6):
        x[:, index] = decoder(x, z)[:, index].detach() + noise[:, index]
    torch.testing.assert_close(decoder.sample(z, noise), x)


def test_masks_come_from_the_seed_and_travel_as_state() -> None:
    one, other = (made("generative_vae", seed, decoder_type="made", latent_dim=3) for seed in (1, 2))
    name = "decoder_a.layers.1.mask"
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])
    other.load_state_dict(one.state_dict())
    a, b = pairs()
    assert torch.equal(one.eval()(a, b)["cross_a"], other.eval()(a, b)["cross_a"])


@pytest.mark.parametrize("cross_loss", ["sampled", "teacher_forced"])
def test_the_teacher_forced_cross_loss_alone_trains(cross_loss: str) -> None:
    decoder = {"hidden_dim": 16, "strict_masks": True, "cross_loss": cross_loss}
    network = made("generative_vae", decoder_type="made", latent_dim=3, decoder=decoder).train()
    loss = network(*pairs())["cross_loss"]
    assert loss.requires_grad is (cross_loss == "teacher_forced")


def test_scaled_diffusion_ends_in_noise_and_unscaled_does_not() -> None:
    unscaled, scaled = (DiffusionDecoder(5, 3, DiffusionOptions(scale_betas=flag)) for flag in (False, True))
    assert float(unscaled.alphas_cum[-1]) == pytest.approx(0.36, abs=0.01)
    assert float(scaled.alphas_cum[-1]) < 1e-4
    assert float(scaled.betas[0]) == pytest.approx(1e-3)


def test_correct_chains_find_a_known_distribution() -> None:
    """With the noise that belongs to N(2, 0.5^2) told exactly, chains end there; inverted ones do not."""

    class Known(DiffusionDecoder):
        def forward(self, noisy: Tensor, z: Tensor, t: Tensor) -> Tensor:
            kept = self.alphas_cum[t].unsqueeze(1)
            return (1 - kept).sqrt() * (noisy - kept.sqrt() * 2) / (kept * 0.25 + 1 - kept)

    ends = {}
    for variance in ("correct", "inverted"):
        options = DiffusionOptions(n_timesteps=200, chains=1, scale_betas=True, posterior_variance=variance)
        decoder = Known(1, 1, options).eval()
        sampled = decoder.impute(torch.zeros(20000, 1), 0, torch.Generator().manual_seed(0))
        ends[variance] = (float(sampled.mean()), float(sampled.std()))
    assert ends["correct"] == pytest.approx((2, 0.5), abs=0.02)
    assert ends["inverted"][1] > 0.52


def test_no_chain_runs_in_training_unless_its_noise_is_given() -> None:
    network = made("generative_vae", decoder_type="ddpm", latent_dim=3, decoder={"n_timesteps": 3, "chains": 2})
    calls: list[int] = []
    network.get_submodule("decoder_a").register_forward_hook(lambda *_: calls.append(1))
    found = network.train()(*pairs())
    assert len(calls) == 2 and "cross_a" not in found and bool(found["total_loss"].isfinite())
    assert network.eval()(*pairs())["cross_a"].shape == (8, 11)
    assert len(calls) == 2 + 2 + 2 * 3 * 2


def test_one_backward_pass_trains_generator_and_discriminator_each_by_its_own_loss() -> None:
    network = made("generative_vae", decoder_type="gan", latent_dim=3).train()
    found = network(*pairs())
    names = [key for key, _ in network.named_parameters() if ".discriminator." in key]
    weights = [network.get_parameter(key) for key in names]
    others = [weight for key, weight in network.named_parameters() if key not in names]
    by_generator = torch.autograd.grad(found["generator_loss"], weights, retain_graph=True, allow_unused=True)
    assert names and all(grad is None for grad in by_generator)
    fooling = torch.autograd.grad(found["generator_loss"], others, retain_graph=True, allow_unused=True)
    assert any(grad is not None and bool(grad.any()) for grad in fooling)
    caught = torch.autograd.grad(found["discriminator_loss"], others, retain_graph=True, allow_unused=True)
    assert all(grad is None for grad in caught)
    own = torch.autograd.grad(found["discriminator_loss"], weights, retain_graph=True)
    found["total_loss"].backward()
    for weight, grad in zip(weights, own, strict=True):
        torch.testing.assert_close(weight.grad, 0.01 * grad)


def test_total_of_a_gan_by_hand() -> None:
    weights = {"adversarial": 0.5, "kl_divergence": 0.1}
    found = made("generative_vae", loss_weights=weights, decoder_type="gan", latent_dim=3).eval()(*pairs())
    parts = {"recon_loss": 1, "cross_loss": 1, "align_loss": 1, "kl_loss": 0.1}
    parts |= {"generator_loss": 0.5, "discriminator_loss": 0.5}
    torch.testing.assert_close(found["total_loss"], sum(found[name] * weight for name, weight in parts.items()))


def test_flows_count_in_the_divergence_on_request() -> None:
    """Over many draws it tends to E[log q - log p] behind the flows, all of it estimated."""
    flows = {"latent_dim": 2, "num_flows": 3, "encoder_layers": [6], "decoder_layers": [6]}
    network = made("joint_vae_plus", flow_determinant=True, **flows).double().eval()
    x = pairs(1)[0].double().expand(40000, -1)
    torch.manual_seed(0)
    noise = Noise({"eps_a": torch.randn(40000, 2, dtype=torch.float64)})
    found = network.outputs({"a": x}, noise)
    log_q = log_normal(found["start_a"], found["mean_a"], found["logvar_a"]).sum(-1) - found["log_det_jac_a"]
    plain = (log_q - log_normal(found["z_a"]).sum(-1)).mean() / 2
    counted = float(network.divergence(found, "a").detach())
    assert counted == pytest.approx(float(plain.detach()), abs=0.02)
    without = made("joint_vae_plus", **flows).double().eval().divergence(found, "a")
    assert abs(float(without.detach()) - counted) > 0.05


def test_limited_log_variances_keep_the_total_correlation_finite() -> None:
    case = recorded("joint_vae_plus_no_sn_no_flow")
    for flag in (False, True):
        network = restored(case, clamp_tc_logvar=flag).eval()
        with torch.no_grad():
            network.get_parameter("encoder_a.logvar_layer.bias").fill_(-200.0)
        found = network(case["x_a"], case["x_b"], noise=case["eval_noise"]["noise"])
        assert bool(found["tc_loss"].isfinite()) is flag


def test_the_bound_per_feature_weighs_each_platform_by_its_width() -> None:
    case = recorded("iwae_k5")
    noise = case["eval_noise"]["noise"]
    plain, per_feature = (
        restored(case, bound_per_feature=flag).eval().single(case["x_b"], "b", noise=noise) for flag in (False, True)
    )
    torch.testing.assert_close(per_feature["iwae_loss"] * 9, plain["iwae_loss"])


def test_the_mixture_bound_is_the_importance_weighted_one_of_a_single_expert() -> None:
    """For one platform the mixture has one component: the bound is that of a VAE, as IWAE states it for one draw."""
    shape = {"latent_dim": 3, "encoder_layers": [8], "decoder_layers": [8]}
    mixture = made("JointMM", objective="moe", **shape).eval()
    weighted = made("JointIWAE", k_samples=2, **shape).eval()
    weighted.load_state_dict(mixture.state_dict())
    x = pairs()[0]
    found, expected = (network.single(x, "a", noise={}) for network in (mixture, weighted))
    torch.testing.assert_close(found["moe_loss"], expected["iwae_loss"])
    torch.testing.assert_close(found["total_loss"], found["moe_loss"])


def test_the_mixture_bound_by_hand() -> None:
    network = made("JointMM", objective="moe", latent_dim=3, encoder_layers=[8], decoder_layers=[8]).double().eval()
    a, b = (x.double() for x in pairs())
    found = network(a, b, noise={f"eps_{name}": torch.randn(8, 3, dtype=torch.float64) for name in "ab"})
    bound = torch.zeros(8, dtype=torch.float64)
    for name, other in ("ab", "ba"):
        z = found[f"z_{name}"]
        densities = [log_normal(z, found[f"mean_{p}"], found[f"logvar_{p}"]).sum(1).exp() for p in "ab"]
        shown = {name: found[f"recon_{name}"], other: found[f"cross_{other}"]}
        seen = sum(log_normal(x, shown[p]).sum(1) for p, x in (("a", a), ("b", b)))
        bound = bound + (seen + log_normal(z).sum(1) - (sum(densities) / 2).log()) / 2
    torch.testing.assert_close(found["moe_loss"], -bound.mean())
    torch.testing.assert_close(found["total_loss"], found["moe_loss"] + 1.9 * found["align_loss"])


BOUNDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JointIWAE": ("iwae_loss", {"k_samples": 3}),
    "JointMM": ("moe_loss", {"objective": "moe"}),
    "JointVAEVampPrior": ("kl_loss", {"use_vampprior": True, "num_pseudoinputs": 4}),
    "joint_vae_plus": ("kl_loss", {"flow_determinant": True, "num_flows": 2}),
}


@pytest.mark.parametrize("model_type", BOUNDS)
def test_a_bound_in_evaluation_is_about_the_mean_over_draws(model_type: str) -> None:
    """At the posterior mean alone, wider posteriors would lower it without limit."""
    term, options = BOUNDS[model_type]
    network = made(model_type, latent_dim=3, encoder_layers=[8], decoder_layers=[8], **options).eval()
    for platform in "ab":
        torch.nn.init.constant_(network.get_submodule(f"encoder_{platform}.logvar_layer").bias, 3.0)
    a, b = pairs(300)
    shape = (3, 300, 3) if model_type == "JointIWAE" else (300, 3)
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(30):
        noise = {f"eps_{platform}": torch.randn(shape, generator=generator) for platform in "ab"}
        draws.append(float(network(a, b, noise=noise)[term].detach()))
    found, still = network(a, b), network(a, b, noise={})
    near, far = (abs(float(one[term].detach()) - mean(draws)) for one in (found, still))
    assert near < 3 * stdev(draws) < far
    torch.testing.assert_close(found["cross_a"], network.impute(b, "b", "a"))
    weights = network.weights().items()
    torch.testing.assert_close(
        found["total_loss"], sum(weight * found[name] for name, weight in weights if name in found)
    )


def test_product_quantisation_by_hand() -> None:
    quantiser = Quantiser(VQModel(latent_dim=4, num_embeddings=2, num_codebooks=2)).eval()
    quantiser.load_state_dict({"embedding.weight": torch.tensor([[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 9.0, 9.0]])})
    z, loss, codes = quantiser(torch.tensor([[0.1, 0.0, 8.0, 9.0], [0.9, 1.0, 5.0, 5.0]]))
    assert codes.tolist() == [[0, 1], [1, 0]]
    torch.testing.assert_close(z, torch.tensor([[0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 5.0, 5.0]]))
    torch.testing.assert_close(loss, 1.25 * torch.tensor([0.01 + 1.0, 0.01]))


def test_a_codebook_of_averages_follows_its_encodings_without_gradient() -> None:
    quantiser = Quantiser(VQModel(latent_dim=1, num_embeddings=2, codebook_update="ema", ema_decay=0.5)).train()
    quantiser.load_state_dict({"counts": torch.ones(1, 2), "sums": torch.tensor([[[0.0], [10.0]]])})
    h = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    _, loss, _ = quantiser(h)
    # Code 0: counts 0.5 * 1 + 0.5 * 3 = 2, sums 0.5 * 0 + 0.5 * 6 = 3. Code 1 keeps its place.
    assert quantiser.codes.flatten().tolist() == pytest.approx([1.5, 10.0])
    loss.sum().backward()
    assert not list(quantiser.parameters()) and h.grad is not None
    for _ in range(200):
        quantiser(h.detach())
    assert float(quantiser.codes[0, 1]) == pytest.approx(10.0), "a code without use stays, however long"


def test_codes_without_use_move_to_encodings() -> None:
    quantiser = Quantiser(VQModel(latent_dim=1, num_embeddings=3, restart_after=2)).train()
    quantiser.load_state_dict(
        {"embedding.weight": torch.tensor([[0.0], [50.0], [90.0]]), "patience": torch.full((1, 3), 2)}
    )
    h = torch.tensor([[1.0], [2.0]])
    _, loss, _ = quantiser(h)
    assert quantiser.patience.tolist() == [[2, 1, 1]]
    quantiser(h)
    loss.sum().backward()
    assert quantiser.embedding.weight.grad is not None
    weight = quantiser.embedding.weight.detach().flatten().tolist()
    assert weight[0] == 0 and set(weight[1:]) <= {1.0, 2.0} and quantiser.patience.tolist() == [[2, 2, 2]]


def test_perplexity_counts_the_codes_in_use() -> None:
    network = made("JointVQ", latent_dim=4, num_embeddings=4, num_codebooks=2)
    codes = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 0]])
    # Two codes equally often in one book, one code in the other.
    assert float(network._perplexity(codes)) == pytest.approx((2 + 1) / 2)
    assert 1 <= float(network.eval()(*pairs())["perplexity"]) <= 4
