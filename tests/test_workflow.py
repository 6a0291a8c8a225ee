"""The Snakemake workflow over two experiments: one is killed, the next call resumes it, then it changes."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from compare import SETTINGS
from fl.engines import Engine
from tests.commands import run
from tests.conftest import TOY
from tests.refusals import refused
from training.workflow import Asked

ROOT = Path(__file__).resolve().parent.parent


def snakemake(folder: Path, **config: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "-c1", "--keep-going"]
    pairs = [f"{key}={value}" for key, value in config.items()]
    return subprocess.run(
        [*command, "--directory", str(folder), "--config", *pairs],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def write(path: Path, rate: float, marker: Path) -> Path:
    fast = {"train": {"lr": rate}, "options": {"kill_marker": str(marker)}}
    experiments = [{"name": "base"}, {"name": "fast", "overrides": fast}]
    path.write_text(yaml.safe_dump({**TOY, "federation": {"rounds": 3}, "experiments": experiments}))
    return path


def stamps(folder: Path) -> dict[Path, tuple[int, str]]:
    found = {
        path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found
    return found


def test_a_killed_training_is_resumed_and_only_what_changed_runs_again(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("20")  # Three clients of 40 samples make 15 batches of 8: this is in the second epoch.
    config = write(tmp_path / "two.yaml", 0.2, marker)
    place = tmp_path / "results" / "toy_task" / "two"
    asked = {"experiments": config, "results": tmp_path / "results", "overrides": "train.threads=1"}

    killed = snakemake(tmp_path, **asked)
    base, fast = place / "centralized" / "base", place / "centralized" / "fast"
    assert killed.returncode == 1, killed.stdout
    assert json.loads((base / "status.json").read_text())["status"] == "completed"
    assert json.loads((fast / "status.json").read_text())["status"] == "running"
    assert len(json.loads((fast / "history.json").read_text())["steps"]) == 1
    before, splits = stamps(base), stamps(place / "workflow")

    resumed = snakemake(tmp_path, **asked)
    assert resumed.returncode == 0, resumed.stdout
    assert "centralized  goes on after epoch 1" in (fast / "log.txt").read_text()
    assert stamps(base) == before and splits.items() <= stamps(place / "workflow").items()
    summary = (place / "centralized" / "experiment_summary.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in summary] == ["experiment_name", "base", "fast"]
    digest = json.loads((place / "workflow" / "fast.split.json").read_text())["split_sha256"]
    assert digest == json.loads((fast / "manifest.json").read_text())["split_sha256"]

    again = stamps(place)
    nothing = snakemake(tmp_path, **asked)
    assert nothing.returncode == 0 and "Nothing to be done" in nothing.stdout, nothing.stdout
    assert stamps(place) == again

    write(config, 0.1, marker)
    changed = snakemake(tmp_path, **asked)
    assert changed.returncode == 0, changed.stdout
    assert changed.stdout.count("rule train:") == 1 and "rule split:" not in changed.stdout
    assert stamps(base) == before
    assert yaml.safe_load((fast / "config.yaml").read_text())["train"]["lr"] == 0.1
    (kept,) = (place / "centralized" / "superseded").iterdir()
    assert yaml.safe_load((kept / "config.yaml").read_text())["train"]["lr"] == 0.2


@pytest.fixture
def compared(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Both experiments, compared by the workflow; the folder of the experiments, and what was asked for."""
    config = tmp_path / "two.yaml"
    config.write_text(yaml.safe_dump({**TOY, "experiments": [{"name": "base"}, {"name": "fast"}]}))
    asked = {"experiments": config, "results": tmp_path / "results", "setting": "compare", "engine": "inprocess"}
    asked["overrides"] = "federation.rounds=1"
    done = snakemake(tmp_path, **asked)
    assert done.returncode == 0, done.stdout
    return tmp_path / "results" / "toy_task" / "two" / "compare", asked


def test_results_that_are_gone_or_of_another_config_are_made_anew(
    tmp_path: Path, compared: tuple[Path, dict[str, Any]]
) -> None:
    folder, asked = compared
    before = stamps(folder / "fast")
    by_hand = ["compare", asked["experiments"], "--experiment", "base", "--results", asked["results"]]
    assert run(*by_hand, "federation.rounds=2").exit_code == 0
    again = snakemake(tmp_path, **asked)
    assert again.returncode == 0 and again.stdout.count("rule train:") == 1, again.stdout
    kept = [yaml.safe_load(path.read_text()) for path in (folder / "superseded").glob("*/*/config.yaml")]
    assert sorted(one["federation"]["rounds"] for one in kept) == [1, 1, 1, 2, 2, 2]

    (folder / "base" / "local-seed42").rename(tmp_path / "away")
    again = snakemake(tmp_path, **asked)
    assert again.returncode == 0 and again.stdout.count("rule train:") == 1, again.stdout
    assert (folder / "base" / "local-seed42" / "eval_summary.json").is_file()
    assert stamps(folder / "fast") == before
    assert "Nothing to be done" in snakemake(tmp_path, **asked).stdout


def test_engines_are_those_of_the_command() -> None:
    assert get_args(Asked.model_fields["engine"].annotation) == tuple(engine.value for engine in Engine)
    assert get_args(Asked.model_fields["setting"].annotation) == (*SETTINGS, "compare")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"mem_mb": 1}, "--config: experiments: missing; add it"),
        ({"setting": "pooled"}, "--config: setting = 'pooled': Input should be 'centralized', 'local', 'federated' or"),
        ({"seting": "local"}, "--config: seting: unknown key; did you mean setting?"),
        ({"setting": "federated", "engine": "ray"}, "--config: engine = 'ray': Input should be 'flower' or 'inpro"),
        ({"engine": "inprocess"}, "--config: engine = 'inprocess': has no effect with setting = centralized; leave"),
        ({"mem_mb": "much"}, "--config: mem_mb = 'much': Input should be a valid integer"),
        ({"runtime": 0}, "--config: runtime = 0: Input should be greater than 0"),
    ],
)
def test_keys_and_values_that_cannot_be_used(config: dict[str, Any], expected: str) -> None:
    others = {} if "mem_mb" in config and config["mem_mb"] == 1 else {"experiments": "two.yaml"}
    refused(lambda: Asked.read({**others, **config}), expected)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"seting": "local"}, "--config: seting: unknown key; did you mean setting?"),
        ({"overrides": "train.lrr=1"}, "experiment base: train.lrr: unknown key; did you"),
    ],
)
def test_mistakes_end_the_workflow_in_one_line(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    write(tmp_path / "two.yaml", 0.2, tmp_path / "marker")
    done = snakemake(tmp_path, experiments=tmp_path / "two.yaml", **config)
    assert len([line for line in done.stdout.splitlines() if expected in line]) == 1, done.stdout
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert not (tmp_path / "results").exists()
