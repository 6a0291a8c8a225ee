import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.errors import UserError
from reports.comparison import compare
from reports.failure_table import failure_table
from reports.fault_study import fault_table, lines, points
from reports.honesty import LISTED, failures, warnings
from reports.report import write_report
from reports.run_folder import RunRecord
from reports.variants import fault_kinds, fault_rate, separated, strategy_name
from tests.run_folders import CLIENTS, edit, write_run

pytestmark = pytest.mark.usefixtures("coarse_pictures")
EXCEPTION = {"kind": "exception", "client": None, "round": None, "times": None}


def write_faulty(
    folder: Path, rules: list[dict[str, Any]], strategy: dict[str, Any] | str = "fedavg", seed: int = 0, **changes: Any
) -> Path:
    """Write a federated run of four rounds, in which client `cyd` is asked and sends nothing in round 2."""
    named = {"name": strategy} if isinstance(strategy, str) else strategy
    federation = {"rounds": 4, "local_epochs": 2, "strategy": named, "faults": rules}
    run = write_run(folder, "federated", seed, config={"federation": federation}, **changes)
    steps = json.loads((run / "history.json").read_text())["steps"]
    for step in steps:
        step["participants"] = CLIENTS
        if rules and step["step"] == 2:
            del step["train"]["cyd"]
    edit(run / "history.json", steps=steps)
    return run


def record(folder: Path, *rules: dict[str, Any], **changes: Any) -> RunRecord:
    return RunRecord.read(write_faulty(folder, list(rules), **changes))


def with_accuracy(run: Path, value: float) -> Path:
    rows = json.loads((run / "eval_summary.json").read_text())["rows"]
    for row in rows:
        row["metrics"]["accuracy"] = value
    edit(run / "eval_summary.json", rows=rows)
    return run


def failure(client: str, step: int, message: str, **more: Any) -> dict[str, Any]:
    return {"client": client, "step": step, "phase": "train", "kind": "failed", "message": message, **more}


# Rates


@pytest.mark.parametrize(
    ("rules", "rate"),
    [
        ([], 0.0),
        ([{**EXCEPTION, "rate": 0.3}], 0.3),
        ([{**EXCEPTION, "rate": 0.3}, {**EXCEPTION, "rate": 0.5}], 1 - 0.7 * 0.5),
        ([{**EXCEPTION, "rate": 0.6, "client": "bob"}], 0.2),
        ([{**EXCEPTION, "round": 2}], 1 / 4),
        ([{**EXCEPTION, "round": 2, "client": "bob"}], 1 / 12),
    ],
)
def test_the_rate_is_the_share_of_requests_that_are_struck(tmp_path: Path, rules: list[Any], rate: float) -> None:
    assert fault_rate(record(tmp_path / "run", *rules)) == pytest.approx(rate)


def test_faults_are_named_by_what_they_do(tmp_path: Path) -> None:
    scaled = {"kind": "scaled", "client": None, "round": None, "rate": 0.1, "times": None, "factor": 10.0}
    assert fault_kinds(record(tmp_path / "a", {**EXCEPTION, "rate": 0.2})) == "exception"
    both = record(tmp_path / "b", scaled, {**EXCEPTION, "rate": 0.2})
    assert fault_kinds(both) == "scaled, factor 10.0 and exception"
    assert fault_kinds(record(tmp_path / "c")) == "no faults"


def test_a_strategy_is_named_with_the_options_in_which_it_differs(tmp_path: Path) -> None:
    one = record(tmp_path / "a", strategy={"name": "krum", "num_malicious_nodes": 0, "same": 1})
    two = record(tmp_path / "b", strategy={"name": "krum", "num_malicious_nodes": 2, "same": 1})
    other = record(tmp_path / "c", strategy="fedavg")
    assert strategy_name(two, [one, two, other]) == "krum, num_malicious_nodes 2"
    assert strategy_name(two, [two, other]) == "krum"


# The study


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    half = [{**EXCEPTION, "rate": 0.5}]
    some = [{**EXCEPTION, "rate": 0.2}]
    failed = {"status": "failed", "error": "too few"}
    return [
        with_accuracy(write_faulty(tmp_path / "avg-0", []), 0.9),
        with_accuracy(write_faulty(tmp_path / "avg-0-seed1", [], seed=1), 0.7),
        with_accuracy(write_faulty(tmp_path / "avg-20", some, status={"status": "degraded"}), 0.6),
        write_faulty(tmp_path / "avg-50", half, status=failed, evaluated=False),
        with_accuracy(write_faulty(tmp_path / "median-20", some, "fedmedian"), 0.65),
        write_run(tmp_path / "local", "local"),
    ]


def test_points_are_means_over_seeds_by_strategy_and_rate(study: list[Path]) -> None:
    found = points(compare([RunRecord.read(run) for run in study]))
    assert [(one.strategy, one.rate, len(one.runs), one.failed) for one in found] == [
        ("fedavg", 0.0, 2, 0),
        ("fedavg", 0.2, 1, 0),
        ("fedavg", 0.5, 1, 1),
        ("fedmedian", 0.2, 1, 0),
    ]
    assert found[0].metric.values == pytest.approx((0.9, 0.7))
    assert found[2].metric.values == ()
    assert [one.participation.mean for one in found] == pytest.approx([1, 5 / 6, 5 / 6, 5 / 6])


