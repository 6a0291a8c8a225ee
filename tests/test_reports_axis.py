import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import classification_report, r2_score

from reports.axis import axis_columns, axis_scores, axis_table, short_name
from reports.bootstrap import MIN_UNITS, difference_interval, mean_interval, recomputed
from reports.comparison import compare
from reports.costs import costs
from reports.honesty import warnings
from reports.kinds import Classes, Values
from reports.measures import OF_VALUES
from reports.report import write_report
from reports.run_folder import RunRecord
from reports.stored import predicted_on, read_predicted
from reports.tables import client_table, cost_table, further_table, headline_table
from reports.units import by_unit, unit_table
from reports.verdict import verdict
from tests.run_folders import (
    CLIENTS,
    compared,
    edit,
    known_pairs,
    write_comparison,
    write_genes,
    write_nuclei,
    write_run,
)

pytestmark = pytest.mark.usefixtures("coarse_pictures")


@pytest.fixture(scope="module")
def genes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_comparison(tmp_path_factory.mktemp("genes"), (0,), write_genes)


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_comparison(tmp_path_factory.mktemp("nuclei"), (0,), write_nuclei)


# Per class and per gene


def test_the_class_report_is_that_of_scikit_learn(tmp_path: Path) -> None:
    record = RunRecord.read(write_run(tmp_path / "run", "federated"))
    target, guess = known_pairs("federated", 0)["federated", "ada"]
    columns = axis_columns(record, "federated", "ada")
    expected = classification_report(target, guess, output_dict=True)
    for name, key in {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}.items():
        assert columns[name] == pytest.approx([expected["0"][key], expected["1"][key]])


def test_what_no_sample_defines_is_undefined_per_class(tmp_path: Path) -> None:
    pairs = {("federated", client): (np.zeros(4, int), np.zeros(4, int)) for client in CLIENTS}
    record = RunRecord.read(write_run(tmp_path / "run", "federated", pairs=pairs))
    columns = axis_columns(record, "federated", "ada")
    assert columns["recall"][0] == 1 and columns["support"].tolist() == [4, 0]
    assert all(math.isnan(columns[name][1]) for name in ("precision", "recall", "f1"))


@pytest.mark.parametrize(
    ("name", "short"),
    [("f1_per_class", "f1"), ("class_f1", "f1"), ("per_class_f1", "f1"), ("support", "support"), ("class", "class")],
)
def test_columns_leave_out_what_the_table_says(name: str, short: str) -> None:
    assert short_name(name, "class") == short


def test_local_models_are_averaged_per_gene_on_the_held_out_set(genes: list[Path]) -> None:
    comparison = compared(genes)
    scores = axis_scores(comparison)
    assert scores is not None
    assert (scores.noun, scores.columns, scores.support) == ("gene", ["spearman", "pearson", "mse"], None)
    local = next(record for record in comparison.records if record.setting == "local")
    each = [local.arrays(client, "held_out")["spearman_per_gene"] for client in CLIENTS]
    assert scores.means("local", "spearman") == pytest.approx(np.mean(each, axis=0))
    assert len(axis_table(scores, comparison).columns) == 1 + 3 * 3


def test_of_many_genes_the_page_shows_the_best_and_the_worst(tmp_path: Path) -> None:
    comparison = compared([write_genes(tmp_path / "run", "federated", genes=30, tiles=2)])
    scores = axis_scores(comparison)
    assert scores is not None
    table = axis_table(scores, comparison)
    values = sorted(scores.means("federated", "spearman"), reverse=True)
    assert len(table.rows) == 21
    assert [row[1].text for row in table.rows] == [f"{v:.4f}" for v in values[:10]] + [""] + [
        f"{v:.4f}" for v in values[-10:]
    ]
    assert "10 best and the 10 worst of 30" in table.note and "per_gene.csv" in table.note


# Means, pooled scores, counts


def test_the_weighted_mean_of_the_clients_is_not_the_pooled_score(tmp_path: Path) -> None:
    run = write_genes(tmp_path / "run", "federated")
    content = json.loads((run / "eval_summary.json").read_text())
    support = {"ada": 10, "bob": 30, "cyd": 60}
    for row in content["rows"]:
        row["support"] = support.get(row["data"], row["support"])
        row["metrics"]["spearman"] = {"ada": 0.2, "bob": 0.4, "cyd": None}.get(row["data"], 0.9)
    edit(run / "eval_summary.json", rows=content["rows"])
    comparison = compared([run])
    mean, pooled = comparison.line("federated", "mean"), comparison.line("federated", "pooled")
    assert mean is not None and pooled is not None
    assert mean.scores["spearman"].mean == pytest.approx((0.2 * 10 + 0.4 * 30) / 40)
    assert mean.models == (2, 3)
    assert pooled.scores["spearman"].mean == 0.9
    rows = {row[1].text: row for row in headline_table(comparison).rows}
    assert rows["weighted mean of the clients"][2].small == "2 of 3 clients defined"


