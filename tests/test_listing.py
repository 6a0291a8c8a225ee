"""`python -m tasks TASK` lists every key that a config may hold, each with a meaning, and unbroken at any width."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from models.joint_vae import CONFIGS
from tasks.__main__ import app
from training.config import load, to_yaml
from training.listing import Key, keys_of
from training.options import Options

CONFIGS_FOLDER = Path(__file__).parents[1] / "configs"
TASKS = sorted(path.stem for path in CONFIGS_FOLDER.glob("*.yaml"))


def lines(task: str) -> list[str]:
    result = CliRunner().invoke(app, [task], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout.splitlines()


def listed(task: str) -> dict[str, list[str]]:
    """Give each key that is listed, and for each line of it the meaning."""
    meanings: dict[str, list[str]] = {}
    latest: list[str] = []
    for line in lines(task):
        if line.startswith(" "):
            latest[-1] += line.strip()
        else:
            latest = meanings.setdefault(line.split()[0], [])
            latest.append("")
    return meanings


def keys(values: Mapping[str, Any], section: str = "") -> Iterator[str]:
    for name, value in values.items():
        key = f"{section}.{name}" if section else name
        if isinstance(value, dict):
            yield from keys(value, key)
        elif name not in ("name", "kind", "model_type"):
            yield key


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_a_shipped_config_is_listed_and_has_a_meaning(task: str) -> None:
    found = listed(task)
    assert set(keys(yaml.safe_load(to_yaml(load(CONFIGS_FOLDER / f"{task}.yaml"))))) <= set(found)
    assert {"task", "seed", "description", "base", "experiments", "experiments.overrides"} <= set(found)
    assert not [key for key, meanings in found.items() if not all(meanings)]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_option_of_a_model_type_is_listed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"task: joint_vae\noptions: {{data: x, model: {{model_type: {kind}}}}}\n")
    assert set(keys(load(path).options, "options")) <= set(listed("joint_vae"))


def test_an_option_of_some_model_types_says_of_which() -> None:
    found = lines("joint_vae")
    assert "options.model.k_samples = 5  # model_type: JointIWAE" in found
    assert "options.model.dropout_rate = 0.15  # model_type: not generative_vae" in found
    assert "options.model.decoder.noise_dim = 16  # model_type: generative_vae; kind: gan" in found


def test_keys_stay_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    found = lines("joint_vae")
    assert "options.preparation.missing_value_strategy = mean" in found
    assert max(len(line) for line in found if line.startswith("  ")) <= 30


def test_a_fault_kind_says_what_it_does_and_shared_keys_come_once() -> None:
    found = listed("vgg3d")
    assert "- nan: One weight of the update is NaN." in found["federation.faults"][0]
    assert len(found["federation.faults.client"]) == 1


class Square(Options):
    """Four equal sides."""

    name: Literal["square"] = "square"
    side: float = 1.0
    """Length of a side."""
    colour: str = ""
    """Of the line."""


class Circle(Options):
    """Round."""

    name: Literal["circle"] = "circle"
    radius: float
    """Half the width."""
    colour: str = ""
    """Of the line."""


class Drawing(Options):
    """What is drawn."""

    shape: Square | Circle = Field(Square(), discriminator="name")
    """What it shows."""
    scale: int = 1
    """Pixels per unit."""


class Inked(Drawing):
    """The same in ink."""

    scale: int = 2


@pytest.mark.parametrize(("schema", "scale"), [(Drawing, "1"), (Inked, "2")])
def test_values_come_before_sections_and_meanings_are_inherited(schema: type[BaseModel], scale: str) -> None:
    assert list(keys_of(schema, "art")) == [
        Key("art.scale", scale, (), "Pixels per unit."),
        Key("art.shape", "square", (), "What it shows.\n- square: Four equal sides.\n- circle: Round."),
        Key("art.shape.side", "1.0", ("name: square",), "Length of a side."),
        Key("art.shape.colour", '""', (), "Of the line."),
        Key("art.shape.radius", None, ("name: circle",), "Half the width."),
    ]
