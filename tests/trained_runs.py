"""Small studies and runs of the tasks, made when first asked for; fixtures for the modules that import them."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.commands import run as command
from tests.conftest import conduct
from training.config import load
from training.runs import Run

Studies = Callable[[str], Path]
"""Task -> folder of its study."""
Runs = Callable[[str, str], Path]
"""Task, setting -> run folder."""

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["federation.rounds=1", "federation.local_epochs=1", "train.eval_batch_size=7"]
SMALL: dict[str, list[str]] = {
    "nicheformer": ["options.random_backbone.context_length=16", "options.include_spatial=true"],
    "vgg3d": [
        "options.backbone={fmaps: 2, fmap_inc: [2, 2, 2, 2], n_convolutions: [1, 1, 1, 1]}",
        "options.classifier_size=16",
    ],
    "image_expression": ["options.image_size=16"],
}
MAKERS: dict[str, dict[str, Any]] = {
    "nicheformer": {"cells_per_section": 10},
    "vgg3d": {"nuclei_per_site": 12, "shape": (16, 16, 32)},
    "image_expression": {"patients": 3, "tiles_per_patient": 3, "size": 16},
}
CLIENT = {"nicheformer": "hospital_north", "vgg3d": "institute_north", "image_expression": "hospital_north"}


def trained(folder: Path, data: Path, name: str, setting: str, *overrides: str) -> Path:
    """Train on a study; give the run folder."""
    options = [f"options.data={data}", *SMALL[name], *SHORT, *overrides]
    made = Run.create(folder, load(ROOT / "configs" / f"{name}.yaml", options), setting)  # type: ignore[arg-type]
    conduct(made)
    return made.folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    @functools.cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp("studies") / name
        importlib.import_module(f"datasets.synthetic.{name}").make(folder, **MAKERS[name])
        return folder

    return made


@pytest.fixture(scope="module")
def runs(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    @functools.cache
    def made(name: str, setting: str) -> Path:
        return trained(tmp_path_factory.mktemp("runs") / setting, studies(name), name, setting)

    return made


def predict(run: Path, *arguments: str | Path) -> Result:
    # tests.commands knows the engine of each command; `predict` has none.
    return command("centralized", "predict", run, *arguments)
