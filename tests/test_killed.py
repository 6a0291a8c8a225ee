"""SIGKILL in the middle of a run, then `--resume`: the weights are those of a run that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import Finished, conduct
from training import checkpoints
from training.config import load
from training.runs import Run

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "nicheformer.yaml"
OVERRIDES = [
    "federation.rounds=4",
    "federation.local_epochs=1",
    "federation.optimizer_state=kept",
    "options.random_backbone.context_length=32",
]

TAG = "TRIPTYCH_TEST"
"""Environment variable that all processes of a command inherit."""

pytestmark = pytest.mark.slow


def steps(folder: Path) -> int:
    path = folder / "history.json"
    return len(json.loads(path.read_text())["steps"]) if path.exists() else 0


def alive(tag: str) -> bool:
    """Tell whether a process lives that was started with our mark, by whomever of those we started."""
    environments = (process.info["environ"] or {} for process in psutil.process_iter(["environ"]))
    return any(environment.get(TAG) == tag for environment in environments)


def kill_after_the_first_step(command: list[str], folder: Path) -> None:
    tag = str(folder)
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, TAG: tag}
    )
    deadline = time.monotonic() + 120
    while not any(folder.glob("checkpoints/**/last.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while alive(tag):  # Ray and Flower end by themselves once their launcher is gone
        assert time.monotonic() < deadline
        time.sleep(0.1)


def make_longer(folder: Path, seconds: object) -> None:
    """Make the first step of a run that was cut off as long as given."""
    (path,) = (folder / "checkpoints").rglob("last.pt")
    content = checkpoints.load(path)
    steps = json.loads(content["history"])
    steps[0]["seconds"] = seconds
    checkpoints.save(path, {**content, "history": json.dumps(steps)})


@pytest.mark.parametrize(
    ("setting", "module"),
    [
        ("centralized", ["centralized"]),
        ("federated", ["fl", "--engine", "inprocess"]),
        ("federated", ["fl", "--engine", "flower"]),
    ],
    ids=["centralized", "inprocess", "flower"],
)
def test_a_killed_run_continues(study: Path, tmp_path: Path, setting: str, module: list[str]) -> None:
    overrides = [f"options.data={study}", *OVERRIDES]
    folder = tmp_path / "nicheformer" / "run"
    command = [sys.executable, "-m", *module]
    kill_after_the_first_step([*command, str(CONFIG), *overrides, "--results", str(tmp_path), "--name", "run"], folder)
    assert steps(folder) < 4, "killed too late to show anything"
    assert json.loads((folder / "status.json").read_text())["status"] == "running"

    make_longer(folder, {"centralized": 3600.0} if setting == "centralized" else 3600.0)
    done = subprocess.run([*command, "--resume", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = Run.create(tmp_path / "alone", load(CONFIG, overrides), setting)  # type: ignore[arg-type]
    conduct(alone)
    assert Finished(folder).hashes == Finished(alone.folder).hashes
    assert (folder / "eval_summary.json").read_text() == (alone.folder / "eval_summary.json").read_text()
    assert Finished(folder).json("manifest")["seconds"] > 3600