def test_runs_without_faults_begin_the_line_of_each_kind_of_fault(tmp_path: Path) -> None:
    folders = [write_faulty(tmp_path / "0", [])]
    folders += [write_faulty(tmp_path / kind, [{**EXCEPTION, "kind": kind, "rate": 0.2}]) for kind in ("nan", "slow")]
    drawn = lines(points(compare([RunRecord.read(run) for run in folders])))
    assert {label: [one.rate for one in line] for label, line in drawn.items()} == {
        "fedavg: nan": [0.0, 0.2],
        "fedavg: slow": [0.0, 0.2],
    }


def test_the_comparison_is_with_the_runs_that_suffer_least(study: list[Path]) -> None:
    comparison = compare([RunRecord.read(run) for run in study])
    assert [one.folder.name for one in comparison.records] == ["avg-0", "avg-0-seed1", "local"]
    assert len(comparison.study) == 5 and len(comparison.everyone) == 6
    line = comparison.line("federated", "held_out")
    assert line is not None
    assert line.scores["accuracy"].values == pytest.approx((0.9, 0.7))
    assert "only those with fedavg, no faults." in fault_table(comparison).note


def test_runs_that_all_suffer_alike_are_no_study_and_say_so(tmp_path: Path) -> None:
    records = [record(tmp_path / f"seed{seed}", {**EXCEPTION, "rate": 0.2}, seed=seed) for seed in (0, 1)]
    assert separated(records) == (records, [])
    assert fault_table(compare(records)).rows == []
    assert warnings(records) == [
        "Faults on purpose (federation.faults): federated (seed 0, 1). These are the scores under faults."
    ]


def test_two_runs_that_are_alike_in_everything_are_refused_in_a_study_too(study: list[Path], tmp_path: Path) -> None:
    again = write_faulty(tmp_path / "again", [{**EXCEPTION, "rate": 0.2}])
    with pytest.raises(UserError, match="leave one of the two out"):
        compare([RunRecord.read(run) for run in [*study, again]])


def test_a_report_on_a_study_is_complete(study: list[Path], tmp_path: Path) -> None:
    page = write_report(study, tmp_path / "out").read_text()
    assert "<h2>Under faults</h2>" in page and "6 runs" in page
    assert (tmp_path / "out" / "plots" / "faults.png").exists()
    table = pd.read_csv(tmp_path / "out" / "fault_study.csv")
    assert table.run_folder.tolist() == ["avg-0", "avg-0-seed1", "avg-20", "avg-50", "median-20"]
    assert table.accuracy.isna().tolist() == [False, False, False, True, False]
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(content["runs"]) == 6
    assert content["failures"] == [
        "federated, seed 0 (avg-20): degraded: it went on without clients that failed.",
        "federated, seed 0 (avg-50): failed: too few",
    ]


# Failures


def test_failures_are_counted_by_client_and_kind_with_a_link_to_the_traceback(tmp_path: Path) -> None:
    told = [
        failure("bob", 1, "CUDA out of memory: 12 MiB", traceback=None),
        failure("bob", 3, "CUDA out of memory: 14 MiB", traceback="failures/bob train-3.txt"),
        failure("bob", 2, "gone", traceback="failures/lost.txt"),
        failure("ada", 2, "gone"),
    ]
    cured = [failure("bob", step, "gone") for step in (1, 2)]
    status = {"status": "degraded", "failures": told, "retried": cured}
    run = write_run(tmp_path / "runs" / "run", "federated", status=status)
    (run / "failures").mkdir()
    (run / "failures" / "bob train-3.txt").write_text("Traceback")
    table = failure_table([RunRecord.read(run)], tmp_path / "out")
    assert [[cell.text for cell in row[1:]] for row in table.rows] == [
        ["ada", "train", "failed", "given up", "1", "2", "gone", "none"],
        ["bob", "train", "failed", "asked again", "2", "1 to 2", "gone", "none"],
        ["bob", "train", "failed", "given up", "2", "1 to 3", "CUDA out of memory: 12 MiB", "failures/bob train-3.txt"],
        ["bob", "train", "failed", "given up", "1", "2", "gone", "failures/lost.txt"],
    ]
    assert [row[-1].href for row in table.rows] == ["", "", "../runs/run/failures/bob%20train-3.txt", ""]
    page = write_report([run], tmp_path / "out").read_text()
    assert '<a href="../runs/run/failures/bob%20train-3.txt">failures/bob train-3.txt</a>' in page
    assert page.index("degraded: it went on") < page.index("bob failed in train of step 1") < page.index('verdict">')


def test_of_many_failures_the_page_begins_with_a_few(tmp_path: Path) -> None:
    told = [failure("bob", step, "gone") for step in range(1, LISTED + 4)]
    run = write_run(tmp_path / "run", "federated", status={"status": "degraded", "failures": told})
    found = failures([RunRecord.read(run)])
    assert len(found) == 1 + LISTED + 1
    assert found[0].endswith("degraded: it went on without clients that failed.")
    assert found[-1] == "3 more failures of clients; the table of failures has all."