def test_counts_are_shown_and_not_judged(genes: list[Path]) -> None:
    comparison = compared(genes)
    assert comparison.counts == ["undefined_genes"]
    assert "undefined_genes" not in comparison.metrics
    assert "undefined" not in verdict(comparison, [])
    table = headline_table(comparison)
    at = table.columns.index("undefined genes")
    assert {row[at].text for row in table.rows} == {"0", "\N{EN DASH}"}
    cells = {row[0].text: row for row in client_table(comparison).rows}
    assert "undefined genes: 1" in cells["cyd"][2].small
    assert "undefined" not in cells["ada"][2].small


def test_different_undefined_genes_are_a_warning(tmp_path: Path) -> None:
    folders = write_comparison(tmp_path, (0,), write_genes)
    assert warnings([RunRecord.read(folder) for folder in folders]) == []
    path = tmp_path / "federated-seed0" / "eval_summary.json"
    rows = json.loads(path.read_text())["rows"]
    next(row for row in rows if row["data"] == "held_out")["metrics"]["undefined_genes"] = 2.0
    edit(path, rows=rows)
    assert warnings([RunRecord.read(folder) for folder in folders]) == [
        "Undefined genes on the held-out set: not the same: centralized 0, federated 2, local 0. Undefined ones are "
        "left out of a mean, so the means are not over the same ones."
    ]


def test_correlations_that_do_not_follow_from_the_predictions_are_a_warning(tmp_path: Path) -> None:
    run = write_genes(tmp_path / "run", "centralized")
    rows = json.loads((run / "eval_summary.json").read_text())["rows"]
    next(row for row in rows if row["data"] == "bob")["metrics"]["spearman"] = 0.5
    edit(run / "eval_summary.json", rows=rows)
    record = RunRecord.read(run)
    assert warnings([record]) == [
        "centralized, seed 0: stored predictions give other results than reported: centralized on bob."
    ]
    intervals = {row.client: row.intervals["centralized"] for row in compare([record]).per_client}
    assert intervals["bob"] is None and intervals["ada"] is not None


def test_many_metrics_go_into_a_second_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "federated")
    content = json.loads((run / "eval_summary.json").read_text())
    for row in content["rows"]:
        row["metrics"] |= {f"score_{number}": 0.5 for number in range(6)}
    names = dict.fromkeys(content["rows"][0]["metrics"], True)
    edit(run / "eval_summary.json", rows=content["rows"], higher_is_better={**names, "loss": False})
    comparison = compared([run])
    columns = headline_table(comparison).columns
    assert columns[2:] == ["accuracy", "macro-F1", "score 0", "score 1", "loss", "samples"]
    assert further_table(comparison).columns == ["setting", "test set", *(f"score {number}" for number in range(2, 6))]


# Resampling


@pytest.mark.parametrize("metric", ["spearman", "pearson", "r2", "mse", "mae"])
def test_metrics_of_values_are_those_of_the_samples_drawn(metric: str) -> None:
    draw = np.random.default_rng(0)
    target = draw.normal(size=(30, 4)).round(1)
    guess = (target + draw.normal(size=target.shape)).round(1)
    target[:, 3] = 2.0
    weights = draw.multinomial(30, np.full(30, 1 / 30), 5)
    drawn = [np.arange(30).repeat(one) for one in weights]
    by_hand = {
        "spearman": lambda t, p: np.mean([spearmanr(t[:, k], p[:, k])[0] for k in range(3)]),
        "pearson": lambda t, p: np.mean([pearsonr(t[:, k], p[:, k])[0] for k in range(3)]),
        "r2": lambda t, p: r2_score(t[:, :3], p[:, :3]),
        "mse": lambda t, p: np.mean((t - p) ** 2),
        "mae": lambda t, p: np.mean(np.abs(t - p)),
    }
    expected = [by_hand[metric](target[one], guess[one]) for one in drawn]
    assert OF_VALUES[metric](target, guess, weights.astype(float)) == pytest.approx(expected, abs=1e-12)
    assert recomputed(Values(None, target, guess), metric) == pytest.approx(by_hand[metric](target, guess))


