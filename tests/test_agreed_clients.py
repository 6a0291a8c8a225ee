"""Clients that failed when preprocessing was agreed on: out until the end of the run, which goes on without them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tests.commands import interrupt, refused, run
from tests.conftest import Finished
from tests.toy_task import Points

Fail = Callable[[str, Exception], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Let a client fail in its statistics."""
    original = Points.statistics

    def fail(failing: str, error: Exception) -> None:
        def statistics(self: Points, client: str) -> Any:
            if client == failing:
                raise error
            return original(self, client)

        monkeypatch.setattr(Points, "statistics", statistics)

    return fail


def words(toy: Path, results: Path, name: str) -> list[str | Path]:
    policy = ["federation.on_client_failure=continue", "federation.retries=0"]
    return [toy, *policy, "--results", results, "--name", name]


@pytest.fixture
def cut(toy: Path, tmp_path: Path, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that bob has no part in, ended by Ctrl-C in its third round."""
    fail("bob", RuntimeError("the disk is away"))
    with monkeypatch.context() as context:
        interrupt(context, epoch=6)
        assert run("fl", *words(toy, tmp_path, "cut")).exit_code == 130
    return tmp_path / "toy_task" / "cut"


def test_a_run_goes_on_without_a_client_that_is_back(cut: Path, toy: Path, tmp_path: Path, fail: Fail) -> None:
    assert run("fl", *words(toy, tmp_path, "alone")).exit_code == 3
    alone = Finished(cut.with_name("alone"))
    fail("nobody", RuntimeError())
    assert run("fl", "--resume", cut).exit_code == 3
    done = Finished(cut)
    assert done.hashes == alone.hashes
    assert set(done.json("manifest")["clients"]) == {"ada", "cyd"}
    (failure,) = done.json("status")["failures"]
    assert (failure["client"], failure["phase"], failure["step"]) == ("bob", "statistics", 0)


def test_a_run_does_not_go_on_without_a_client_that_agreed(cut: Path, fail: Fail) -> None:
    fail("ada", RuntimeError("the network is away"))
    result = run("fl", "--resume", cut)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ada failed in statistics: the network is away (details: ")
    fail("ada", UserError("points.csv: column x is missing; add it"))
    refused(run("fl", "--resume", cut), "points.csv: column x is missing; add it")
    fail("nobody", RuntimeError())
    assert run("fl", "--resume", cut).exit_code == 3
    assert json.loads((cut / "status.json").read_text())["status"] == "degraded"
