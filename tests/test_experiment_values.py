"""What an experiment of a file sets, what the command line takes from it, and which rows the summary then has."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reports.experiment_summary import summarise
from tests.commands import refused, run
from tests.conftest import TOY
from tests.refusals import refused as refused_call
from tests.run_folders import write_run
from training.config import load


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.report.plots", lambda comparison: {})


def write(path: Path, *experiments: dict[str, Any], **values: Any) -> Path:
    path.write_text(yaml.safe_dump({**TOY, "federation": {"rounds": 1}, **values, "experiments": list(experiments)}))
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "experiment_summary.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


HIGHER = {"name": "higher", "description": "A higher rate", "overrides": {"train": {"lr": 0.2}, "seed": 7}}


def test_values_that_the_command_line_takes_from_an_experiment_are_named(tmp_path: Path) -> None:
    config = write(tmp_path / "many.yaml", {"name": "base"}, HIGHER)
    answer = run("centralized", config, "--all", "train.lr=0.1", "seed=3", "train.threads=1", "--results", tmp_path)
    assert answer.exit_code == 0
    assert [line for line in answer.stdout.splitlines() if "replaces" in line] == [
        "experiment higher: the command line replaces its own seed, train.lr"
    ]
    assert "replaces" not in run("centralized", config, "--all", "train.batch_size=9", "--results", tmp_path).stdout


def test_seeds_are_said_once(tmp_path: Path) -> None:
    config = write(tmp_path / "many.yaml", {"name": "base"}, HIGHER)
    words = ["compare", config, "--results", tmp_path / "results", "--seeds", "1"]
    refused(run(*words, "--all"), f"{config}, experiment higher: sets its own seed; leave out --seeds, or that seed")
    refused(run(*words, "seed=3"), "override 'seed=3': --seeds says which seeds there are; leave out one of the two")
    assert not (tmp_path / "results").exists()
    answer = run(*words, "--experiment", "base")
    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize("section", ["train", "options", "federation"])
def test_a_section_that_is_no_section_is_named_with_its_value(tmp_path: Path, section: str) -> None:
    path = write(tmp_path / "a.yaml", {"name": "a", "overrides": {section: 5}})
    for overrides in ([], ["train.lr=0.1", "options.hidden=3", "federation.rounds=1"]):
        expected = f"{path}, experiment a: experiments.0.overrides.{section} = 5: holds no keys; write {{key: value}}"
        refused_call(lambda overrides=overrides: load(path, overrides, experiment="a"), expected)
    path.write_text(yaml.safe_dump({**TOY, section: "fast"}))
    said = f"override '{section}.x=1': {section} = 'fast' has no keys; give {section} keys, or leave this out"
    refused_call(lambda: load(path, [f"{section}.x=1"]), said)


def test_an_override_below_a_plain_value_is_refused_and_below_a_name_belongs_to_it(toy: Path) -> None:
    refused_call(lambda: load(toy, ["train.lr.x=1"]), "override 'train.lr.x=1': train.lr = 0.02 has no keys")
    assert load(toy, ["train.schedule=cosine", "train.schedule.min_lr=0.01"]).train.schedule.min_lr == 0.01  # type: ignore[union-attr]


# The summary


def test_an_experiment_that_was_taken_out_of_the_file_is_no_row_and_keeps_its_folder(tmp_path: Path) -> None:
    config = write(tmp_path / "many.yaml", {"name": "base"}, HIGHER)
    folder = tmp_path / "toy_task" / "many" / "centralized"
    assert run("centralized", config, "--all", "--results", tmp_path).exit_code == 0
    write(config, {"name": "base"}, {"name": "new"})
    assert run("centralized", config, "--experiment", "new", "--results", tmp_path).exit_code == 0
    assert [row["experiment_name"] for row in rows(folder)] == ["base", "new"]
    assert (folder / "higher" / "eval_summary.json").is_file()
    summarise(folder.parent)
    assert [row["experiment_name"] for row in rows(folder.parent)] == ["base", "new"]
    write(config, {"name": "base"}, {"name": "new"}, HIGHER)
    assert "left alone" in run("centralized", config, "--experiment", "higher", "--results", tmp_path).stdout
    assert [row["experiment_name"] for row in rows(folder)] == ["base", "higher", "new"]


def test_means_of_local_models_are_not_in_a_column_with_values_of_the_pool(tmp_path: Path) -> None:
    best = {"epoch": 2, "lr": 0.01, "val_loss": 0.5, "val_f1_macro": 0.25, "val_accuracy": 0.75}
    for setting in ("centralized", "local"):
        folder = write_run(tmp_path / setting, setting, 0)
        (folder / "metrics.json").write_text(json.dumps({"best": best, "last": best}))
    summarise(tmp_path)
    pooled, alone = rows(tmp_path)
    assert (pooled["best_val_accuracy"], pooled["best_val_mean_accuracy"]) == ("0.75", "")
    assert (alone["best_val_accuracy"], alone["best_val_mean_accuracy"]) == ("", "0.75")
    assert (alone["best_val_loss"], alone["best_val_mean_loss"]) == ("", "0.5")


@pytest.mark.parametrize("text", ["=1+2", "+1", "-1", "@SUM(A1)", " =1+2"])
def test_a_text_is_no_formula(tmp_path: Path, text: str) -> None:
    train = {"lr": -0.01, "batch_size": 8, "epochs": None}
    write_run(tmp_path / "a", "centralized", 0, config={"experiment": "a", "description": text, "train": train})
    summarise(tmp_path)
    (row,) = rows(tmp_path)
    assert (row["description"], row["learning_rate"]) == (f"'{text.strip()}", "-0.01")