def test_units_are_drawn_whole() -> None:
    """Twenty units of twenty equal samples carry the information of twenty samples, not of four hundred."""
    right = np.arange(20) % 5 > 0
    target, guess = np.zeros(400, int), (~right).astype(int).repeat(20)
    units = np.arange(20).repeat(20).astype(str)
    samples = mean_interval([Classes(None, target, guess)], "accuracy")
    clusters = mean_interval([Classes(None, target, guess, units_N=units)], "accuracy")
    alone = mean_interval([Classes(None, target[::20], guess[::20])], "accuracy")
    assert samples is not None and clusters is not None and alone is not None
    assert (samples.over, clusters.over) == ("test samples", "biological units")
    assert samples.high - samples.low == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / 400), rel=0.15)
    assert clusters.high - clusters.low == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / 20), rel=0.15)
    assert clusters.high - clusters.low == pytest.approx(alone.high - alone.low, abs=0.051)


def test_values_are_drawn_by_units_too() -> None:
    draw = np.random.default_rng(1)
    target, guess = (draw.normal(size=(20, 3)).repeat(20, axis=0) for _ in range(2))
    units = np.arange(20).repeat(20).astype(str)
    widths = []
    for known in (None, units):
        interval = mean_interval([Values(None, target, guess, units_N=known)], "pearson")
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] > 3 * widths[0]


def test_gains_of_values_are_paired_whatever_the_order() -> None:
    draw = np.random.default_rng(2)
    names, order = np.array([f"s{n:02d}" for n in range(40)]), draw.permutation(40)
    target = draw.normal(size=(40, 2))
    guess = target + draw.normal(size=target.shape)
    first, second = Values(names, target, guess), Values(names[order], target[order] + 1e-6, guess[order])
    interval = difference_interval([first], [second], "spearman")
    assert interval is not None
    assert (interval.low, interval.high) == (0, 0)
    assert difference_interval([first], [Values(names, target + 1, guess)], "spearman") is None


def test_few_units_and_metrics_that_are_seldom_defined_have_no_interval() -> None:
    target = np.arange(40).reshape(-1, 1).astype(float)
    few = np.arange(40) % (MIN_UNITS - 1)
    assert mean_interval([Values(None, target, target, units_N=few)], "pearson") is None
    assert mean_interval([Values(None, target, np.zeros_like(target))], "pearson") is None
    assert math.isnan(recomputed(Values(None, target, np.zeros_like(target)), "pearson"))


def test_equal_unit_names_of_two_clients_are_two_units(nuclei: list[Path]) -> None:
    pooled = predicted_on(RunRecord.read(nuclei[0]), "centralized", "pooled")
    assert pooled is not None and pooled.units_N is not None
    assert len(np.unique(pooled.units_N)) == 30


# Units


def test_the_mean_probability_of_its_crops_decides_the_class_of_a_nucleus(nuclei: list[Path]) -> None:
    units = by_unit(read_predicted(RunRecord.read(nuclei[1]), "federated", "ada", scores=True))
    assert units is not None
    assert units.samples_U.tolist() == [6] * 10
    names = units.classes.samples_N
    assert names is not None
    assert names[units.classes.predicted_N != units.classes.target_N].tolist() == ["nucleus 1"]
    rows = unit_table(compared(nuclei)).rows
    assert [row[2].text for row in rows] == ["20"] * 3 + ["30"] * 3
    assert [row[3].text for row in rows] == ["0.9500"] * 3 + ["0.9000"] * 3


def test_units_of_several_classes_or_of_one_sample_are_not_scored() -> None:
    target, scores = np.array([0, 1, 1, 1]), np.full((4, 2), 0.5)
    mixed, single = np.array(["u", "u", "v", "v"]), np.array(["a", "b", "c", "d"])
    assert by_unit(Classes(None, target, target, units_N=mixed, scores_NK=scores)) is None
    assert by_unit(Classes(None, target, target, units_N=single, scores_NK=scores)) is None
    assert by_unit(Classes(None, target, target, units_N=mixed)) is None
    assert by_unit(None) is None


# The page and the files beside it


