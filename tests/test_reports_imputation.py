import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import mean_squared_error, r2_score

from core.errors import UserError
from reports.axis import axis_scores, axis_table, ranking
from reports.baselines import baseline_table
from reports.bootstrap import difference_interval, mean_interval, recomputed
from reports.honesty import warnings
from reports.kinds import Platforms
from reports.numbers import metric_name
from reports.report import write_report
from reports.run_folder import RunRecord
from reports.stored import predicted_on
from reports.tables import headline_table
from reports.verdict import verdict
from tests.platform_folders import FEATURES, write_platforms
from tests.run_folders import compared, edit, write_comparison

pytestmark = pytest.mark.usefixtures("coarse_pictures")
BASELINES = {
    "split": "test",
    "rows": [
        {"model": "ridge", "data": "held_out", "metrics": {"cross_corr_mean": 0.75, "cross_a_r2": 0.5}, "support": 40},
        {"model": "knn", "data": "held_out", "metrics": {"cross_corr_mean": 0.5, "cross_a_r2": None}},
        {"model": "ridge", "data": "ada", "metrics": {"cross_corr_mean": 0.25}},
    ],
}


@pytest.fixture(scope="module")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_comparison(tmp_path_factory.mktemp("platforms"), (0,), write_platforms)


def two_platforms(count: int = 30) -> Platforms:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(count, 3)), draw.normal(size=(count, 2))
    both = np.arange(count) % 4 > 0
    names = np.array([f"s{at:02d}" for at in range(count)])
    return Platforms(names, a, b, a + draw.normal(size=a.shape), b + draw.normal(size=b.shape), both)


# Recomputed from what was measured on both platforms


def test_metrics_are_those_of_the_drawn_samples_that_have_both_platforms() -> None:
    one = two_platforms()
    weights = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), 4)
    for weight, value in zip(weights, one.measure("cross_corr_mean", weights.astype(float)), strict=True):
        drawn = np.arange(30).repeat(weight)
        drawn = drawn[one.both_N[drawn]]
        a = np.mean([pearsonr(one.target_a_NK[drawn, k], one.cross_a_NK[drawn, k])[0] for k in range(3)])
        b = np.mean([pearsonr(one.target_b_NK[drawn, k], one.cross_b_NK[drawn, k])[0] for k in range(2)])
        assert value == pytest.approx((a + b) / 2)
    there = one.both_N
    flat = [values[there].ravel() for values in (one.target_a_NK, one.cross_a_NK)]
    assert recomputed(one, "cross_a_r2") == pytest.approx(r2_score(*flat))
    assert recomputed(one, "cross_a_mse") == pytest.approx(mean_squared_error(*flat))


def test_a_client_with_one_platform_has_no_score_and_no_interval() -> None:
    one = two_platforms()
    alone = replace(one, both_N=np.zeros(30, bool))
    assert all(math.isnan(recomputed(alone, metric)) for metric in Platforms.METRICS)
    assert mean_interval([alone], "cross_corr_mean") is None


def test_gains_are_paired_although_a_local_model_scales_features_in_its_own_way() -> None:
    one = two_platforms()
    order = np.random.default_rng(2).permutation(30)
    other = one.taken(order)
    scaled = replace(other, target_a_NK=3 * other.target_a_NK - 1, cross_a_NK=3 * other.cross_a_NK)
    interval = difference_interval([one], [scaled], "cross_corr_mean")
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((0, 0), abs=1e-12)
    shuffled = replace(one, target_a_NK=one.target_a_NK[::-1])
    assert difference_interval([one], [shuffled], "cross_corr_mean") is None


def test_samples_of_a_donor_are_drawn_together(platforms: list[Path]) -> None:
    comparison = compared(platforms)
    for setting in comparison.settings:
        line = comparison.line(setting, "held_out")
        assert line is not None
        assert {"cross_corr_mean", "cross_a_corr_mean", "cross_b_corr_mean", "cross_a_r2"} <= set(line.intervals)
        assert line.intervals["cross_corr_mean"].over == "biological units"
    assert all(row.gain_interval for row in comparison.per_client)


def test_reported_correlations_follow_from_the_predictions(platforms: list[Path], tmp_path: Path) -> None:
    assert [text for text in warnings([RunRecord.read(one) for one in platforms]) if "predictions" in text] == []
    run = write_platforms(tmp_path / "run", "federated")
    rows = json.loads((run / "eval_summary.json").read_text())["rows"]
    next(row for row in rows if row["data"] == "pooled")["metrics"]["cross_b_corr_mean"] += 0.01
    edit(run / "eval_summary.json", rows=rows)
    assert warnings([RunRecord.read(run)]) == [
        "federated, seed 0: stored predictions give other results than reported: federated on pooled."
    ]


# Per feature


