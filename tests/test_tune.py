"""Hyperparameter search: what it tries, that it can be cut off anywhere, and what it makes of trials that fail."""

import csv
import json
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import tune
from centralized.__main__ import app as centralized
from datasets.synthetic import joint_vae
from tests.commands import refused as refused_command
from tests.conftest import TOY
from tests.refusals import refused
from training.config import load
from training.runs import Run
from training.search_space import First, Scalar, Space

ROOT = Path(__file__).resolve().parent.parent
SPACE = {
    "train.lr": {"low": 1e-4, "high": 0.5, "log": True},
    "options.hidden": {"low": 1, "high": 16},
    "options.dropout": {"choices": [0.0, 0.5]},
}


class Study:
    """The toy experiment, a space, and where studies go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, self.space = folder, folder / "toy.yaml", folder / "space.yaml"
        self.config.write_text(yaml.safe_dump(TOY))
        self.write(SPACE)

    def write(self, space: Any) -> None:
        self.space.write_text(yaml.safe_dump(space, sort_keys=False))

    def call(self, *words: str | Path, study: str = "s") -> Result:
        arguments = [
            self.config,
            self.space,
            *words,
            "--study",
            study,
            "--results",
            self.folder,
            "--engine",
            "inprocess",
        ]
        return CliRunner().invoke(tune.app, [*map(str, arguments)], catch_exceptions=False)

    def tuned(self, *words: str | Path, study: str = "s", code: int = 0) -> list[dict[str, str]]:
        """Search; give the rows of the table."""
        answer = self.call(*words, study=study)
        assert answer.exit_code == code, answer.output
        return self.rows(study)

    def rows(self, study: str = "s") -> list[dict[str, str]]:
        with (self.place(study) / "trials.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))

    def place(self, study: str = "s") -> Path:
        return self.folder / "toy_task" / f"tune-{study}"

    def json(self, number: int, name: str, study: str = "s") -> Any:
        return json.loads((self.place(study) / f"trial-{number:03d}" / f"{name}.json").read_text())


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have a test of their own, and take most of the time."""
    for name in ("draw_history", "draw_importances"):
        monkeypatch.setattr(f"tune.{name}", lambda *given, **options: "")


