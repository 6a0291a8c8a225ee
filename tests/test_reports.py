import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from typer.testing import CliRunner

from core.errors import UserError
from reports.__main__ import app
from reports.bootstrap import difference_interval, mean_interval
from reports.comparison import Comparison
from reports.honesty import failures, warnings
from reports.kinds import Classes
from reports.measures import OF_CLASSES
from reports.numbers import Spread, number
from reports.report import write_report
from reports.run_folder import RunRecord
from reports.verdict import verdict
from tests.run_folders import CLIENTS, compared, edit, known_pairs, write_comparison, write_run

pytestmark = pytest.mark.usefixtures("coarse_pictures")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_comparison(tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="module")
def both_seeds(folders: list[Path]) -> Comparison:
    return compared(folders)


@pytest.mark.parametrize(
    ("setting", "mean", "sd"),
    [("centralized", 0.85, math.sqrt(0.005)), ("federated", 0.8, 0.0), ("local", 0.55, math.sqrt(0.005))],
)
def test_headline_is_the_mean_over_seeds_and_over_local_models(
    both_seeds: Comparison, setting: str, mean: float, sd: float
) -> None:
    line = both_seeds.line(setting, "held_out")
    assert line is not None
    assert line.scores["accuracy"].mean == pytest.approx(mean)
    assert line.scores["accuracy"].sd == pytest.approx(sd)
    assert line.support == 20


def test_local_models_have_a_range_on_the_held_out_set(both_seeds: Comparison) -> None:
    line = both_seeds.line("local", "held_out")
    assert line is not None
    assert line.ranges["accuracy"] == (0.5, 0.7)
    assert line.models == (6, 6)


def test_pooled_local_score_is_every_client_with_its_own_model(both_seeds: Comparison) -> None:
    line = both_seeds.line("local", "pooled")
    assert line is not None
    assert line.scores["accuracy"].values == pytest.approx((22 / 30, 20 / 30))


@pytest.mark.parametrize("primary", ["accuracy", "loss"])
def test_price_and_gain_have_the_same_sign_for_both_directions(tmp_path: Path, primary: str) -> None:
    comparison = compared(write_comparison(tmp_path, primary=primary))
    rows = {row.client: row for row in comparison.per_client}
    assert comparison.higher_is_better == (primary == "accuracy")
    assert {client: rows[client].price.mean for client in CLIENTS} == pytest.approx(
        {"ada": 0.15, "bob": 0.05, "cyd": -0.1}
    )
    assert {client: rows[client].gain.mean for client in CLIENTS} == pytest.approx(
        {"ada": 0.2, "bob": -0.15, "cyd": 0.3}
    )
    assert rows["ada"].price.values == pytest.approx((0.1, 0.2))


def test_price_and_gain_use_only_the_seeds_that_both_settings_have(folders: list[Path]) -> None:
    without = [folder for folder in folders if folder.name != "local-seed0"]
    rows = {row.client: row for row in compared(without).per_client}
    assert rows["cyd"].gain.values == pytest.approx((0.4,))
    assert len(rows["cyd"].price.values) == 2


def test_cross_site_matrix_holds_every_model_on_every_set(both_seeds: Comparison) -> None:
    matrix = both_seeds.cross_site
    assert matrix.models == ["centralized", "federated", *CLIENTS]
    assert matrix.data == [*CLIENTS, "pooled", "held_out"]
    assert matrix.scores[2][1].mean == pytest.approx(0.5)
    assert matrix.scores[2][3].values == ()


