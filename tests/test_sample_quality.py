"""Limits of the quality of samples: quantiles from counts, which merge over clients and tell no single value."""

import math

import numpy as np
import pytest
import torch

from training.sample_quality import QualityLimits, limits


def counted(seed: int, rows: int, has_b: bool = True) -> tuple[QualityLimits, dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    values = {name: torch.from_numpy(random.normal(size=(rows, 6))) for name in ("a", "b", "recon_a", "recon_b")}
    latent = {f"latent_{name}": torch.from_numpy(random.normal(size=(rows, 4))) for name in "ab"}
    metric, everyone = QualityLimits(), torch.ones(rows, dtype=torch.bool)
    for part in (slice(0, 3), slice(3, None)):
        outputs = {name: value[part] for name, value in {**values, **latent}.items()}
        has = everyone[part]
        metric.update(outputs, values["a"][part], values["b"][part], has, has & has_b)
    expected = {
        "error": ((values["recon_a"] - values["a"]) ** 2).mean(1).numpy(),
        "distance": (latent["latent_a"] ** 2).sum(1).numpy(),
    }
    return metric, expected


def test_four_of_five_samples_are_within_the_limits() -> None:
    metric, expected = counted(0, 500)
    found = metric.compute()
    for kind, values in expected.items():
        exact = np.quantile(values, 0.8, method="inverted_cdf")
        assert exact <= found[f"a_{kind}_limit"] <= exact * 1.0501
        assert metric.supports[f"a_{kind}_limit"] == 500


def test_limits_of_clients_are_those_of_all_their_samples() -> None:
    one, two = counted(1, 40), counted(2, 70)
    joined = {kind: np.concatenate([one[1][kind], two[1][kind]]) for kind in one[1]}
    for name in one[0]._defaults:
        setattr(one[0], name, getattr(one[0], name) + getattr(two[0], name))
    for kind, values in joined.items():
        exact = np.quantile(values, 0.8, method="inverted_cdf")
        assert exact <= one[0].compute()[f"a_{kind}_limit"] <= exact * 1.0501


def test_without_samples_there_is_no_limit() -> None:
    metric, _ = counted(3, 20, has_b=False)
    scores = {name: float(value) for name, value in metric.compute().items()}
    assert math.isnan(scores["b_error_limit"]) and metric.supports["b_error_limit"] == 0
    assert (
        limits(scores, "b", 4) is None
        and limits({}, "a", 4) is None
        and limits({"a_error_limit": None}, "a", 4) is None
    )
    found = limits(scores, "a", 4)
    assert found is not None and found.reconstruction_error == scores["a_error_limit"]
    expected = 0.5 * (scores["a_distance_limit"] + 4 * math.log(2 * math.pi))
    assert found.negative_log_likelihood == pytest.approx(expected)


def test_values_off_the_scale_are_counted_all_the_same() -> None:
    metric = QualityLimits()
    rows = torch.tensor([[0.0], [1e9], [float("nan")]])
    outputs = {"recon_a": rows, "latent_a": rows}
    everyone = torch.ones(3, dtype=torch.bool)
    metric.update(outputs, torch.zeros(3, 1), torch.zeros(3, 1), everyone, everyone)
    assert metric.compute()["a_error_limit"] == float("inf") and metric.supports["a_error_limit"] == 3
    assert limits({name: float(value) for name, value in metric.compute().items()}, "a", 1) is None
