"""What every maker of synthetic data promises: the seed decides each byte, nothing is lost, the next step is named."""

import hashlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from datasets.__main__ import MAKERS, app
from tests.commands import refused as refused_command
from tests.refusals import refused


@dataclass(frozen=True)
class Case:
    """Options of a small study, and of one too small with what is said of it."""

    small: dict[str, Any]
    too_small: dict[str, Any]
    said: str


CASES = {
    "attention_unet": Case(
        {"animals": 3, "images_per_animal": 1}, {"animals": 2}, "animals: 2 with 2 images are too few"
    ),
    "image_expression": Case(
        {"patients": 3, "tiles_per_patient": 2, "size": 16}, {"patients": 2}, "patients: 2 with 6 tiles are too few"
    ),
    "joint_vae": Case({"scale": 0.2}, {"scale": 0.1}, "scale: 0.1 leaves a hospital with fewer than 20 samples"),
    "nicheformer": Case(
        {"cells_per_section": 20}, {"cells_per_section": 5}, "cells_per_section: 5 is too few; give at least 6"
    ),
    "vgg3d": Case(
        {"nuclei_per_site": 8, "shape": (4, 8, 8)},
        {"nuclei_per_site": 4},
        "nuclei_per_site: 4 is too few; give at least 8",
    ),
}


def make(name: str, directory: Path, seed: int = 0, **options: Any) -> None:
    import_module(f"datasets.synthetic.{name}").make(directory, seed, **options)


def digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()


def test_every_maker_has_its_case() -> None:
    assert set(CASES) == set(MAKERS)


@pytest.mark.parametrize("name", CASES)
def test_the_seed_decides_every_byte(name: str, tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        make(name, tmp_path / folder, seed, **CASES[name].small)
    assert digest(tmp_path / "one") == digest(tmp_path / "same") != digest(tmp_path / "other")


@pytest.mark.parametrize("name", CASES)
def test_unusable_targets_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    for target in (tmp_path, tmp_path / "mine.txt"):
        refused(lambda target=target: make(name, target), f"{target}: not an empty folder")
    refused(lambda: make(name, tmp_path / "new", **CASES[name].too_small), CASES[name].said)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "keep"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("name", MAKERS)
def test_the_command_makes_data_once_and_names_what_comes_next(name: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = command(name, data, "--seed", 3)
    assert made.exit_code == 0 and any(data.iterdir())
    assert made.stdout.splitlines()[-1] == f"next: python compare.py configs/{name}.yaml options.data={data}"
    refused_command(command(name, data), f"{data}: not an empty folder")


def test_the_command_lists_what_it_makes_and_what_it_splits(tmp_path: Path) -> None:
    said = command("--help").stdout
    assert all(name in said for name in (*MAKERS, "split", "rosette-split", "proteomics-split"))
    assert "split images and samples by whole groups" in " ".join(said.split())
    refused_command(command("brain", tmp_path / "data"), "'brain' is not a synthetic data set; choose one of")