def test_features_of_both_platforms_have_a_table_that_begins_with_the_headline(platforms: list[Path]) -> None:
    comparison = compared(platforms)
    scores = axis_scores(comparison)
    assert scores is not None
    assert (scores.noun, scores.names, scores.columns) == ("feature", FEATURES, ["cross_corr"])
    assert axis_table(scores, comparison).columns[1] == "cross-platform correlation, centralized"
    assert ranking(scores, comparison.primary, True)[0] == "cross_corr"


def test_a_feature_is_that_of_its_platform(platforms: list[Path]) -> None:
    record = RunRecord.read(platforms[0])
    predicted, stored = predicted_on(record, "centralized", "ada"), record.predictions("centralized", "ada")
    assert isinstance(predicted, Platforms) and predicted.width == 5
    true, guess = predicted.feature(4)
    assert true == pytest.approx(stored["target_b"][stored["has_b"], 1])
    assert guess == pytest.approx(stored["cross_b"][stored["has_b"], 1])


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("cross_corr_mean", "mean cross-platform correlation"),
        ("cross_a_corr_mean", "A from B: mean correlation"),
        ("recon_b_frac_r2_above_0.5", "B from itself: share of features with R² above 0.5"),
        ("cross_b_undefined_features", "B from A: undefined features"),
        ("cross_entropy", "cross entropy"),
    ],
)
def test_names_say_what_is_predicted_from_what(metric: str, name: str) -> None:
    assert metric_name(metric) == name


# Baselines


def test_baselines_have_a_table_of_their_own_and_a_word_in_the_verdict(tmp_path: Path) -> None:
    run = write_platforms(tmp_path / "run", "centralized")
    assert baseline_table(compared([run])).rows == []
    (run / "baselines.json").write_text(json.dumps(BASELINES))
    comparison = compared([run])
    table = baseline_table(comparison)
    metrics = ["mean cross-platform correlation", "A from B: R² of all values"]
    assert table.columns == ["baseline", "test set", *metrics, "samples"]
    assert headline_table(comparison).columns[2] == metrics[0]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["ridge", "held-out set", "0.7500", "0.5000", "40"],
        ["knn", "held-out set", "0.5000", "undefined", "\N{EN DASH}"],
    ]
    assert "Without a network, ridge on pooled training data reaches 0.7500." in verdict(comparison, [])


def test_a_broken_file_of_baselines_is_refused_with_one_line(tmp_path: Path) -> None:
    run = write_platforms(tmp_path / "run", "centralized")
    (run / "baselines.json").write_text('{"rows": [{"model": "ridge", "data": "ada"}]}')
    with pytest.raises(UserError, match=re.escape("baselines.json: rows[0] has no metrics")):
        RunRecord.read(run)


# The page and the files beside it


def test_a_report_on_two_platforms_is_complete(tmp_path: Path) -> None:
    folders = write_comparison(tmp_path, (0,), write_platforms)
    (folders[0] / "baselines.json").write_text(json.dumps(BASELINES))
    page = write_report(folders, tmp_path / "out").read_text()
    assert "Feature by feature" in page and "Baselines without a network (pooled training data)" in page
    stems = {one.stem for one in (tmp_path / "out" / "plots").iterdir()}
    assert {"per_feature_cross_corr", "true_against_predicted"} <= stems
    features = pd.read_csv(tmp_path / "out" / "per_feature.csv")
    assert len(features) == 5 * (2 * 5 + 3 * 4 + 1)
    table, together = (pd.read_csv(tmp_path / "out" / f"feature_{name}.csv") for name in ("report", "summary"))
    keys = ["setting", "model", "data", "part"]
    assert table.groupby(keys).size().to_dict() == {
        tuple(place): {"a_from_b": 3, "b_from_a": 2}[place[-1]] for place in together[keys].to_numpy().tolist()
    }
    row = table[(table.setting == "federated") & (table.data == "bob")].set_index("feature").loc["B: KIT"]
    (federated,) = (folder for folder in folders if "federated" in folder.name)
    with np.load(federated / "predictions" / "federated__bob.npz") as stored:
        both = stored["has_a"] & stored["has_b"]
        target, guess = (stored[f"{kind}_b"][both].astype(np.float64) for kind in ("target", "cross"))
    assert (row["correlation"], row["p_value"]) == pytest.approx((*pearsonr(target[:, 1], guess[:, 1]),), rel=1e-6)
    whole = together[(together.setting == "federated") & (together.data == "bob") & (together.part == "b_from_a")]
    assert whole["overall_r2"].item() == pytest.approx(r2_score(target.ravel(), guess.ravel()), rel=1e-6)
    assert whole["samples"].item() == both.sum()
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert predictions.columns.tolist()[4:8] == ["sample", "unit", "true A: IL6", "true A: TNF"]
    shown = predictions[(predictions.setting == "federated") & (predictions.data == "bob")]
    assert shown["predicted B: KIT"].isna().tolist() == [at % 5 == 0 for at in range(20)]
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    found = [row["mean"] for row in rows if row["table"] == "baselines" and row["data"] == "ada"]
    assert found == [0.25]