def test_a_report_on_genes_is_complete(genes: list[Path], tmp_path: Path) -> None:
    page = write_report(genes, tmp_path).read_text()
    for words in (
        "Gene by gene",
        "biological units (all samples of a unit are drawn together)",
        "weighted mean of the",
    ):
        assert words in page
    stems = {one.stem for one in (tmp_path / "plots").iterdir()}
    assert {"per_gene_spearman", "true_against_predicted", "learning_rate_curve", "spearman_curve"} <= stems
    assert page.count("data:image/png;base64,") == len(stems)
    assert not (tmp_path / "units.csv").exists()
    table = pd.read_csv(tmp_path / "per_gene.csv")
    assert len(table) == 4 * (2 * 5 + 3 * 4 + 1)
    constant = table[(table.data == "cyd") & (table.gene == "gene 3")]
    assert constant.spearman.isna().all() and constant.mse.notna().all()
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert len(predictions) == 3 * 240 + 5 * 160
    stored = RunRecord.read(genes[0]).predictions("centralized", "held_out")
    shown = predictions[(predictions.setting == "centralized") & (predictions.data == "held_out")]
    assert shown["predicted gene 2"].to_numpy() == pytest.approx(stored["predicted"][:, 2], rel=1e-6)
    assert shown["unit"].tolist() == stored["unit"].tolist()


def test_a_report_on_nuclei_is_complete(nuclei: list[Path], tmp_path: Path) -> None:
    page = write_report(nuclei[1:2], tmp_path).read_text()
    assert "Class by class" in page and "Unit by unit" in page
    stems = {one.stem for one in (tmp_path / "plots").iterdir()}
    assert {"confusion_matrix", "confusion_matrix_normalized", "confusion_matrix_units", "per_class_bars"} <= stems
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert predictions.columns.tolist()[4:] == ["sample", "unit", "true", "predicted", "score a", "score b"]
    units = pd.read_csv(tmp_path / "units.csv")
    assert len(units) == 50
    assert units[units.true != units.predicted].unit.unique().tolist() == ["nucleus 1"]
    assert pd.read_csv(tmp_path / "per_class.csv").columns.tolist()[4:] == [
        "class",
        "precision",
        "recall",
        "f1",
        "support",
    ]


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_metric_that_is_undefined_everywhere_has_a_report(tmp_path: Path, value: float | None) -> None:
    folders = write_comparison(tmp_path, (0,), write_genes)
    for folder in folders:
        content = json.loads((folder / "eval_summary.json").read_text())
        for row in content["rows"]:
            row["metrics"] = {"loss": value, "spearman": value, "undefined_genes": 4}
            row["arrays"] = {"spearman_per_gene": [value] * 4}
        edit(folder / "eval_summary.json", rows=content["rows"])
        history = json.loads((folder / "history.json").read_text())
        for step in history["steps"]:
            for entry in [*step["train"].values(), *step.get("val", {}).values()]:
                entry["metrics"] = dict.fromkeys(entry["metrics"], value)
        edit(folder / "history.json", steps=history["steps"])
    page = write_report(folders, tmp_path / "out").read_text()
    assert "Spearman is undefined on the held-out set" in page
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r"base64,[^\"]*", "", page))
    assert (tmp_path / "out" / "plots" / "per_gene_spearman.png").exists()


def test_a_run_with_one_class_and_no_predictions_has_a_report(tmp_path: Path) -> None:
    pairs = {("federated", data): (np.zeros(5, int), np.zeros(5, int)) for data in (*CLIENTS, "held_out")}
    run = write_run(tmp_path / "run", "federated", pairs=pairs, classes=["only"])
    for path in (run / "predictions").iterdir():
        path.unlink()
    page = write_report([run], run).read_text()
    assert "No interval for accuracy" in page
    assert not (run / "predictions.csv").exists()
    assert (run / "per_class.csv").exists()


def test_running_and_degraded_runs_have_a_report(tmp_path: Path) -> None:
    running = write_genes(tmp_path / "running", "local", status={"status": "running"}, evaluated=False)
    degraded = write_genes(tmp_path / "degraded", "federated", status={"status": "degraded"})
    content = json.loads((degraded / "eval_summary.json").read_text())
    rows = [row for row in content["rows"] if row["data"] != "bob"]
    edit(degraded / "eval_summary.json", rows=rows)
    (degraded / "predictions" / "federated__bob.npz").unlink()
    page = write_report([running, degraded], tmp_path / "out").read_text()
    assert "not finished" in page and "Gene by gene" in page
    line = compared([degraded]).line("federated", "pooled")
    assert line is not None and line.intervals == {}


def test_skipped_steps_and_processes_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "centralized", manifest={"oom_skipped": 3, "processes": 2})
    record = RunRecord.read(run)
    assert warnings([record]) == [
        "Out of memory, training steps skipped: 3 in centralized, seed 0. Those samples were not learnt from."
    ]
    assert cost_table(costs([record])).rows[0][1].text == "4 epochs, 2 processes"
