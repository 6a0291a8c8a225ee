"""Shared pieces: a small experiment on the toy task, and small studies in the real formats."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # Small tensors: more threads only get in each other's way.

import pytest
import yaml

from centralized.runner import execute
from datasets.synthetic import joint_vae, nicheformer
from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.server import serve
from training.config import load
from training.runs import Run, Setting

TOY = {
    "task": "tests.toy_task",
    "options": {"data": "none"},
    "train": {"lr": 0.02, "batch_size": 8},
    "federation": {"rounds": 3},
}


class Finished:
    """What the files of a finished run say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())

    @property
    def hashes(self) -> list[str]:
        return list(self.json("manifest")["weights_sha256"].values())

    def value(self, model: str, data: str, metric: str) -> float:
        rows = [row for row in self.json("eval_summary")["rows"] if (row["model"], row["data"]) == (model, data)]
        return float(rows[0]["metrics"][metric])


Go = Callable[..., Finished]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return path


@pytest.fixture
def start(toy: Path, tmp_path: Path) -> Callable[..., Run]:
    """Start a run of the toy experiment in a new folder."""

    def start(setting: Setting, *overrides: str) -> Run:
        number = len(list(tmp_path.glob("run-*")))
        return Run.create(tmp_path / f"run-{number}", load(toy, overrides), setting)

    return start


@pytest.fixture
def go(start: Callable[..., Run]) -> Go:
    """Run the toy experiment to its end."""

    def go(setting: Setting, *overrides: str, nodes: int = 2) -> Finished:
        run = start(setting, *overrides)
        conduct(run, nodes)
        return Finished(run.folder)

    return go


def conduct(run: Run, nodes: int = 2) -> str:
    """Conduct a run in this process."""
    if run.setting == "federated":
        return serve(run, InProcessGrid(client_app, nodes), nodes)
    return execute(run)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study in the real format, made once."""
    folder = tmp_path_factory.mktemp("study") / "nicheformer"
    nicheformer.make(folder, cells_per_section=20)
    return folder


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study on two platforms, made once."""
    folder = tmp_path_factory.mktemp("hospitals") / "study"
    joint_vae.make(folder, scale=0.25)
    return folder


@pytest.fixture
def coarse_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the pictures of reports with few pixels, for speed."""
    monkeypatch.setattr("reports.report.DPI", 40)
