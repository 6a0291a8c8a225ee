"""Flags, confidence and importance of imputed values: linear cases in closed form, recorded numbers, completeness."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from models.imputation.confidence import confidence, sampled_deviation
from models.imputation.importance import METHODS, Method, attributions, baseline_row, importance
from models.imputation.quality import (
    Thresholds,
    latent_log_likelihood,
    reconstruction_error,
    sample_table,
)
from tests.formula_weights import fill
from tests.refusals import refused

RECORDED = dict(np.load(Path(__file__).parent / "fixtures" / "imputation" / "attributions.npz"))
ERROR = np.array([0.1, 0.9, 0.8, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0])
LIKELIHOOD = np.array([-9.0, -8.0, -1.0, -2.0, -3.0, -1.5, -2.5, -1.2, -1.1, -1.3])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def network() -> nn.Sequential:
    """The network whose attributions are recorded."""
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4)]
    made = nn.Sequential(*layers).double().eval()
    prefix = "network."
    made.load_state_dict({k.removeprefix(prefix): torch.tensor(v) for k, v in RECORDED.items() if k.startswith(prefix)})
    return made


class Residual(nn.Module):
    """One activation module used twice, and a way around it."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.activation = nn.Linear(6, 6), nn.Linear(6, 3), activation

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.first(x)) + x
        return self.second(self.activation(hidden))  # type: ignore[no-any-return]


def residual(activation: nn.Module) -> Residual:
    made = Residual(activation).double()
    fill(made)
    return made


def test_an_anomaly_is_badly_rebuilt_and_unlikely() -> None:
    assert Thresholds(0.82, 3.6).flag(ERROR, LIKELIHOOD).nonzero()[0].tolist() == [1]
    assert Thresholds(0.55, 1.75).flag(ERROR, LIKELIHOOD).nonzero()[0].tolist() == [1], "9 is badly rebuilt, but likely"
    assert Thresholds(0.37, 1.27).flag(ERROR, LIKELIHOOD).nonzero()[0].tolist() == [1, 5, 6, 9]
    assert not Thresholds(1.0, 1.0).flag(np.ones(5), -np.ones(5)).any()


def test_likelihood_and_error_of_samples() -> None:
    mean = normal(4, 3).numpy()
    np.testing.assert_allclose(latent_log_likelihood(mean), multivariate_normal(np.zeros(3)).logpdf(mean))
    np.testing.assert_allclose(reconstruction_error(np.zeros((1, 2)), np.array([[1.0, 3]])), [5])


def test_the_table_of_samples_starts_with_the_worst() -> None:
    names = [f"S{number}" for number in range(10)]
    table = sample_table(names, ERROR, LIKELIHOOD, Thresholds(0.82, 3.6))
    assert table["sample"].tolist()[:3] == ["S1", "S9", "S2"] and table["anomaly"].tolist() == [True] + [False] * 9
    row = table.iloc[0]
    assert row["error_percentile"] == 90 and row["unlikeliness_percentile"] == 90 and row["log_likelihood"] == -8
    strict = sample_table(["x"] * 10, ERROR, LIKELIHOOD, Thresholds(2.0, 0.0))
    assert not strict["anomaly"].any()
    unjudged = sample_table(names, ERROR, LIKELIHOOD)
    assert unjudged["sample"].tolist()[:3] == ["S9", "S1", "S2"] and "anomaly" not in unjudged


def test_quality_of_what_does_not_fit_is_refused() -> None:
    limits = Thresholds(1.0, 1.0)
    refused(lambda: limits.flag(ERROR, LIKELIHOOD[:3]), "(10,) and (3,)")
    refused(lambda: limits.flag(ERROR, np.full(10, np.nan)), "10 log-likelihoods are missing")
    refused(lambda: sample_table(["a"], ERROR, LIKELIHOOD), "1 sample ids for 10")


