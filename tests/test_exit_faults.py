"""The fault that ends the process of a client: refused where all share one, and verified where they do not."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fl.__main__ import app
from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.server import serve
from tests.commands import refused, run
from tests.conftest import Go
from training.runs import Run

WORDS = "federation.faults[0].kind = exit: would end the process that all share; use --engine flower"


def exits(**when: Any) -> str:
    return f"federation.faults={json.dumps([{'kind': 'exit', 'client': 'bob', **when}])}"


@pytest.mark.parametrize("command", ["fl", "compare"])
def test_it_is_refused_where_the_server_would_end_too_before_anything_is_written(
    toy: Path, tmp_path: Path, command: str
) -> None:
    refused(run(command, toy, exits(round=2), "--results", tmp_path / "results"), WORDS)
    assert not (tmp_path / "results").exists()


@pytest.fixture
def never_struck(go: Go) -> Path:
    return go("federated", exits(rate=1e-12)).folder


def test_a_run_that_suffered_it_is_verified_on_flower(never_struck: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []

    def launch(root: Path, config: dict[str, str], *rest: Any, **more: Any) -> None:
        launches.append(config["nodes"])
        serve(Run.attach(Path(config["run"])), InProcessGrid(client_app, 2), 2)

    monkeypatch.setattr("fl.engines.launch", launch)
    answer = CliRunner().invoke(app, ["verify", str(never_struck)], catch_exceptions=False)
    assert (answer.exit_code, answer.stdout.splitlines()[-1], len(launches)) == (0, "equal", 1)


def test_verifying_it_in_one_process_is_refused(never_struck: Path) -> None:
    refused(run("fl", "verify", never_struck), WORDS)
    refused(run("fl", "verify", never_struck, "--workers", "2"), WORDS)


def test_other_rules_that_could_only_fail_leave_no_run_folder(toy: Path, tmp_path: Path) -> None:
    def check(override: str, words: str) -> None:
        refused(run("fl", toy, override, "--results", tmp_path / "results"), f"{toy}: {words}")
        assert not (tmp_path / "results").exists()

    check(
        'federation.faults=[{"kind": "nan", "round": 1, "client": "zed"}]',
        "federation.faults[0].client = 'zed': no such client",
    )
    check("federation.min_clients=9", "federation.min_clients = 9: there are 3 clients")
