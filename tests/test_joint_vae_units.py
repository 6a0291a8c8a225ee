"""Parts of the joint VAEs: recorded numbers, and numbers worked out by hand."""

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from models.joint_vae.alignment import alignment, mmd
from models.joint_vae.gaussians import (
    divergence_from_standard,
    log_mixture,
    log_normal,
    total_correlation,
)
from models.joint_vae.layers import SpectralLinear
from models.joint_vae.plus import PlanarFlows, PlusModel, beta
from models.joint_vae.quantised import Quantiser, VQModel
from tests.joint_vae_cases import FIXTURES, recorded

UNITS = recorded("units")
CLOSE = 1e-5


def test_alignments_and_divergences_as_recorded() -> None:
    z_a, z_b = UNITS["z_a"], UNITS["z_b"]
    mean, logvar = UNITS["mean_a"], UNITS["logvar_a"]
    found = {
        "mmd_bandwidth_1": mmd(z_a, z_b),
        "mmd_bandwidth_2": mmd(z_a, z_b, 2.0),
        "mmd_identical": mmd(z_a, z_a),
        "mmd_batch1": mmd(z_a[:1], z_b[:1]),
        "kl_align_a_to_b": alignment("kl_divergence", UNITS),
        "mse_align": alignment("mse", UNITS),
        "total_correlation": total_correlation(z_a, mean, logvar),
        "kl_standard_mean": divergence_from_standard(mean, logvar),
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(UNITS[name], abs=CLOSE), name
    torch.testing.assert_close(log_normal(z_a, mean, logvar).sum(-1), UNITS["log_normal_diag_sum"], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", list(UNITS["beta_schedules"]))
def test_beta_schedules_as_recorded(name: str) -> None:
    kind, cycle, *bounds = name.split("_")
    options: dict[str, object] = {"kl_schedule": kind}
    if kind == "constant":
        options["max_beta"] = cycle.removeprefix("max")
    else:
        options["kl_cycle_length"] = cycle
    if bounds:
        low, high, ratio = bounds
        options |= {"min_beta": low, "max_beta": high, "kl_anneal_ratio": ratio.removeprefix("r")}
    model = PlusModel.checked(options)
    assert [beta(step, model) for step in UNITS["beta_steps"]] == pytest.approx(UNITS["beta_schedules"][name])


def test_planar_flows_as_recorded() -> None:
    flows = PlanarFlows(3, 4)
    flows.load_state_dict({name.removeprefix("flows."): value for name, value in UNITS["flow_state"].items()})
    z, log_determinant = flows(UNITS["z_a"])
    torch.testing.assert_close(z, UNITS["flow_z_out"], rtol=0, atol=CLOSE)
    torch.testing.assert_close(log_determinant, UNITS["flow_log_det"], rtol=0, atol=CLOSE)


def test_log_determinant_is_that_of_the_jacobian() -> None:
    torch.manual_seed(0)
    flows = PlanarFlows(3, 4).double()
    z = torch.randn(5, 4, dtype=torch.float64)
    _, found = flows(z)
    for row, value in zip(z, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda point: flows(point.unsqueeze(0))[0][0], row)
        assert float(jacobian.det().abs().log()) == pytest.approx(float(value.detach()), abs=1e-9)


def test_quantiser_as_recorded() -> None:
    quantiser = Quantiser(VQModel(latent_dim=4, num_embeddings=6, vq_beta=UNITS["vq_beta"]))
    quantiser.load_state_dict({"embedding.weight": UNITS["vq_codebook"]})
    z, loss, codes = quantiser(UNITS["z_a"])
    torch.testing.assert_close(z, UNITS["vq_quantized"], rtol=0, atol=CLOSE)
    torch.testing.assert_close(loss, UNITS["vq_loss_per_sample"], rtol=0, atol=CLOSE)
    assert torch.equal(codes[:, 0], UNITS["vq_indices"])


def test_mmd_by_hand_for_sets_of_unequal_size() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0], [5.0]])

    def kernel(one: float, other: float, scale: float) -> float:
        return math.exp(-((one - other) ** 2) / scale)

    def by_hand(scale: float) -> float:
        xs, ys = x[:, 0].tolist(), y[:, 0].tolist()
        within = sum(kernel(one, other, scale) for one, other in itertools.permutations(xs, 2)) / 2
        within += sum(kernel(one, other, scale) for one, other in itertools.permutations(ys, 2)) / 6
        return within - 2 * sum(kernel(one, other, scale) for one, other in itertools.product(xs, ys)) / 6

    assert float(mmd(x, y)) == pytest.approx(by_hand(2.0), abs=1e-6)
    # Squared distances 1, 9, 16, 25, 4, 9, 16, 1, 4, 1: torch takes the lower median, 4.
    assert float(mmd(x, y, None)) == pytest.approx(by_hand(4.0), abs=1e-6)
    assert float(mmd(x, y[:1])) == 0


