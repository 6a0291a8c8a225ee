"""A small rosette study and runs on it; a fixture and functions for the modules that import them."""

from pathlib import Path

import pytest

from datasets.synthetic import attention_unet
from tasks.attention_unet import AttentionUNetTask
from tests.conftest import Finished, conduct
from training.config import Experiment, load
from training.runs import Run

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "attention_unet.yaml"
FIXTURES = ROOT / "tests" / "fixtures" / "attention_unet"
STORED = FIXTURES / "unet_tiny_2ch.pt"
SMALL = [
    "options.widths=[4, 8, 16, 32, 64]", f"options.weights_path={STORED}", "options.patch_size=32",
    "options.overlap=8", "train.batch_size=2", "train.lr=0.001", "federation.rounds=2", "federation.local_epochs=1",
]  # fmt: skip
CLIENTS = ["R1", "R2", "R3"]
SETTINGS = ("centralized", "local", "federated")


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tissue") / "study"
    attention_unet.make(folder, animals=3)
    return folder


def experiment(data: Path, *overrides: str) -> Experiment:
    return load(CONFIG, [f"options.data={data}", *SMALL, *overrides])


def open_task(data: Path, *overrides: str) -> AttentionUNetTask:
    task = experiment(data, *overrides).build_task()
    assert isinstance(task, AttentionUNetTask)
    return task


def run(folder: Path, data: Path, setting: str, *overrides: str) -> Finished:
    made = Run.create(folder, experiment(data, *overrides), setting)  # type: ignore[arg-type]
    conduct(made)
    return Finished(made.folder)