def test_a_single_seed_is_shown_as_it_is_and_two_with_their_spread() -> None:
    assert Spread((0.8,)).text() == "0.8000"
    assert Spread((0.8, 0.9)).text() == "0.8500 ± 0.0707"
    assert Spread((0.8, math.nan)).text() == "0.8000 (1 of 2 seeds defined)"
    assert Spread((math.nan,)).text() == "undefined"
    assert (number(0.00001234), number(-0.05, signed=True), number(0.0)) == ("1.234e-05", "-0.0500", "0.0000")


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "balanced_accuracy"])
def test_metrics_of_the_bootstrap_are_those_of_scikit_learn(metric: str) -> None:
    draw = np.random.default_rng(3)
    target, guess = draw.integers(0, 4, 60), draw.integers(0, 3, 60)
    counts = np.zeros((6, 6))
    np.add.at(counts, (target, guess), 1)
    expected = {
        "accuracy": accuracy_score(target, guess),
        "f1_macro": f1_score(target, guess, average="macro"),
        "balanced_accuracy": balanced_accuracy_score(target, guess),
    }
    assert OF_CLASSES[metric](counts) == pytest.approx(expected[metric])


def test_interval_has_the_width_of_the_binomial() -> None:
    guess = np.zeros(400, int)
    target = np.arange(400) % 5 == 0
    interval = mean_interval([Classes(None, target.astype(int), guess)], "accuracy")
    assert interval is not None
    deviation = math.sqrt(0.8 * 0.2 / 400)
    assert interval.low == pytest.approx(0.8 - 1.96 * deviation, abs=0.01)
    assert interval.high == pytest.approx(0.8 + 1.96 * deviation, abs=0.01)


def test_difference_is_paired_by_sample_whatever_the_order() -> None:
    draw = np.random.default_rng(0)
    ids, target = np.array([f"s{n:03d}" for n in range(200)]), draw.integers(0, 2, 200)
    guess = np.where(draw.random(200) < 0.7, target, 1 - target)
    order = draw.permutation(200)
    first, second = Classes(ids, target, guess), Classes(ids[order], target[order], guess[order])
    interval = difference_interval([first], [second], "accuracy")
    assert interval is not None
    assert (interval.low, interval.high) == (0, 0)


def test_there_is_no_interval_between_different_samples(both_seeds: Comparison) -> None:
    one = Classes(np.array(["a", "b"]), np.array([0, 1]), np.array([0, 1]))
    other = Classes(np.array(["a", "c"]), np.array([0, 1]), np.array([0, 1]))
    assert difference_interval([one], [other], "accuracy") is None
    assert mean_interval([one], "dice") is None
    assert mean_interval([None], "accuracy") is None
    assert both_seeds.per_client[0].gain_interval is not None


