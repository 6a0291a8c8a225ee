"""Scores of regression: recorded numbers, scipy and scikit-learn, cases by hand, and merging over clients."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torchmetrics import MetricCollection

from core.columns import defined_mean, mse_by_column, pearson_by_column, r2_by_column, spearman_by_column
from core.errors import UserError
from training.metrics import Metrics
from training.regression import RegressionScores
from training.task import Loss

RECORDED = np.load(Path(__file__).parent / "fixtures" / "image_expression" / "metrics.npz")
CASES = RECORDED["cases"].tolist()
BY_COLUMN = [pearson_by_column, spearman_by_column, mse_by_column, r2_by_column]


def scores(
    target: np.ndarray, predicted: np.ndarray, mean: np.ndarray | None = None, size: int = 9
) -> dict[str, np.ndarray]:
    metric = RegressionScores(target.mean(axis=0) if mean is None else mean)
    for start in range(0, len(target), size):
        part = slice(start, start + size)
        metric.update(torch.tensor(predicted[part]), torch.tensor(target[part]))
    return {name: value.numpy() for name, value in metric.compute().items()}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_the_recorded_ones(case: str) -> None:
    target, predicted = RECORDED[f"{case}__y_true"], RECORDED[f"{case}__y_pred"]
    found = scores(target, predicted)
    pairs = {
        "spearman": "mean_spearman",
        "pearson": "mean_pearson",
        "samplewise_spearman": "samplewise_spearman",
        "mse": "mse",
        "spearman_per_gene": "gene_spearman",
        "pearson_per_gene": "gene_pearson",
    }
    for name, key in pairs.items():
        np.testing.assert_allclose(found[name], RECORDED[f"{case}__{key}"], rtol=0, atol=1e-9, err_msg=name)
    assert found["undefined_genes"] == np.isnan(RECORDED[f"{case}__gene_spearman"]).sum()


@pytest.fixture
def rounded() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    target = random.normal(size=(25, 6)).round(1)
    return target, (0.5 * target + random.normal(size=target.shape)).round(1)


def test_scores_are_those_of_scipy_and_scikit_learn(rounded: tuple[np.ndarray, np.ndarray]) -> None:
    target, predicted = rounded
    columns = list(zip(target.T, predicted.T, strict=True))
    found = scores(target, predicted)
    np.testing.assert_allclose(found["pearson_per_gene"], [pearsonr(*pair).statistic for pair in columns], atol=1e-12)
    np.testing.assert_allclose(found["spearman_per_gene"], [spearmanr(*pair).statistic for pair in columns], atol=1e-12)
    samples = [spearmanr(*pair).statistic for pair in zip(target, predicted, strict=True)]
    assert found["samplewise_spearman"] == pytest.approx(np.mean(samples))
    for name, function in {"mse": mean_squared_error, "r2": r2_score}.items():
        expected = function(target, predicted, multioutput="raw_values")
        np.testing.assert_allclose(found[f"{name}_per_gene"], expected, atol=1e-12)
        assert found[name] == pytest.approx(expected.mean())
    assert found["mae"] == pytest.approx(mean_absolute_error(target, predicted))


def test_the_baseline_predicts_the_training_means(rounded: tuple[np.ndarray, np.ndarray]) -> None:
    target, predicted = rounded
    mean = np.full(6, 0.25)
    found = scores(target, predicted, mean)
    assert found["baseline_mse"] == pytest.approx(mean_squared_error(target, np.tile(mean, (25, 1))))
    assert found["skill"] == pytest.approx(1 - found["mse"] / found["baseline_mse"])
    constant = scores(target, np.tile(mean, (25, 1)), mean)
    assert constant["skill"] == pytest.approx(0) and np.isnan(constant["spearman"]) and constant["undefined_genes"] == 6
    assert np.isnan(scores(np.ones((3, 2)), np.ones((3, 2)))["skill"])


def test_undefined_columns_by_hand() -> None:
    target = np.array([[1.0, 5, 1], [2, 5, 3], [3, 5, 2]])
    predicted = np.array([[1.0, 1, 4], [4, 2, 4], [9, 3, 4]])
    found = scores(target, predicted)
    np.testing.assert_allclose(found["spearman_per_gene"], [1, np.nan, np.nan])
    assert found["spearman"] == 1 and found["undefined_genes"] == 2
    np.testing.assert_allclose(found["r2_per_gene"], [1 - (0 + 4 + 36) / 2, np.nan, 1 - (9 + 1 + 4) / 2])


def test_one_sample_is_undefined() -> None:
    found = scores(np.array([[1.0, 2]]), np.array([[2.0, 1]]))
    assert np.isnan([found["spearman"], found["pearson"], found["r2"]]).all() and found["undefined_genes"] == 2
    assert found["mse"] == 1 and found["samplewise_spearman"] == -1


def test_predictions_that_are_no_numbers_have_no_correlation() -> None:
    found = scores(np.array([[1.0, 1], [2, 2], [3, 3]]), np.array([[np.nan, 1], [2, 2], [3, 3]]))
    np.testing.assert_array_equal(found["spearman_per_gene"], [np.nan, 1])


@pytest.mark.parametrize("function", BY_COLUMN)
def test_shapes_that_differ_or_are_not_matrices_are_refused(function: Callable[..., np.ndarray]) -> None:
    for one, other in [((3, 2), (3, 3)), ((4, 2), (3, 2)), ((3,), (3,)), ((1, 3, 2), (1, 3, 2))]:
        with pytest.raises(ValueError, match="shapes"):
            function(np.zeros(one), np.zeros(other))
    metric = RegressionScores(np.zeros(2))
    with pytest.raises(ValueError, match="shapes"):
        metric.update(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="3 columns, but 2 training means"):
        metric.update(torch.zeros(3, 3), torch.zeros(3, 3))


def test_the_mean_skips_what_is_undefined() -> None:
    assert defined_mean(np.array([1.0, np.nan, 3])) == 2 and np.isnan(defined_mean(np.full(3, np.nan)))


def wrapped(target: np.ndarray, predicted: np.ndarray, mean: np.ndarray) -> Metrics:
    metrics = Metrics(MetricCollection({"scores": RegressionScores(mean)}, compute_groups=False))
    if len(target):
        metrics.collection.update(torch.tensor(predicted), torch.tensor(target))
        metrics.add_loss(Loss(torch.tensor(1.0), len(target), {}))
    return metrics


def test_merged_clients_score_as_the_pool_and_not_as_the_mean_of_scores(rounded: tuple[np.ndarray, np.ndarray]) -> None:
    target, predicted = rounded
    mean = target.mean(axis=0)
    merged = wrapped(target[:0], predicted[:0], mean)
    parts = [wrapped(target[part], predicted[part], mean) for part in (slice(0, 4), slice(4, 4), slice(4, 25))]
    for part in parts:
        merged.merge(part.states())
    found, pool = merged.compute(), wrapped(target, predicted, mean).compute()
    assert found.support == 25
    for name, value in pool.values.items():
        assert found.values[name] == pytest.approx(value, abs=1e-12)
    for name, values in pool.arrays.items():
        np.testing.assert_allclose(found.arrays[name], values, atol=1e-12)


def test_a_mean_of_scores_is_another_number(rounded: tuple[np.ndarray, np.ndarray]) -> None:
    target, predicted = rounded
    target[:10] += 4
    predicted[:10] += 4
    parts = [float(scores(target[part], predicted[part])["spearman"]) for part in (slice(0, 10), slice(10, 25))]
    assert float(scores(target, predicted)["spearman"]) > max(parts) + 0.2


def test_each_client_is_measured_against_its_own_training_means(rounded: tuple[np.ndarray, np.ndarray]) -> None:
    target, predicted = rounded
    merged = wrapped(target[:10], predicted[:10], np.zeros(6))
    merged.merge(wrapped(target[10:], predicted[10:], np.ones(6)).states())
    expected = (np.square(target[:10]).sum() + np.square(target[10:] - 1).sum()) / target.size
    assert merged.compute().values["baseline_mse"] == pytest.approx(expected)


def test_counts_and_baselines_are_reported_but_not_selected_on() -> None:
    metrics = wrapped(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(2))
    assert metrics.higher_is_better("spearman") and metrics.higher_is_better("skill")
    assert not metrics.higher_is_better("mse") and not metrics.higher_is_better("mae")
    for name in ("undefined_genes", "baseline_mse", "spearman_per_gene", "accuracy"):
        with pytest.raises(UserError, match=r"unknown metric; choose one of loss, .*spearman"):
            metrics.higher_is_better(name)
