"""Where a split may be written: to a new JSON file, or over an earlier split of the same task, and nowhere else."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from core.files import write_json, write_text
from tasks.__main__ import app
from tests.commands import refused, run
from tests.refusals import refused as refused_call


def split(config: Path, out: Path | str, *words: str) -> Result:
    return CliRunner().invoke(app, ["split", str(config), *words, "--out", str(out)], catch_exceptions=False)


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json", "basis.json", "history.json", "model_final.json"])
def test_no_file_of_a_run_is_written_over(toy: Path, tmp_path: Path, file: str) -> None:
    toy.write_text(yaml.safe_dump({**yaml.safe_load(toy.read_text()), "experiments": [{"name": "a"}]}))
    assert run("centralized", toy, "--experiment", "a", "--results", tmp_path, "federation.rounds=1").exit_code == 0
    path = tmp_path / "toy_task" / "toy" / "centralized" / "a" / file
    before = path.read_bytes()
    refused(split(toy, path), f"--out {path}: ", "name one" if file.endswith("yaml") else "something else than a split")
    assert path.read_bytes() == before


def test_a_split_replaces_an_earlier_one_of_its_task_even_a_spoiled_one(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "split.json"
    assert split(toy, out).exit_code == 0
    content = json.loads(out.read_text())
    write_json(out, {**content, "split_sha256": "edited"})
    assert split(toy, out, "options.names=[ada]").exit_code == 0
    assert list(json.loads(out.read_text())["clients"]) == ["ada"]
    write_json(out, {**content, "task": "vgg3d"})
    refused(split(toy, out), f"--out {out}: holds a split of task 'vgg3d'; choose another file or remove it")
    out.write_text("{")
    refused(split(toy, out), f"{out}: not valid JSON")


@pytest.mark.parametrize("name", ["", "folder", "folder.json", "split", "split.yaml"])
def test_folders_and_other_kinds_of_files_are_refused(toy: Path, tmp_path: Path, name: str) -> None:
    for folder in ("folder", "folder.json"):
        (tmp_path / folder).mkdir()
    refused(split(toy, tmp_path / name), "not the name of a JSON file; name one, such as split.json")


def test_no_file_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    refused_call(lambda: write_text(tmp_path, "x"), f"{tmp_path}: a folder, and a file is to be written there")