def test_runs_that_differ_in_the_setting_alone_give_no_warning(both_seeds: Comparison) -> None:
    assert warnings(both_seeds.records) == []
    assert failures(both_seeds.records) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"budget": {"samples": 480, "rounds": 2, "local_epochs": 4}},
            "Samples seen in training: not the same: 240 in",
        ),
        ({"data": {"ada": "other", "bob": "data of bob", "cyd": "data of cyd"}}, "Data of ada: not the same"),
        ({"initial_sha256": "f" * 64}, "Initial weights: not the same"),
        ({"fitted_sha256": {"federated": "e" * 64}}, "Fitted preprocessing: not the same"),
        ({"select": "last"}, "Rule for the final weights (select): not the same"),
        ({"monitor": "loss"}, "Monitored metric: not the same"),
        ({"environment": {"code": "fff", "device": "cpu", "versions": {"torch": "2.13.0"}}}, "Code: not the same"),
    ],
)
def test_each_difference_is_named_once(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    folders = write_comparison(tmp_path, seeds=(0,))
    edit(tmp_path / "federated-seed0" / "manifest.json", **changes)
    found = warnings([RunRecord.read(folder) for folder in folders])
    assert len(found) == 1
    assert found[0].startswith(words)
    assert "federated (seed 0)" in found[0]


def test_a_dry_run_is_no_result(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "centralized", manifest={"dry_run": True})
    assert warnings([RunRecord.read(run)]) == [
        "Dry run on a few batches: centralized (seed 0). The numbers show that it runs, nothing else."
    ]


def test_validation_that_stands_for_the_test_is_said(tmp_path: Path) -> None:
    files = {"test": {"units": ["x"], "borrowed_from": "val"}}
    described = {"train": 40, "val": 20, "test": 20, "files": files}
    run = write_run(tmp_path / "run", "centralized", manifest={"clients": dict.fromkeys(("ada", "bob"), described)})
    assert [text for text in warnings([RunRecord.read(run)]) if "No test split" in text] == [
        "No test split: centralized (seed 0). Validation samples stand for it, and they chose the epoch or round."
    ]


def test_options_are_compared_key_by_key_but_resources_are_not(tmp_path: Path) -> None:
    train = {"lr": 0.1, "optimizer": {"name": "sgd", "momentum": 0.9}, "limit_batches": None}
    federation = {"rounds": 2, "local_epochs": 2, "strategy": {"name": "fedavg"}, "workers": 4}
    runs = [write_run(tmp_path / "a", "centralized"), write_run(tmp_path / "b", "federated")]
    runs.append(write_run(tmp_path / "c", "federated", 1, config={"train": train, "federation": federation}))
    found = warnings([RunRecord.read(run) for run in runs])
    assert found[0].startswith("Seeds differ: centralized 0; federated 0, 1.")
    assert found[1:] == [
        "train.lr: not the same: 0.01 in centralized (seed 0), federated (seed 0); 0.1 in federated (seed 1). "
        "The runs are not one experiment."
    ]


def test_confusion_matrices_are_recomputed_from_predictions(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "federated")
    record = RunRecord.read(run)
    target, guess = known_pairs("federated", 0)["federated", "held_out"]
    matrix = [[int(np.sum((target == t) & (guess == p))) for p in (0, 1)] for t in (0, 1)]
    row = record.row("federated", "held_out")
    assert row is not None
    assert row["arrays"]["confusion_matrix"] == matrix == [[8, 2], [2, 8]]
    assert warnings([record]) == []
    rows = [dict(one) for one in record.rows]
    rows[-2]["arrays"] = {"confusion_matrix": [[9, 1], [2, 8]]}
    edit(run / "eval_summary.json", rows=rows)
    assert warnings([RunRecord.read(run)]) == [
        "federated, seed 0: stored predictions give other results than reported: federated on held_out."
    ]


@pytest.mark.parametrize("state", ["failed", "running"])
def test_the_report_of_an_unfinished_run_starts_with_that(tmp_path: Path, state: str) -> None:
    failure = {"client": "bob", "step": 2, "phase": "train", "kind": "failed", "message": "disk full"}
    status = {"status": state, "error": "1 good reply, 3 needed", "failures": [failure]}
    run = write_run(tmp_path / "run", "federated", status=status, evaluated=False)
    page = write_report([run], run).read_text()
    body = page[page.index("<body>") :]
    shown = "failed: 1 good reply, 3 needed" if state == "failed" else "not finished"
    assert (
        0
        < body.index(shown)
        < body.index("bob failed in train of step 2: disk full")
        < body.index("No run has a result")
    )
    assert (run / "plots" / "loss_curve.png").exists()


def test_a_run_that_failed_before_its_first_step_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "local", status={"status": "failed", "error": "no data"}, evaluated=False)
    (run / "history.json").unlink()
    assert "local, seed 0: failed: no data" in write_report([run], run).read_text()


def test_a_task_without_classes_has_a_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "federated", primary="loss")
    rows = [{**row, "arrays": {}, "metrics": {"loss": row["metrics"]["loss"]}} for row in RunRecord.read(run).rows]
    edit(run / "eval_summary.json", rows=rows, classes=None)
    edit(run / "manifest.json", clients={client: {"train": 20, "val": 10, "test": 10} for client in CLIENTS})
    for path in (run / "predictions").iterdir():
        np.savez(path, target=np.zeros((10, 4, 4)), predicted=np.zeros((10, 4, 4)))
    page = write_report([run], run).read_text()
    assert "Federated training reaches loss 0.2000 on the held-out set." in page
    assert not (run / "plots" / "confusion_matrix.png").exists()


