"""Real Flower: an isolated `flwr run` on Ray through the command a user types."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fl.processes import marked
from tests.conftest import Finished

ROOT = Path(__file__).resolve().parent.parent
OTHERS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "nicheformer")
SMALL = ["federation.rounds=2", "federation.local_epochs=1", "options.random_backbone.context_length=16"]

pytestmark = pytest.mark.slow


def federate(
    results: Path, config: Path, engine: str, *overrides: str, path: Path | None = None
) -> tuple[Finished, int, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, "-m", "fl", str(config), *overrides, "--engine", engine, "--results", str(results)]
    done = subprocess.run(
        [*command, "--name", "run"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    (folder,) = results.glob("*/run")
    return Finished(folder), done.returncode, done.stderr


def test_weights_are_equal_in_one_process_and_on_ray_with_one_worker_and_two(study: Path, tmp_path: Path) -> None:
    config = ROOT / "configs" / "nicheformer.yaml"
    data = f"options.data={study}"
    runs = [
        federate(tmp_path / "inprocess", config, "inprocess", data, *SMALL),
        federate(tmp_path / "one", config, "flower", data, *SMALL, "federation.workers=1"),
        federate(tmp_path / "two", config, "flower", data, *SMALL, "federation.workers=2"),
    ]
    assert [code for _, code, _ in runs] == [0, 0, 0], [error for *_, error in runs]
    assert len({run.hashes[0] for run, *_ in runs}) == 1
    assert len({(run.folder / "eval_summary.json").read_text() for run, *_ in runs}) == 1
    for run, *_ in runs:
        assert run.json("status")["status"] == "completed"
        assert (run.folder / "report.html").exists()
    assert not marked("")


@pytest.mark.parametrize("config", OTHERS, ids=[path.stem for path in OTHERS])
def test_weights_of_every_task_are_equal_in_one_process_and_on_ray(config: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    importlib.import_module(f"datasets.synthetic.{config.stem}").make(data)
    overrides = [f"options.data={data}", "federation.rounds=2", "federation.local_epochs=1"]
    runs = [federate(tmp_path / engine, config, engine, *overrides) for engine in ("inprocess", "flower")]
    assert [code for _, code, _ in runs] == [0, 0], [error for *_, error in runs]
    assert runs[0][0].hashes == runs[1][0].hashes
    assert len({(run.folder / "eval_summary.json").read_text() for run, *_ in runs}) == 1


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The toy task as a module of the user's own, outside the repository."""
    package = tmp_path / "path" / "mytasks"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copy(ROOT / "tests" / "toy_task.py", package / "points.py")
    config = tmp_path / "points.yaml"
    config.write_text("task: mytasks.points\noptions: {data: none}\nfederation: {rounds: 2}\n")
    return config


def test_a_client_that_raises_is_named_and_ends_the_run(elsewhere: Path, tmp_path: Path) -> None:
    path = tmp_path / "path"
    run, code, error = federate(tmp_path / "stop", elsewhere, "flower", "options.failing=bob", path=path)
    status = run.json("status")
    assert (code, status["status"]) == (1, "failed")
    assert [failure["client"] for failure in status["failures"]] == ["bob"]
    assert len(error.strip().splitlines()) == 1
    assert error.startswith("error: bob failed in open: the disk of this client is broken")
    assert "Traceback" in (run.folder / status["failures"][0]["traceback"]).read_text()


def test_a_client_that_raises_is_named_and_the_run_goes_on_where_allowed(tmp_path: Path) -> None:
    config = tmp_path / "points.yaml"  # Its module lies where the command is typed, which Ray's workers must be told.
    config.write_text("task: tests.toy_task\noptions: {data: none}\nfederation: {rounds: 2}\n")
    overrides = ["options.failing=bob", "federation.min_clients=2"]
    run, code, error = federate(tmp_path / "on", config, "flower", *overrides)
    assert (code, run.json("status")["status"]) == (3, "degraded")
    assert {tuple(step["train"]) for step in run.json("history")["steps"]} == {("ada", "cyd")}
    assert "degraded: bob failed" in error
    assert json.loads((run.folder / "status.json").read_text())["exit_code"] == 3
    assert run.json("manifest")["environment"]["command"].startswith(f"python -m fl {config} options.failing=bob ")
