"""Scores of imputation: recorded numbers, pooled numpy and scipy, merging over clients, and rows without a platform."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error, r2_score
from torchmetrics import MetricCollection

from core.columns import defined_mean, pearson_by_column, r2_by_column
from reports.feature_report import feature_table, summary
from training.imputation import DIRECTIONS, PARTS, ImputationScores, RankScores
from training.metrics import Metrics
from training.task import Loss

RECORDED = dict(np.load(Path(__file__).parent / "fixtures" / "imputation" / "metrics.npz"))
TRUE, PREDICTED = RECORDED.pop("true"), RECORDED.pop("predicted")
WIDTHS = {"a": 5, "b": 3}
Arrays = dict[str, np.ndarray]


def study(rows: int = 60, seed: int = 0, spread: float = 1.0) -> Arrays:
    """Two platforms and predictions of them; a feature of A is constant, one of B is predicted as a constant."""
    random = np.random.default_rng(seed)
    arrays = {platform: random.normal(size=(rows, width)) for platform, width in WIDTHS.items()}
    for part in PARTS:
        truth = arrays[part[-1]]
        arrays[part] = 0.7 * truth + spread * random.normal(size=truth.shape)
    arrays["a"][:, 2] = 0.1
    arrays["cross_b"][:, 1] = 1 / 3
    return arrays


def feed(metric: ImputationScores | RankScores, arrays: Arrays, size: int = 7) -> None:
    for start in range(0, len(arrays["a"]), size):
        part = {name: torch.tensor(values[start : start + size]) for name, values in arrays.items()}
        metric.update(part, part["a"], part["b"], part.get("has_a"), part.get("has_b"))


def scores(arrays: Arrays, size: int = 7, **settings: object) -> Arrays:
    metric = ImputationScores(*WIDTHS.values(), **settings)  # type: ignore[arg-type]
    feed(metric, arrays, size)
    return {name: value.numpy() for name, value in metric.compute().items()}


def pooled(target: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """What the scores should be, from all rows at once."""
    r, r2 = pearson_by_column(target, predicted), r2_by_column(target, predicted)
    return {
        "r2": r2_score(target.ravel(), predicted.ravel()),
        "corr": pearsonr(target.ravel(), predicted.ravel()).statistic,
        "mse": mean_squared_error(target, predicted),
        "corr_mean": defined_mean(r),
        "corr_median": float(np.nanmedian(r)),
        "mean_feature_r2": defined_mean(r2),
        "median_feature_r2": float(np.nanmedian(r2)),
        "frac_r2_above_0.5": float((r2 > 0.5).sum() / (~np.isnan(r2)).sum()),
        "frac_r2_above_0.7": float((r2 > 0.7).sum() / (~np.isnan(r2)).sum()),
        "samplewise_corr_mean": defined_mean(pearson_by_column(target.T, predicted.T)),
        "undefined_features": float(np.isnan(r).sum()),
    }


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("part", PARTS)
def test_sums_give_what_all_rows_at_once_give(part: str, size: int) -> None:
    arrays = study(spread=0.3)
    found = scores(arrays, size)
    for name, expected in pooled(arrays[part[-1]], arrays[part]).items():
        assert found[f"{part}_{name}"] == pytest.approx(expected, abs=1e-9), name
    assert found["cross_a_undefined_features"] == found["cross_b_undefined_features"] == 1


def test_the_headline_and_the_arrays() -> None:
    arrays = study()
    found = scores(arrays)
    columns = [pearson_by_column(arrays[name], arrays[f"cross_{name}"]) for name in ("a", "b")]
    np.testing.assert_allclose(found["cross_corr_per_feature"], np.concatenate(columns), atol=1e-12)
    assert np.isnan(found["cross_corr_per_feature"][[2, 6]]).all()
    columns = [r2_by_column(arrays[name], arrays[f"cross_{name}"]) for name in ("a", "b")]
    np.testing.assert_allclose(found["cross_r2_per_feature"], np.concatenate(columns), atol=1e-12)
    assert np.isnan(found["cross_r2_per_feature"]).sum() == 1, "a constant prediction has an R2"
    assert found["cross_corr_mean"] == pytest.approx((found["cross_a_corr_mean"] + found["cross_b_corr_mean"]) / 2)


def test_scores_are_the_recorded_ones() -> None:
    metric = ImputationScores(7, 7, parts=["cross_a"])
    metric.update({"cross_a": torch.tensor(PREDICTED)}, torch.tensor(TRUE), torch.tensor(TRUE))
    found = metric.compute()
    pairs = {
        "r2": "overall_r2",
        "corr": "overall_correlation",
        "corr_mean": "mean_feature_correlation",
        "corr_median": "median_feature_correlation",
        "mean_feature_r2": "mean_feature_r2",
        "median_feature_r2": "median_feature_r2",
        "frac_r2_above_0.5": "fraction_r2_above_0.5",
        "frac_r2_above_0.7": "fraction_r2_above_0.7",
    }
    for name, key in pairs.items():
        assert float(found[f"cross_a_{name}"]) == pytest.approx(float(RECORDED[key]), abs=1e-9), name
    assert float(found["cross_a_mse"]) == pytest.approx(float(RECORDED["overall_rmse"]) ** 2, abs=1e-9)


def test_the_summary_is_the_recorded_one() -> None:
    found = summary(TRUE, PREDICTED)
    assert set(found) == set(RECORDED)
    for name, expected in RECORDED.items():
        assert found[name] == pytest.approx(float(expected), rel=1e-6, abs=1e-9), name


def test_the_table_of_features_is_sorted_and_agrees_with_scipy() -> None:
    target, predicted = TRUE.copy(), PREDICTED.copy()
    target[:, 4] = 3.0
    table = feature_table([f"P{number}" for number in range(7)], target, predicted)
    assert table["r2"].iloc[:6].is_monotonic_decreasing and table.iloc[6][["r2", "range_ratio"]].isna().all()
    assert table["feature"].iloc[6] == "P4" and table["target_mean"].iloc[6] == 3
    row = table.set_index("feature").loc["P2"]
    expected = pearsonr(target[:, 2], predicted[:, 2])
    assert row["correlation"] == pytest.approx(expected.statistic) and row["p_value"] == pytest.approx(expected.pvalue)
    assert row["range_ratio"] == pytest.approx(np.ptp(predicted[:, 2]) / np.ptp(target[:, 2]))
    with pytest.raises(ValueError, match="6 names of features for 7 columns"):
        feature_table(list("abcdef"), target, predicted)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_clients_merge_to_the_pool_even_with_large_means(offset: float) -> None:
    arrays = study()
    centres = {f"centre_{name}": torch.full((width,), offset) for name, width in WIDTHS.items()}
    moved = {name: values + offset for name, values in arrays.items()}
    expected = scores(arrays)
    merged = Metrics(collection(**centres))
    for rows in (slice(0, 1), slice(1, 40), slice(40, 60)):
        own = Metrics(collection(**centres))
        feed(own.collection["scores"], {name: values[rows] for name, values in moved.items()})
        feed(own.collection["ranks"], {name: values[rows] for name, values in moved.items()})
        own.add_loss(Loss(torch.tensor(1.0), len(arrays["a"][rows]), {}))
        merged.merge(own.states())
    found = merged.compute()
    for name, value in expected.items():
        if value.ndim:
            np.testing.assert_allclose(found.arrays[name], value, rtol=0, atol=1e-9, err_msg=name)
        else:
            assert found.values[name] == pytest.approx(float(value), abs=1e-9), name
    assert found.support == 60


def collection(**settings: torch.Tensor) -> MetricCollection:
    metrics = {"scores": ImputationScores(*WIDTHS.values(), **settings), "ranks": RankScores(*WIDTHS.values())}
    return MetricCollection(metrics, compute_groups=False)


def test_means_of_features_count_over_all_values_at_once() -> None:
    arrays = study()
    means = np.array([100.0, -50, 0, 7, 3])
    for name in ("a", "recon_a", "cross_a"):
        arrays[name] = arrays[name] + means
    found = scores(arrays, centre_a=torch.tensor(means))
    assert found["cross_a_r2"] == pytest.approx(r2_score(arrays["a"].ravel(), arrays["cross_a"].ravel()), abs=1e-9)
    assert found["cross_a_corr"] == pytest.approx(pearsonr(arrays["a"].ravel(), arrays["cross_a"].ravel()).statistic)


def test_rows_without_a_platform_count_where_they_can() -> None:
    arrays = study(9)
    has = {"has_a": np.arange(9) < 6, "has_b": np.arange(9) >= 2}
    both = has["has_a"] & has["has_b"]
    spoiled = {name: values.copy() for name, values in arrays.items()}
    spoiled["a"][~has["has_a"]] = np.nan
    for name in ("recon_b", "cross_a"):
        spoiled[name][~has["has_b"]] = np.nan
    found = scores(spoiled | has, size=2)
    for part in PARTS:
        rows = both if part.startswith("cross") else has[f"has_{part[-1]}"]
        for name, expected in pooled(arrays[part[-1]][rows], arrays[part][rows]).items():
            assert found[f"{part}_{name}"] == pytest.approx(expected, abs=1e-9, nan_ok=True), (part, name)


def test_without_rows_all_is_undefined_and_no_direction_stands_for_the_other() -> None:
    arrays = study(8)
    nobody = scores(arrays | {"has_a": np.zeros(8, bool), "has_b": np.ones(8, bool)})
    assert np.isnan(nobody["cross_corr_mean"]) and np.isnan(nobody["recon_a_mse"]) and np.isnan(nobody["cross_a_r2"])
    assert nobody["recon_b_mse"] > 0 and nobody["recon_a_undefined_features"] == 5
    constant = scores(arrays | {"cross_b": np.zeros((8, 3))})
    assert np.isfinite(constant["cross_a_corr_mean"]) and np.isnan(constant["cross_corr_mean"])
    del arrays["cross_b"]
    one = scores(arrays)
    assert np.isnan(one["cross_b_corr_mean"]) and one["cross_corr_mean"] == one["cross_a_corr_mean"]


def test_one_sample_has_errors_but_no_correlation() -> None:
    found = scores(study(1))
    assert np.isnan(found["cross_a_corr_mean"]) and np.isnan(found["cross_a_mean_feature_r2"])
    assert found["cross_a_mse"] > 0 and -1 <= found["cross_a_samplewise_corr_mean"] <= 1


def test_predictions_that_are_no_numbers_have_no_score() -> None:
    arrays = study(8)
    arrays["cross_b"][3, 0] = np.nan
    metric = RankScores(*WIDTHS.values())
    feed(metric, arrays)
    ranks = {name: float(value) for name, value in metric.compute().items() if value.dim() == 0}
    for name in ("cross_spearman_mean", "cross_b_spearman_mean", "cross_b_samplewise_spearman_mean"):
        assert np.isnan(ranks[name]), name
    found = scores(arrays)
    for name in ("cross_corr_mean", *(f"cross_b_{name}" for name in DIRECTIONS)):
        assert np.isnan(found[name]), name
    assert np.isfinite(found["cross_a_corr_mean"]) and np.isfinite(ranks["cross_a_spearman_mean"])
    np.testing.assert_array_equal(np.isnan(found["cross_corr_per_feature"]), [0, 0, 1, 0, 0, 1, 1, 0])
    assert np.isnan(found["cross_b_mse"]) and np.isnan(found["cross_r2_per_feature"][5])


def test_rank_correlations_are_those_of_scipy() -> None:
    arrays = {name: values.round(1) for name, values in study().items()}
    metric = RankScores(*WIDTHS.values())
    has = {"has_a": np.arange(60) < 50, "has_b": np.ones(60, bool)}
    feed(metric, arrays | has)
    found = {name: value.numpy() for name, value in metric.compute().items()}
    kept = {name: values[:50] for name, values in arrays.items()}
    for place, part in ((0, "cross_a"), (7, "cross_b")):
        expected = spearmanr(kept[part[-1]][:, 0 if place == 0 else 2], kept[part][:, 0 if place == 0 else 2]).statistic
        assert found["cross_spearman_per_feature"][place] == pytest.approx(expected)
        rows = [spearmanr(*pair).statistic for pair in zip(kept[part[-1]], kept[part], strict=True)]
        assert found[f"{part}_samplewise_spearman_mean"] == pytest.approx(np.mean(rows))
    per_feature = found["cross_spearman_per_feature"]
    assert np.isnan(per_feature[[2, 6]]).all()
    assert found["cross_a_spearman_mean"] == pytest.approx(np.nanmean(per_feature[:5]))
    means = found["cross_a_spearman_mean"], found["cross_b_spearman_mean"]
    assert found["cross_spearman_mean"] == pytest.approx(np.mean(means))


def test_ranks_of_nobody_are_undefined() -> None:
    metric = RankScores(*WIDTHS.values())
    feed(metric, study(4) | {"has_a": np.zeros(4, bool), "has_b": np.ones(4, bool)})
    found = metric.compute()
    assert all(value.isnan().all() for value in found.values())
    assert found["cross_spearman_per_feature"].shape == (8,)


def test_every_scalar_with_a_direction_exists() -> None:
    metrics = Metrics(collection())
    arrays = study()
    for metric in metrics.collection.values():
        feed(metric, arrays)
    metrics.add_loss(Loss(torch.tensor(1.0), 60, {}))
    known, computed = metrics.directions(), metrics.compute()
    assert set(known) - {"loss"} <= set(computed.values)
    assert known["cross_corr_mean"] and not known["cross_b_mse"] and known["cross_spearman_mean"]
    assert {name for name in computed.values if name not in known} == {f"{part}_undefined_features" for part in PARTS}
    direct = ImputationScores(5, 3, parts=("cross_b", "cross_a"))
    assert len(direct.higher_is_better) == 2 * len(DIRECTIONS) + 1


def test_what_does_not_fit_is_refused() -> None:
    metric = ImputationScores(5, 3)
    arrays = {name: torch.tensor(values) for name, values in study(4).items()}
    with pytest.raises(ValueError, match=r"recon_a: shape \(4, 3\), expected \(4, 5\)"):
        metric.update(arrays, arrays["b"], arrays["b"])
    with pytest.raises(ValueError, match=r"cross_b: shape \(2, 3\), expected \(4, 3\)"):
        metric.update(arrays | {"cross_b": arrays["b"][:2]}, arrays["a"], arrays["b"])
    with pytest.raises(ValueError, match="impute_a"):
        ImputationScores(5, 3, parts=["impute_a"])


def test_a_network_that_has_seen_no_pair_has_no_scores_across_platforms() -> None:
    a, b = torch.randn(9, 3, generator=torch.manual_seed(0)), torch.randn(9, 2, generator=torch.manual_seed(1))
    guesses = {"recon_a": a, "recon_b": b, "cross_a": a, "cross_b": b}
    for metric in (ImputationScores(3, 2, learned=False), RankScores(3, 2, learned=False)):
        metric.update(guesses, a, b)
        values = metric.compute()
        crossed = {name: value for name, value in values.items() if "cross" in name and "undefined" not in name}
        assert crossed and all(value.isnan().all() for value in crossed.values())
        assert all(value == 1 for name, value in values.items() if name.startswith("recon") and name.endswith("corr"))
        assert metric.supports["cross_corr_mean" if "cross_corr_mean" in crossed else "cross_spearman_mean"] == 9