def test_a_failed_run_beside_finished_ones_is_named_first(tmp_path: Path) -> None:
    folders = write_comparison(tmp_path, seeds=(0,))[:2]
    status = {"status": "failed", "error": "out of memory"}
    folders.append(write_run(tmp_path / "failed", "local", status=status, evaluated=False))
    page = write_report(folders, tmp_path / "out").read_text()
    assert page.index("local, seed 0: failed: out of memory") < page.index('class="verdict"')


def test_degraded_runs_are_failures_and_warnings(tmp_path: Path) -> None:
    failure = {"client": "bob", "step": 1, "phase": "evaluate", "message": "gone"}
    run = write_run(tmp_path / "run", "federated", status={"status": "degraded", "failures": [failure]})
    record = RunRecord.read(run)
    assert len(failures([record])) == 2
    assert warnings([record]) == ["Degraded: federated (seed 0). Some clients took no part in all of it."]


def test_a_report_is_one_page_without_network_and_with_pictures_beside_it(folders: list[Path], tmp_path: Path) -> None:
    path = write_report(folders, tmp_path / "out")
    page = path.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|https?://|<script""", page)
    stems = {one.stem for one in (tmp_path / "out" / "plots").iterdir()}
    curves = {"loss_curve", "accuracy_curve", "f1_macro_curve", "learning_rate_curve", "per_client_curves"}
    kinds = ("confusion_matrix", "confusion_matrix_normalized")
    matrices = {f"{kind}_{setting}" for kind in kinds for setting in ("centralized", "federated", "local")}
    bars = {"per_client_bars", "per_client_gain", "per_class_bars"}
    assert stems == curves | matrices | bars | {"cross_site", "bytes_per_round"}
    assert page.count("data:image/png;base64,") == len(stems)
    assert "6.00 kB" in page and "12.00 kB" in page


@pytest.mark.parametrize("setting", ["centralized", "federated", "local"])
def test_every_setting_alone_gives_a_report(tmp_path: Path, setting: str) -> None:
    run = write_run(tmp_path / "run", setting)
    page = write_report([run], run).read_text()
    assert (run / "plots" / "confusion_matrix.png").exists()
    assert (run / "plots" / "loss_curve.png").exists()
    assert "price of not pooling" not in page
    assert not (run / "comparison.csv").exists()


def test_names_are_escaped(tmp_path: Path) -> None:
    name = "<b>x<i>"
    pairs = {("federated", data): known_pairs("federated", 0)["federated", "ada"] for data in (name, "b$o^$b")}
    run = write_run(tmp_path / "run", "federated", pairs=pairs, clients=[name, "b$o^$b"], classes=["<u>a", "b"])
    page = write_report([run], run).read_text()
    assert "&lt;b&gt;x&lt;i&gt;" in page
    assert name not in page and "<u>a" not in page


def test_undefined_metrics_are_shown_with_their_support(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "federated")
    rows = [dict(one) for one in RunRecord.read(run).rows]
    for row in rows:
        if row["data"] == "bob":
            row.update(metrics={"loss": 0.5, "accuracy": math.nan}, support=3)
        if row["data"] == "cyd":
            row.update(metrics={}, support=0)
    edit(run / "eval_summary.json", rows=rows)
    page = write_report([run], run).read_text()
    assert "undefined (n = 3)" in page and "undefined (n = 0)" in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))


def test_a_local_model_without_a_score_is_left_out_of_the_mean_and_counted(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / setting, setting) for setting in ("federated", "local")]
    rows = [dict(one) for one in RunRecord.read(runs[1]).rows]
    for row in rows:
        if row["data"] == "held_out" and row["model"] == "bob":
            row["metrics"] = {"loss": 0.5, "accuracy": None}
    edit(runs[1] / "eval_summary.json", rows=rows)
    assert "the mean of the local models with a score (2 of 3)" in verdict(compared(runs), [])


def test_tables_are_written_as_data(folders: list[Path], tmp_path: Path) -> None:
    write_report(folders, tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())
    rows = {(row["table"], row["setting"], row["data"], row["metric"]): row for row in content["rows"]}
    assert rows["gain_from_joining", "federated - local", "bob", "accuracy"]["mean"] == pytest.approx(-0.15)
    assert rows["headline", "local", "held_out", "accuracy"]["highest_model"] == 0.7
    assert "NaN" not in (tmp_path / "comparison.json").read_text()
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == len(content["rows"]) + 1
    assert content["warnings"] == []