def test_only_the_median_bandwidth_sees_a_shift_in_a_wide_latent_space() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 128, requires_grad=True)
    y = torch.randn(64, 128) + 0.5
    assert float(mmd(x, y).detach()) < 1e-12
    loss = mmd(x, y, None)
    loss.backward()
    assert float(loss.detach()) > 0.05
    assert x.grad is not None and float(x.grad.norm()) > 1e-3


def test_densities_against_torch_distributions() -> None:
    torch.manual_seed(1)
    z, mean, logvar = (torch.randn(6, 3, dtype=torch.float64) for _ in range(3))
    posterior = Normal(mean, (logvar / 2).exp())
    torch.testing.assert_close(log_normal(z, mean, logvar), posterior.log_prob(z))
    standard = Normal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(divergence_from_standard(mean, logvar), kl_divergence(posterior, standard).mean())
    components = [MultivariateNormal(m, torch.diag(v.exp())).log_prob(z) for m, v in zip(mean, logvar, strict=True)]
    expected = torch.stack(components).exp().mean(0).log()
    torch.testing.assert_close(log_mixture(z, mean, logvar), expected)


def test_total_correlation_tells_dependence_from_independence() -> None:
    torch.manual_seed(2)
    free = torch.randn(2000, 2)
    tied = free[:, :1].expand(-1, 2)
    logvar = torch.full((2000, 2), -2.0)
    eps = torch.randn(2000, 2) * math.exp(-1)
    # Of jointly Gaussian dimensions with correlation r it is -log(1 - r^2) / 2.
    r = 1 / (1 + math.exp(-2))
    assert float(total_correlation(free + eps, free, logvar)) == pytest.approx(0, abs=0.08)
    assert float(total_correlation(tied + eps, tied, logvar)) == pytest.approx(-math.log(1 - r**2) / 2, abs=0.08)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(3)
    layer = SpectralLinear(7, 5)
    for _ in range(200):
        layer(torch.zeros(1, 7))
    layer.eval()
    weight = (layer(torch.eye(7)) - layer.bias).T
    assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1, abs=1e-4)


def test_every_recorded_unit_is_checked_but_the_metrics() -> None:
    checked = {"flow_state", "flow_z_out", "flow_log_det", "beta_steps", "beta_schedules", "total_correlation"}
    checked |= {"mmd_bandwidth_1", "mmd_bandwidth_2", "mmd_identical", "mmd_batch1", "kl_align_a_to_b", "mse_align"}
    checked |= {"log_normal_diag_sum", "kl_standard_mean"}
    checked |= {"vq_codebook", "vq_beta", "vq_quantized", "vq_loss_per_sample", "vq_indices"}
    inputs = {f"{part}_{platform}" for part in ("z", "mean", "logvar") for platform in "ab"}
    assert set(UNITS) - checked - inputs == {"metrics", "metrics_true", "metrics_pred"}
    assert len(list(FIXTURES.glob("*.pt"))) == 18
