"""No room for a file: one line that names it and the remedy; what is there stays whole, and a run goes on later."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from core.files import append_text, write_text
from tests.commands import refused, run
from tests.conftest import Finished
from tests.refusals import refused as refused_call
from training import checkpoints
from training.runs import Run, Status
from training.session import conduct

NO_ROOM = "no room for this file (File too large); free some space there or raise the limit, and call again"


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond some bytes: the system refuses more as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["last.pt", "text.txt", "log.txt"])
def test_no_room_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    writers: dict[str, Callable[[int], None]] = {
        "last.pt": lambda size: checkpoints.save(path, {"w": torch.zeros(size)}),
        "text.txt": lambda size: write_text(path, "x" * size),
        "log.txt": lambda size: append_text(path, "x" * size),
    }
    writers[name](10)
    before = path.read_bytes()
    with at_most(5000):
        refused_call(lambda: writers[name](20_000), f"{path}: {NO_ROOM}")
    assert path.read_bytes().startswith(before)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("command", ["centralized", "fl"])
def test_a_run_without_room_ends_in_one_line_and_goes_on_later(toy: Path, tmp_path: Path, command: str) -> None:
    words: list[str | Path] = ["options.hidden=3000", "train.epochs=2", "federation.rounds=2", "--results", tmp_path]
    with at_most(20_000):
        refused(run(command, toy, *words, "--name", "full"), ".pt: no room for this file (File too large); free some")
    folder = tmp_path / "toy_task" / "full"
    assert json.loads((folder / "status.json").read_text())["status"] == "failed"
    assert run(command, "--resume", folder).exit_code == 0
    assert run(command, toy, *words, "--name", "alone").exit_code == 0
    assert Finished(folder).hashes == Finished(folder.with_name("alone")).hashes


def test_a_status_that_cannot_be_written_does_not_hide_the_error(
    start: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(run: Run) -> Status:
        raise RuntimeError("the sky fell")

    started = start("centralized")
    with at_most(0), pytest.raises(SystemExit) as ended:
        conduct(started, execute)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: the sky fell (details: ")
    assert json.loads((started.folder / "status.json").read_text())["status"] == "running"