def without_time(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# The space


class Told:
    """Proposes what it is told, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), list[tuple[Any, ...]]()

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        self.asked.append((name, *choices))
        return choices[self.answers.pop(0)]

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        self.asked.append((name, low, high, options))
        return float(self.answers.pop(0))

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        self.asked.append((name, low, high, options))
        return int(self.answers.pop(0))


def test_what_is_proposed_becomes_overrides_that_yaml_reads_alike(study: Study) -> None:
    sgd = {"name": "sgd", "momentum": 0.5}
    study.write(
        {
            "train.lr": {"low": "1e-7", "high": 1, "log": True},
            "train.batch_size": {"low": 8, "high": 64, "step": 8},
            "a.rate": {"low": 0, "high": 1, "step": 0.25},
            "train.optimizer": {"choices": ["adam", sgd]},
            "a.layers": {"repeat": [1, 3], "choices": [64, 128]},
            "a.flag": {"choices": [True, None]},
        }
    )
    told = Told(1e-5, 16, 0.25, 1, 2, 1, 0, 1)
    texts = Space.read(study.space).draw(told)
    values = {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in texts)}
    assert values == {
        "train.lr": 1e-5, "train.batch_size": 16, "a.rate": 0.25, "train.optimizer": sgd, "a.layers": [128, 64],
        "a.flag": None,
    }  # fmt: skip
    assert told.asked[:3] == [
        ("train.lr", 1e-7, 1, {"step": None, "log": True}),
        ("train.batch_size", 8, 64, {"step": 8, "log": False}),
        ("a.rate", 0, 1, {"step": 0.25, "log": False}),
    ]
    assert [name for name, *_ in told.asked[4:7]] == ["a.layers.length", "a.layers.0", "a.layers.1"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1], "holds no `key: value` lines; write e.g. train.lr: {low"),
        ({}, "holds no keys; write e.g. train.lr: {low"),
        ({"seed": {"choices": [1]}}, "seed: belongs to the question"),
        ({"train.monitor": {"choices": ["loss"]}}, "train.monitor: belongs to the question"),
        ({"train.lr": 0.1}, "train.lr = 0.1: give {low, high}"),
        ({"train.lr": {"low": 0.1}}, "train.lr.high: missing"),
        ({"train.lr": {"low": 1, "high": 0.1}}, "the smaller one as low"),
        ({"train.lr": {"low": 0, "high": 1, "log": True}}, "log: needs a positive low"),
        ({"train.lr": {"low": 0, "high": 1, "logs": True}}, "train.lr.logs: unknown key; did you mean log?"),
        ({"train.lr": {"choices": []}}, "train.lr.choices"),
        ({"train.lr": {"choices": [1, 2, 1]}}, "a value occurs twice"),
        ({"a.b": {"repeat": [3, 1], "choices": [1]}}, "shortest length first"),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(study: Study, content: Any, expected: str) -> None:
    study.write(content)
    refused(lambda: Space.read(study.space), "space.yaml", expected)


def test_a_missing_or_broken_file_is_refused(study: Study) -> None:
    refused(lambda: Space.read(study.folder / "none.yaml"), "none.yaml: no such file; check the path")
    study.space.write_text("a: [")
    refused(lambda: Space.read(study.space), "not valid YAML")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_config_of_the_same_name_takes_what_a_shipped_space_proposes(path: Path) -> None:
    space = Space.read(path)
    experiment = load(ROOT / "configs" / path.name, space.draw(First()))
    assert set(space.dimensions) and experiment.task == path.stem


# A study


@pytest.mark.usefixtures("no_pictures")
def test_a_study_goes_on_to_the_number_of_trials_as_if_in_one_go(study: Study) -> None:
    first = study.tuned("--trials", "2")
    assert [row["trial"] for row in first] == ["0", "1"]
    longer = study.tuned("--trials", "5")
    assert longer[:2] == first
    assert without_time(longer) == without_time(study.tuned("--trials", "5", study="straight"))
    assert len({row["train.lr"] for row in longer}) == 5
    assert study.tuned("--trials", "3") == longer, "as many are there already"
    other = study.tuned("--trials", "2", "--seed", "7", study="seed")
    assert {row["train.lr"] for row in other}.isdisjoint({row["train.lr"] for row in longer})


@pytest.mark.usefixtures("no_pictures")
def test_the_value_is_the_validation_metric_at_the_selected_epoch(study: Study) -> None:
    rows = study.tuned("--trials", "3")
    for number, row in enumerate(rows):
        steps = study.json(number, "history")["steps"]
        (selected,) = study.json(number, "manifest")["selected"].values()
        expected = steps[selected - 1]["val"]["pooled"]["metrics"]["accuracy"]
        assert float(row["val_accuracy"]) == expected == max(s["val"]["pooled"]["metrics"]["accuracy"] for s in steps)
        assert (row["state"], row["reason"]) == ("completed", "")
        config = load(study.place() / f"trial-{number:03d}" / "config.yaml")
        assert (config.train.lr, config.options["hidden"]) == (float(row["train.lr"]), int(row["options.hidden"]))
    best = max(range(3), key=lambda number: float(rows[number]["val_accuracy"]))
    written = load(study.place() / "best_config.yaml")
    assert written == load(study.place() / f"trial-{best:03d}" / "config.yaml")
    again = CliRunner().invoke(
        centralized, [str(study.place() / "best_config.yaml"), "--dry-run", "--results", str(study.folder / "again")]
    )
    assert again.exit_code == 0, again.output


@pytest.mark.usefixtures("no_pictures")
def test_less_is_better_where_the_metric_says_so(study: Study) -> None:
    rows = study.tuned("train.monitor=loss", "--trials", "4")
    losses = [float(row["val_loss"]) for row in rows]
    assert f"# trial {losses.index(min(losses))} " in (study.place() / "best_config.yaml").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_local_trials_count_the_mean_over_clients_and_federated_ones_the_pooled_metric(study: Study) -> None:
    (local,) = study.tuned("--trials", "1", "--setting", "local", study="local")
    steps = study.json(0, "history", "local")["steps"]
    selected = study.json(0, "manifest", "local")["selected"]
    values = [steps[step - 1]["val"][client]["metrics"]["accuracy"] for client, step in selected.items()]
    assert len(values) == 3 and float(local["val_accuracy"]) == pytest.approx(sum(values) / 3, rel=1e-12)
    (federated,) = study.tuned("--trials", "1", "--setting", "federated", study="federated")
    (step,) = study.json(0, "manifest", "federated")["selected"].values()
    entry = study.json(0, "history", "federated")["steps"][step - 1]["val"]["pooled"]
    assert float(federated["val_accuracy"]) == entry["metrics"]["accuracy"]
    assert study.json(0, "status", "federated")["setting"] == "federated"


def test_pictures_and_table_show_what_was_found(study: Study) -> None:
    answer = study.call("--trials", "4")
    names = [Path(line).name for line in answer.stdout.splitlines()[-4:]]
    assert names == ["trials.csv", "history.png", "importances.png", "best_config.yaml"]
    assert all((study.place() / name).stat().st_size for name in names)
    assert answer.stdout.startswith("trial 0, 1 of 4: train.lr=")


# Trials that end early


@pytest.mark.usefixtures("no_pictures")
def test_trials_below_the_median_of_earlier_ones_are_stopped(study: Study) -> None:
    words = ("--trials", "9", "--seed", "3")
    rows = study.tuned(*words)
    stopped = [int(row["trial"]) for row in rows if row["state"] == "stopped"]
    assert stopped and min(stopped) >= 5
    for number in stopped:
        steps = study.json(number, "history")["steps"]
        assert f"step {len(steps)}: " in rows[number]["reason"]
        assert float(rows[number]["val_accuracy"]) == steps[-1]["val"]["pooled"]["metrics"]["accuracy"]
        status = study.json(number, "status")
        assert (status["status"], status["exit_code"], status["error"]) == ("stopped", 0, rows[number]["reason"])
    assert {row["state"] for row in study.tuned(*words, "--no-prune", study="all")} == {"completed"}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("setting", ["centralized", "federated"])
def test_a_study_cut_off_inside_a_trial_goes_on_from_there(
    study: Study, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--trials", "3", "--setting", setting)
    straight = study.tuned(*words, study="straight")
    steps = []

    def interrupted(run: Run, step: Any, unit: Any) -> None:
        original(run, step, unit)
        steps.append(step)
        if len(steps) == 5:
            raise KeyboardInterrupt

    original = Run.add_step
    with monkeypatch.context() as patch:
        patch.setattr(Run, "add_step", interrupted)
        answer = study.call(*words)
    assert answer.exit_code == 130 and "interrupted" in answer.stderr
    assert [row["state"] for row in study.rows()] == ["completed"]
    assert study.json(1, "status")["exit_code"] == 130
    assert without_time(study.tuned(*words)) == without_time(straight)
    assert study.json(1, "manifest")["weights_sha256"] == study.json(1, "manifest", "straight")["weights_sha256"]


@pytest.mark.usefixtures("no_pictures")
def test_trials_that_fail_are_recorded_and_the_search_goes_on(study: Study) -> None:
    study.write({"options.nan": {"choices": ["", "ada"]}, "options.hidden": {"choices": [4, -1, "many"]}})
    rows = study.tuned("--trials", "12")
    for row in rows:
        number = int(row["trial"])
        if row["options.hidden"] == "many":
            assert row["state"] == "failed" and "options.hidden = 'many'" in row["reason"]
            assert not (study.place() / f"trial-{number:03d}").exists()
        elif row["options.hidden"] == "-1":
            assert row["state"] == "failed" and row["reason"] == study.json(number, "status")["error"]
        else:
            assert row["state"] == ("failed" if row["options.nan"] == "ada" else "completed")
            assert row["options.nan"] != "ada" or "loss nan in epoch 1" in row["reason"]
    assert len({(row["options.hidden"], row["options.nan"]) for row in rows}) > 4


@pytest.mark.usefixtures("no_pictures")
def test_a_study_without_any_result_ends_with_an_error(study: Study) -> None:
    answer = study.call("options.nan=ada", "--trials", "2")
    assert answer.exit_code == 1
    assert "no trial has a result; the last one: " in answer.stderr and "loss nan" in answer.stderr
    assert not (study.place() / "best_config.yaml").exists()


# Refusals


def test_unknown_keys_and_values_are_refused_before_the_first_trial(study: Study) -> None:
    study.write({**SPACE, "train.lrr": {"choices": [1]}})
    refused_command(study.call(), "space.yaml", "train.lrr: unknown key; did you mean lr?")
    study.write(SPACE)
    refused_command(study.call("options.hiden=1"), "options.hiden: unknown key")
    refused_command(study.call("train.monitor=auc"), "train.monitor = 'auc'")
    refused_command(study.call(study="../x"), "--study '../x': no plain file name")
    refused_command(study.call("federation.clients_per_round=9", "--setting", "federated"), "clients_per_round")
    assert not study.place().exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_study_on_another_basis_is_refused(study: Study) -> None:
    study.tuned("--trials", "1")
    for words, key in [
        (["train.batch_size=4"], "config"),
        (["--seed", "1"], "seed"),
        (["--setting", "local"], "setting"),
        (["--no-prune"], "prune"),
    ]:
        refused_command(study.call(*words), "basis.json", f": {key}:", "choose another --study")
    study.write({"train.lr": SPACE["train.lr"]})
    refused_command(study.call(), "basis.json", ": space:")
    with sqlite3.connect(study.place() / "study.db") as file:
        assert file.execute("select count(*) from trials").fetchone() == (1,)


def test_without_optuna_the_extra_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "training.search_study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused_command(study.call(), "optuna is not installed; install the extra `tune`")


# The proteomics task


@pytest.mark.usefixtures("no_pictures")
def test_a_study_of_joint_vaes(tmp_path: Path) -> None:
    joint_vae.make(tmp_path / "data")
    space = tmp_path / "space.yaml"
    space.write_text(
        "options.model.latent_dim: {choices: [4, 8]}\n"
        "options.model.encoder_layers: {repeat: [1, 2], choices: [8, 16]}\n"
        "options.loss_weights.kl_divergence: {low: 1e-5, high: 1e-2, log: true}\n"
        "train.lr: {low: 1e-3, high: 1e-2, log: true}\n"
    )
    fast = [
        "options.compare_with=[]",
        "options.spearman=false",
        "federation.rounds=1",
        f"options.data={tmp_path / 'data'}",
    ]
    words = [ROOT / "configs" / "joint_vae.yaml", space, *fast, "--trials", "3", "--results", tmp_path]
    answer = CliRunner().invoke(tune.app, [*map(str, words)], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    folder = tmp_path / "joint_vae" / "tune-default"
    with (folder / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3
    for row in rows:
        run = folder / f"trial-{int(row['trial']):03d}"
        config = load(run / "config.yaml")
        assert config.options["model"]["encoder_layers"] == yaml.safe_load(row["options.model.encoder_layers"])
        best = json.loads((run / "metrics.json").read_text())["best"]
        assert float(row["val_cross_corr_mean"]) == best["val_cross_corr_mean"]
        both = best["val_cross_a_corr_mean"] + best["val_cross_b_corr_mean"]
        assert best["val_cross_corr_mean"] == pytest.approx(both / 2, rel=1e-6)