def test_the_verdict_says_what_the_numbers_say(both_seeds: Comparison, tmp_path: Path) -> None:
    text = verdict(both_seeds, [])
    assert text.startswith(
        "Federated training reaches accuracy 0.8000 on the held-out set, 0.0500 worse than pooled training and "
        "0.2500 better than the mean of the local models. 2 of 3 clients gain from joining; bob fares worst (-0.1500)."
    )
    assert "Read the warnings" in verdict(both_seeds, ["one"])
    alone = compared([write_run(tmp_path / "local", "local")])
    assert verdict(alone, []) == "The mean of the local models reaches accuracy 0.6000 on the held-out set."


def test_the_verdict_compares_losses_by_their_direction(tmp_path: Path) -> None:
    text = verdict(compared(write_comparison(tmp_path, seeds=(0,), primary="loss")), [])
    assert "loss 0.2000 on the held-out set, 0.1000 worse than pooled training and 0.2000 better than" in text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("status.json", None, "status.json: missing, so this is no run folder"),
        ("status.json", "{", "status.json: not valid JSON"),
        ("status.json", '{"status": "done", "setting": "local", "seed": 0}', "status = 'done' is none of running,"),
        ("status.json", '{"status": "completed", "setting": "local", "seed": "x"}', "seed = 'x' is no integer"),
        ("manifest.json", None, "manifest.json: missing although status.json calls the run finished"),
        ("eval_summary.json", '{"rows": [{"model": "a"}], "primary": "a", "clients": []}', "rows[0] has no data"),
        ("history.json", '{"steps": 3}', "history.json: steps is int, not list"),
        ("config.yaml", "a: [", "config.yaml: not valid YAML"),
        ("config.yaml", None, "config.yaml: no such file"),
        ("predictions/federated__ada.npz", "broken", "federated__ada.npz: not a readable npz file"),
    ],
)
def test_broken_folders_are_refused_with_one_line(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    run = write_run(tmp_path / "run", "federated")
    path = run / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        write_report([run], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_runs_that_cannot_stand_side_by_side_are_refused(tmp_path: Path) -> None:
    one, same = write_run(tmp_path / "one", "local"), write_run(tmp_path / "same", "local")
    other = write_run(tmp_path / "other", "federated", config={"task": "another"})
    with pytest.raises(UserError, match="leave one of the two out"):
        write_report([one, same], tmp_path / "out")
    with pytest.raises(UserError, match="compare runs of one task"):
        write_report([one, other], tmp_path / "out")


def test_command_line_finds_runs_and_says_where_the_report_is(tmp_path: Path) -> None:
    folders = write_comparison(tmp_path / "toy", seeds=(0,))
    result = CliRunner().invoke(app, [str(tmp_path / "toy")])
    assert result.exit_code == 0
    assert (tmp_path / "toy" / "comparison.csv").exists()
    assert CliRunner().invoke(app, list(map(str, folders[:2]))).exit_code == 0
    assert (tmp_path / "toy" / "report" / "report.html").exists()
    assert "report.html" in result.stdout and "held-out" in result.stdout
    assert CliRunner().invoke(app, [str(folders[0])]).exit_code == 0
    assert (folders[0] / "report.html").exists()
    assert CliRunner().invoke(app, [*map(str, folders[:2]), "--out", str(tmp_path / "out")]).exit_code == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_command_line_refuses_a_wrong_path_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path, words in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "holds no status.json")):
        result = CliRunner().invoke(app, [str(path)])
        assert result.exit_code == 2
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert "Several runs also give" in CliRunner().invoke(app, ["report", "--help"]).stdout
    explained = " ".join(CliRunner().invoke(app, ["--help"]).stdout.split())
    assert "python -m reports RUN [RUN ...]" in explained and "table RESULTS" in explained
