"""Two calls on one folder: the second is refused in one line and changes nothing, a killed one holds nothing."""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import tune
from core.errors import UserError
from core.locks import FILE, hold
from tests.commands import COMMANDS, interrupt, refused, run
from tests.conftest import TOY
from tests.refusals import refused as refused_call
from training.config import load
from training.runs import Run

ROOT = Path(__file__).resolve().parent.parent
EVERY = pytest.mark.parametrize("command", COMMANDS)
BUSY = "another process writes here; wait for its end, or end it, then call again"
SETTINGS = {"centralized": "centralized", "fl": "federated", "compare": "compare"}


@contextlib.contextmanager
def elsewhere(folder: Path, end: str = "input()") -> Iterator[subprocess.Popen[str]]:
    """Hold a folder in a process of its own."""
    imports = "import os, signal, time; from pathlib import Path; from core.locks import hold"
    code = f"{imports}; lock = hold(Path({str(folder)!r})); print('held', flush=True)\n{end}"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump({**TOY, "federation": {"rounds": 2}, "experiments": [{"name": "a"}, {"name": "b"}]}))
    return path


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.report.plots", lambda comparison: {})


def contents(folder: Path) -> dict[Path, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != FILE]
    found = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert found
    return found


def free(folder: Path) -> bool:
    try:
        hold(folder).release()
    except UserError:
        return False
    return True


@EVERY
def test_a_place_where_another_process_works_is_left_to_it(
    many: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = many.parent / "results"
    place = results / "toy_task" / "many" / SETTINGS[command] / "a"
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=2)
        assert run(command, many, "--experiment", "a", "--results", results).exit_code == 130
    before = contents(place)
    with elsewhere(place):
        for changed in ([], ["train.lr=0.1"]):  # would be resumed, would be moved aside
            refused(run(command, many, "--experiment", "a", *changed, "--results", results), f"{place}: {BUSY}")
        both = run(command, many, "--all", "--results", results)
        assert both.exit_code == 2 and (place.parent / "b").is_dir()
    assert contents(place) == before and not (place.parent / "superseded").exists()
    assert run(command, many, "--experiment", "a", "--results", results).exit_code == 0


@pytest.mark.parametrize("command", ["centralized", "fl"])
def test_a_run_is_resumed_by_one_process_at_a_time(
    toy: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=2)
        run(command, toy, "--results", tmp_path, "--name", "mine")
    folder = tmp_path / "toy_task" / "mine"
    (folder / ".half-12345678.pt").write_text("being written")
    before = contents(folder)
    with elsewhere(folder) as process:
        refused(run(command, "--resume", folder), f"{folder}: {BUSY}")
        assert contents(folder) == before
        process.kill()
        process.wait()
        assert run(command, "--resume", folder).exit_code == 0


def test_a_comparison_and_each_of_its_runs_are_conducted_once(toy: Path, tmp_path: Path, many: Path) -> None:
    folder = tmp_path / "toy_task" / "mine"
    words = [toy, "federation.rounds=1", "--results", tmp_path]
    assert run("compare", *words, "--name", "mine").exit_code == 0
    with elsewhere(folder):
        refused(run("compare", *words, "--resume", folder), f"{folder}: {BUSY}")
    local = folder / "local-seed42"
    status = (local / "status.json").read_text()
    (local / "status.json").write_text(status.replace("completed", "running"))
    with elsewhere(local):
        refused(run("compare", *words, "--resume", folder), f"{local}: {BUSY}")
        refused(run("centralized", "--resume", local), f"{local}: {BUSY}")
    assert run("compare", *words, "--resume", folder).exit_code == 0


def test_a_comparison_is_not_moved_aside_under_one_of_its_runs(many: Path) -> None:
    words = ["compare", many, "--experiment", "a", "--results", many.parent / "results"]
    assert run(*words).exit_code == 0
    place = many.parent / "results" / "toy_task" / "many" / "compare" / "a"
    with elsewhere(place / "local-seed0"), elsewhere(place / "local-seed42"):
        refused(run(*words, "train.lr=0.1"), f"{place / 'local-seed42'}: {BUSY}")
    assert not (place.parent / "superseded").exists()


def test_a_study_is_searched_by_one_process_at_a_time(toy: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("train.lr: {low: 0.01, high: 0.1}\n")
    words = [str(toy), str(space), "--study", "one", "--trials", "1", "--results", str(tmp_path)]
    folder = tmp_path / "toy_task" / "tune-one"
    with elsewhere(folder):
        refused(CliRunner().invoke(tune.app, words, catch_exceptions=False), f"{folder}: {BUSY}")
    assert {path.name for path in folder.iterdir()} == {FILE}
    assert CliRunner().invoke(tune.app, words, catch_exceptions=False).exit_code == 0


def test_of_two_that_start_at_once_one_is_refused(toy: Path, tmp_path: Path) -> None:
    with elsewhere(tmp_path / "run"):
        refused_call(lambda: Run.create(tmp_path / "run", load(toy), "centralized"), BUSY)
    assert not (tmp_path / "run" / "config.yaml").exists()
    Run.create(tmp_path / "run", load(toy), "centralized")


ENDS: dict[str, Any] = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "killed, and a worker that it forked lives on": "os.fork() or time.sleep(30)\nos.kill(os.getpid(), signal.SIGKILL)",
    "released": "lock.release(); input()",
    "no longer referenced": "del lock; input()",
}


@pytest.mark.parametrize("end", [pytest.param(code, id=name) for name, code in ENDS.items()])
def test_the_lock_ends_with_its_process(tmp_path: Path, end: str) -> None:
    with elsewhere(tmp_path, end) as process:
        if "SIGKILL" in end:
            process.wait()
        deadline = time.monotonic() + 20
        while not free(tmp_path):
            assert time.monotonic() < deadline


def test_a_process_holds_a_folder_as_often_as_it_asks(tmp_path: Path) -> None:
    first = hold(tmp_path)
    assert hold(tmp_path / ".." / tmp_path.name) is first
    first.release()
    assert hold(tmp_path) is not first


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    hold(tmp_path / "a" / "b").release()
    assert not (tmp_path / "a").exists()
    lock = hold(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "file").write_text("")
    lock.release()
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "file"]


def test_a_folder_that_is_moved_aside_while_it_is_locked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"

    def moved(stream: Any, how: int) -> None:
        folder.rename(tmp_path / "superseded")

    monkeypatch.setattr("core.locks.fcntl.flock", moved)
    refused_call(lambda: hold(folder), str(folder), BUSY)


def test_without_locks_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsupported(stream: Any, how: int) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr("core.locks.fcntl.flock", unsupported)
    hold(tmp_path)
    assert "this file system has no locks" in capsys.readouterr().out