def test_confidence_is_one_over_one_plus_the_coefficient_of_variation() -> None:
    sd = np.array([0.0, 0.5, 2.0])
    np.testing.assert_allclose(confidence(sd), 1 / (1 + (np.exp(sd) - 1)))


def test_deviation_of_draws_is_that_of_their_table() -> None:
    drawn = normal(9, 4, 3) * 100 + 1e4
    draws = iter(drawn)
    torch.testing.assert_close(sampled_deviation(lambda: next(draws), 9), drawn.std(0))


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("method", METHODS)
def test_importance_in_a_linear_map_is_its_weight(method: Method, baseline: str) -> None:
    linear, x = nn.Linear(6, 40).double(), normal(11, 6)
    fill(linear)
    base = torch.zeros(6) if baseline == "zero" else x.mean(0)
    spread = torch.from_numpy(np.median((x - base).abs().numpy(), axis=0))
    found = importance(linear, x, method, baseline, steps=3)  # type: ignore[arg-type]
    torch.testing.assert_close(found, (linear.weight.abs() * spread).T.detach())


@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift"])
def test_attributions_are_the_recorded_ones(method: Method) -> None:
    x = torch.tensor(RECORDED["x"])
    found = attributions(network(), x, x.mean(0), range(4), method)
    np.testing.assert_allclose(found, RECORDED[method], rtol=0, atol=1e-8)
    medians = importance(network(), x, method, "mean")
    np.testing.assert_allclose(medians, np.median(np.abs(RECORDED[method]), axis=0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Tanh(), nn.LeakyReLU(0.2)])
def test_attributions_add_up_to_the_change_of_the_output(activation: nn.Module, method: Method) -> None:
    impute, x = residual(activation), normal(12, 6)
    found = attributions(impute, x, torch.ones(6).double(), range(3), method, steps=500)
    change = impute(x) - impute(torch.ones(1, 6).double())
    tolerance = {"integrated_gradients": 0.02, "gradient_shap": 0.4, "deeplift": 1e-9}[method]
    torch.testing.assert_close(found.sum(1), change, rtol=0, atol=tolerance)


def test_deeplift_of_a_sample_that_is_the_baseline_is_zero_and_finite() -> None:
    x = normal(3, 6)
    found = attributions(network(), x, x[1], range(4), "deeplift")
    assert torch.equal(found[1], torch.zeros(6, 4).double()) and found.isfinite().all()
    untouched = network()
    before = untouched(x)
    importance(untouched, x, "deeplift")
    assert torch.equal(untouched(x), before)


def test_many_samples_are_attributed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(30, 6)
    whole = {method: attributions(network(), x, x.mean(0), range(4), method, steps=5) for method in METHODS}
    monkeypatch.setattr("models.imputation.importance.ROWS_AT_ONCE", 20)
    for method in ("integrated_gradients", "deeplift"):
        parts = attributions(network(), x, x.mean(0), range(4), method, steps=5)
        torch.testing.assert_close(parts, whole[method])


def test_random_points_repeat_themselves() -> None:
    x = normal(9, 6)
    first, again, other = (importance(network(), x, "gradient_shap", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_importance_of_what_does_not_fit_is_refused() -> None:
    x = normal(4, 6)
    refused(lambda: importance(network(), x, "lime"), "importance_method = 'lime'", "gradient_shap")  # type: ignore[arg-type]
    refused(lambda: importance(network(), x, steps=0), "importance_steps = 0")
    refused(lambda: baseline_row(x, "median"), "importance_baseline = 'median'", "zero, mean")  # type: ignore[arg-type]
    refused(lambda: baseline_row(x, x[0, :2]), "(2,)", "6 features")
    refused(lambda: importance(lambda rows: rows @ rows.new_ones(6, 2), x, "deeplift"), "deeplift", "modules")
    squares = nn.Sequential(network(), nn.Softmax(dim=1))
    refused(lambda: importance(squares, x, "deeplift"), "deeplift", "integrated_gradients")
