"""Files and names that would do harm: checkpoints with code in them, ways out of a folder, other code on a node."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.server import Server, serve
from tasks.nicheformer import LabelMap
from tests.commands import COMMANDS, refused, run
from tests.conftest import Go
from tests.refusals import refused as refused_call
from training import checkpoints, provenance
from training.preparation import check_names
from training.runs import Run
from training.trained import open_trained

Start = Callable[..., Run]
SETTINGS = {"centralized": "centralized", "fl": "federated"}
BOTH = pytest.mark.parametrize("command", SETTINGS)


class Payload:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    """What must never come to be."""
    return tmp_path / "harm"


WRITERS: dict[str, Callable[[object, Path], None]] = {
    "torch": lambda content, path: torch.save(content, path),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.fixture
def cut(go: Go) -> Callable[[str], Path]:
    """Give a finished run that looks as if it had been cut off before its end."""

    def cut(command: str) -> Path:
        finished = go(SETTINGS[command], "train.select=best")
        status = {**finished.json("status"), "status": "running"}
        (finished.folder / "status.json").write_text(json.dumps(status))
        return finished.folder

    return cut


def checkpoint(folder: Path, name: str) -> Path:
    (path,) = (folder / "checkpoints").rglob(name)
    return path


@BOTH
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["last.pt", "best-*.pt"])
def test_a_checkpoint_with_code_in_it_is_never_run(
    cut: Callable[[str], Path], harm: Path, command: str, writer: str, name: str
) -> None:
    folder = cut(command)
    path = checkpoint(folder, name)
    content = {**checkpoints.load(path), "state": Payload(harm)}
    WRITERS[writer](content, path)
    refused(run(command, "--resume", folder), path.name, "refused, holds more than tensors and numbers", "make it anew")
    assert not harm.exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_final_weights_with_code_in_them_are_never_run(go: Go, harm: Path, writer: str) -> None:
    folder = go("centralized").folder
    WRITERS[writer]({**checkpoints.load(folder / "model_final.pt"), "extra": Payload(harm)}, folder / "model_final.pt")
    refused_call(lambda: open_trained(folder), "model_final.pt: refused, holds more than tensors and numbers")
    assert not harm.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04N.", b"# text\n"])
def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    refused_call(lambda: checkpoints.load(path), str(path))


@BOTH
def test_a_checkpoint_of_another_network_is_refused(cut: Callable[[str], Path], go: Go, command: str) -> None:
    """Another width, other labels, other scalers: the fingerprint says so before any weight is loaded."""
    folder = cut(command)
    path = checkpoint(folder, "last.pt")
    other = go(SETTINGS[command], "options.hidden=9").folder
    path.write_bytes(checkpoint(other, "last.pt").read_bytes())
    refused(run(command, "--resume", folder), "last.pt: fingerprint ", " does not fit ", "use the run's own config")
    other = go(SETTINGS[command], "options.missing_classes=true").folder
    path.write_bytes(checkpoint(other, "last.pt").read_bytes())
    refused(run(command, "--resume", folder), "last.pt: fingerprint ", "feature list or label map")


def test_a_checkpoint_of_other_features_or_labels_is_refused(tmp_path: Path) -> None:
    """Gene panel and label map are part of what was fitted, so the same network does not make it fit."""
    network = torch.nn.Linear(2, 2)
    fitted = {
        "own": LabelMap(classes=["b cell", "t cell"], genes="a" * 64),
        "panel": LabelMap(classes=["b cell", "t cell"], genes="b" * 64),
        "labels": LabelMap(classes=["t cell", "b cell"], genes="a" * 64),
    }
    prints = {name: checkpoints.fingerprint("nicheformer", network, one) for name, one in fitted.items()}
    path = tmp_path / "last.pt"
    for other in ("panel", "labels"):
        checkpoints.save(path, {"fingerprint": prints[other], "state": network.state_dict()})
        refused_call(lambda: checkpoints.load(path, prints["own"]), "last.pt: fingerprint ", prints[other][:12])
    checkpoints.save(path, {"fingerprint": prints["own"], "state": network.state_dict()})
    assert checkpoints.load(path, prints["own"])["fingerprint"] == prints["own"]


def test_weights_beside_the_preprocessing_of_another_run_are_refused(go: Go) -> None:
    folder, other = (go("centralized", f"options.missing_classes={on}").folder for on in ("false", "true"))
    (folder / "model_final.json").write_bytes((other / "model_final.json").read_bytes())
    refused_call(lambda: open_trained(folder), "model_final.pt: fingerprint ", "feature list or label map")


# Names that lead elsewhere


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["../../out", "..", ".", "a/b", "/out", ".hidden", "a\\b", "-x", "a\nb"])
def test_a_run_cannot_be_named_out_of_its_folder(toy: Path, tmp_path: Path, command: str, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    results = tmp_path / "results" / "deep"
    refused(run(command, toy, "--results", results, f"--name={name}"), "--name ", ": not a plain folder name; use ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../ada", "..", "a/b", "/ada", ".hidden", "", "a\\b", "a\0b", "pooled", "a__b"])
def test_a_client_cannot_be_named_out_of_its_folder(toy: Path, tmp_path: Path, name: str) -> None:
    refused_call(lambda: check_names(["ada", name], "study"), f"study: client name {name!r}", "rename the client")
    for command in SETTINGS:
        names = f"options.names={json.dumps(['ada', name])}"
        refused(run(command, toy, names, "--results", tmp_path / "results"), f"client name {name!r} is reserved or not")


@pytest.mark.parametrize("task", ["../evil", "/evil", "tasks/../evil", "..evil", "tests.toy_task/../evil"])
def test_a_task_cannot_be_named_out_of_its_folder(toy: Path, tmp_path: Path, task: str) -> None:
    (tmp_path / "evil.py").write_text(f"raise SystemExit({task!r})")
    for command in COMMANDS:
        refused(run(command, toy, f"task={task}", "--results", tmp_path / "results"), f"task = {task!r}: no such task")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("folder", ["..", "/", "a/.."])
def test_a_node_writes_nowhere_but_below_its_workspace(start: Start, tmp_path: Path, folder: str) -> None:
    grid = InProcessGrid(client_app, 1)
    (tmp_path / "node").mkdir()
    for context in grid.contexts.values():
        context.node_config["workspace"] = str(tmp_path / "node" / "work")
    started = start("federated")
    server = Server(started, grid, 1)
    server.asking.request["folder"] = folder
    refused_call(server.conduct, f"{folder!r}: the server's run folder has no name; nothing is written here")
    assert not list((tmp_path / "node").iterdir())


# Links


@BOTH
def test_a_run_folder_that_is_a_link_is_not_written_through(toy: Path, tmp_path: Path, command: str) -> None:
    elsewhere, place = tmp_path / "elsewhere", tmp_path / "results" / "toy_task" / "mine"
    elsewhere.mkdir()
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    refused(
        run(command, toy, "--results", tmp_path / "results", "--name", "mine"), f"{place}: a link, and a run writes"
    )
    assert not list(elsewhere.iterdir())


@BOTH
@pytest.mark.parametrize("name", ["log.txt", "checkpoints", "status.json"])
def test_a_run_goes_on_only_in_files_of_its_own(
    cut: Callable[[str], Path], tmp_path: Path, command: str, name: str
) -> None:
    folder, elsewhere = cut(command), tmp_path / "elsewhere"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in [elsewhere, *elsewhere.rglob("*")] if path.is_file()}
    refused(run(command, "--resume", folder), f"{folder / name}: a link, and a run writes to files of its own")
    link = tmp_path / "link"
    link.symlink_to(folder)
    refused(run(command, "--resume", link), f"{link}: a link, and a run writes to files of its own")
    assert {path: path.read_bytes() for path in before} == before


def test_results_may_be_a_link_to_a_larger_disk(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    words = ["federation.rounds=1", "--results", tmp_path / "results", "--name", "mine"]
    assert run("fl", toy, *words).exit_code == 0
    assert (tmp_path / "disk" / "toy_task" / "mine" / "report.html").is_file()


def test_a_checkpoint_that_is_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "last.pt"
    target.write_text("kept")
    path.symlink_to(target)
    checkpoints.save(path, {"round": 1})
    assert (target.read_text(), path.is_symlink(), checkpoints.load(path)) == ("kept", False, {"round": 1})


# Code


def test_a_node_with_other_code_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl.client_app.code_digest", lambda task: "0123456789ab")
    line = "node runs other code (0123456789ab) than the server ("
    refused_call(lambda: serve(start("federated"), InProcessGrid(client_app, 2), 2), line, "shipped bundle")


def test_one_byte_in_one_source_file_makes_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    file = tmp_path / "fl" / "client.py"
    file.parent.mkdir()
    digests = set()
    for text in ("a = 1\n", "a = 2\n"):
        file.write_text(text)
        digests.add(provenance.code_digest.__wrapped__("toy"))
    file.rename(file.with_name("other.py"))
    digests.add(provenance.code_digest.__wrapped__("toy"))
    assert len(digests) == 3


def test_code_of_a_task_from_elsewhere_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    digests = {provenance.code_digest("toy")}
    for text in ("a = 1\n", "a = 2\n"):
        (tmp_path / "mine" / "helper.py").write_text(text)
        digests.add(provenance.code_digest.__wrapped__("mine.task"))
    assert len(digests) == 3
    assert provenance.imported_from("mine.task") == [tmp_path]
    assert provenance.imported_from("toy") == provenance.imported_from("tasks.vgg3d") == []
