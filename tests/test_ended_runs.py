"""How the commands end when a run cannot start, fails at a client, or is interrupted."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import UserError
from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.server import serve
from tests.commands import COMMANDS, interrupt, refused, run
from tests.spoiled_studies import HELD_OUT, TRAIN, VAL, column, same_cell
from training.config import load
from training.runs import Run

BOTH = pytest.mark.parametrize("command", ["centralized", "fl"])
ALL = pytest.mark.parametrize("command", COMMANDS)
SETTINGS = {"centralized": "centralized", "fl": "federated"}
TINY = {"dim_model": 16, "nheads": 2, "dim_feedforward": 16, "nlayers": 1, "context_length": 16}


def status(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "status.json").read_text()))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@ALL
def test_an_existing_folder_is_left_as_it_is(toy: Path, results: Path, command: str) -> None:
    folder = results / "toy_task" / "mine"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("kept")
    refused(
        run(command, toy, "--results", results, "--name", "mine"),
        f"{folder}: this ",
        "exists; choose another --name, or go on with --resume",
    )
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@BOTH
@pytest.mark.parametrize("below", ["results", "results/toy_task/mine"])
def test_a_folder_that_cannot_be_made(toy: Path, results: Path, command: str, below: str) -> None:
    file = results.parent / below
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a file")
    answer = run(command, toy, "--results", results, "--name", "mine")
    refused(answer, str(results), "cannot make this folder", "; choose another output folder")
    assert file.read_text() == "a file"


def test_a_comparison_whose_folder_cannot_be_made(toy: Path, results: Path) -> None:
    results.write_text("a file")
    refused(run("compare", toy, "--results", results), "cannot make this folder", "; choose another output folder")


@BOTH
def test_runs_that_cannot_be_resumed(toy: Path, results: Path, command: str) -> None:
    finished = Run.create(results / "finished", load(toy), SETTINGS[command])  # type: ignore[arg-type]
    finished.finish()
    foreign = results / "foreign"
    foreign.mkdir()
    (foreign / "status.json").write_text("[1]")
    refused(run(command, "--resume", finished.folder), "finished: this run is completed; there is nothing to resume")
    refused(run(command, "--resume", results), f"{results}: no run folder, it holds no status.json; name one of")
    refused(run(command, "--resume", foreign), "foreign/status.json: not written by a run; start a new run")
    refused(run(command, toy, "--resume", finished.folder), "own config; leave out CONFIG, overrides, --name")
    refused(run(command, "--resume", finished.folder, "--name", "x"), "own config; leave out CONFIG, overrides, --name")
    refused(run(command), "CONFIG is missing; name a file of configs/, or use --resume RUN")
    refused(run(command, results / "no.yaml"), "no.yaml: no such file; check the path")
    refused(run(command, toy, "train.lr"), "override 'train.lr': not of the form section.key=value; write e.g.")
    assert status(finished.folder)["status"] == "completed"


@BOTH
def test_a_run_of_the_other_command(toy: Path, results: Path, command: str) -> None:
    other = Run.create(results / "other", load(toy), "local" if command == "fl" else "federated")
    refused(run(command, "--resume", other.folder), f"a {other.setting} run; resume it with the command that started")
    assert status(other.folder)["status"] == "running"


def test_a_comparison_that_cannot_be_resumed(toy: Path, results: Path) -> None:
    refused(run("compare", toy, "--resume", results), f"{results}: no comparison to resume", "; check the path")
    assert not results.exists()


@ALL
def test_tensorboard_that_is_not_installed(
    toy: Path, results: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    answer = run(command, toy, "train.tensorboard=true", "--results", results)
    refused(answer, "train.tensorboard = true: tensorboard is not installed; install the extra `track`")
    assert not results.exists()


def test_a_comparison_finds_out_about_its_strategy_first(toy: Path, results: Path) -> None:
    strategy = "federation.strategy={name: krum, num_malicious_nodes: 1}"
    answer = run("compare", toy, strategy, "--results", results)
    refused(
        answer, f"{toy}: federation.strategy = krum: 3 clients per round", "takes 5; add clients or lower the number"
    )
    assert not results.exists()


@BOTH
def test_a_client_that_raises_is_named(toy: Path, results: Path, command: str) -> None:
    answer = run(command, toy, "options.failing=bob", "--results", results, "--name", "mine")
    (line,) = answer.stderr.splitlines()
    assert answer.exit_code == 1
    assert line.startswith("error: ") and "the disk of this client is broken" in line
    found = status(results / "toy_task" / "mine")
    assert (found["status"], found["exit_code"]) == ("failed", 1)
    assert line.startswith(f"error: {found['error']} (details: ") and "go on with --resume" in line
    (failure,) = found["failures"]
    where = failure.pop("traceback") or "log.txt"
    named = {"client": "bob", "step": 0, "phase": "open", "kind": "failed"}
    assert failure == {**named, "message": "the disk of this client is broken"}
    assert "Traceback" in (results / "toy_task" / "mine" / where).read_text()


def test_a_federation_that_may_goes_on_without_the_client_that_raises(toy: Path, results: Path) -> None:
    answer = run(
        "fl", toy, "options.failing=bob", "federation.min_clients=2", "federation.rounds=1",
        "--results", results, "--name", "mine",
    )  # fmt: skip
    (line,) = answer.stderr.splitlines()
    assert (answer.exit_code, line.startswith("degraded: bob failed; see ")) == (3, True)
    found = status(results / "toy_task" / "mine")
    assert (found["status"], found["exit_code"]) == ("degraded", 3)
    assert {failure["client"] for failure in found["failures"]} == {"bob"}
    assert [failure["phase"] for failure in found["failures"]] == ["open"]
    assert {failure["message"] for failure in found["failures"]} == {"the disk of this client is broken"}


@BOTH
def test_ctrl_c_leaves_a_run_that_can_be_resumed(
    toy: Path, results: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    interrupt(monkeypatch, epoch=5)
    words = [toy, "train.epochs=6", "federation.rounds=2", "--results", results, "--name"]
    answer = run(command, *words, "stopped")
    stopped = results / "toy_task" / "stopped"
    (line,) = answer.stderr.splitlines()
    assert (answer.exit_code, line.startswith("error: interrupted (details: ")) == (130, True)
    assert line.endswith(f"go on with --resume {stopped})")
    found = status(stopped)
    assert (found["status"], found["error"], found["exit_code"]) == ("failed", "interrupted", 130)
    assert run(command, "--resume", stopped).exit_code == 0
    assert run(command, *words, "straight").exit_code == 0
    hashes = [
        json.loads((results / "toy_task" / name / "manifest.json").read_text())["weights_sha256"]
        for name in ("stopped", "straight")
    ]
    assert hashes[0] == hashes[1]


def test_ctrl_c_ends_a_comparison_with_what_it_has(toy: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, epoch=1)
    answer = run("compare", toy, "--results", results, "--name", "mine")
    (line,) = answer.stderr.splitlines()
    assert (answer.exit_code, line.startswith("error: interrupted (details: ")) == (130, True)
    assert status(results / "toy_task" / "mine" / "centralized-seed42")["status"] == "failed"


@pytest.fixture
def small(study: Path, tmp_path: Path) -> Path:
    """A config on a copy of the small study."""
    shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns(".cache"))
    options = {"data": str(tmp_path / "study"), "unit_key": "library_key", "random_backbone": TINY}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"task": "nicheformer", "options": options, "federation": {"rounds": 1}}))
    return path


def test_a_comparison_ends_at_the_first_setting_that_refuses(small: Path, results: Path) -> None:
    column(HELD_OUT, "cell_type", "unicorn")(small.parent / "study")
    line = refused(run("compare", small, "--results", results, "--name", "mine"), HELD_OUT, "'unicorn' is in no client")
    folder = results / "nicheformer" / "mine"
    assert status(folder / "centralized-seed42")["error"] == line
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["centralized-seed42"]


def test_nodes_with_data_of_their_own_show_hashes_only(small: Path, tmp_path: Path) -> None:
    study, name = small.parent / "study", "hospital_north_s0_c0000"
    same_cell(TRAIN, VAL.replace("north", "south"))(study)
    grid = InProcessGrid(client_app, nodes=2)
    for context, client in zip(grid.contexts.values(), ("hospital_north", "hospital_south"), strict=True):
        own = tmp_path / client
        shutil.copytree(study / "clients" / client, own / "clients" / client)
        shutil.copytree(study / "reference", own / "reference")
        context.node_config["data"] = str(own)
    started = Run.create(tmp_path / "run", load(small, ["options.unit_key=null"]), "federated")
    with pytest.raises(
        UserError, match=r"\(ids hashed\): cell '[0-9a-f]{20}' is in both hospital_north/train and"
    ) as it:
        serve(started, grid, 2)
    assert name not in str(it.value)
    assert not any(name in path.read_text() for path in started.folder.rglob("*.*"))
