"""Two federations on Flower at once, and one that is interrupted: own results, and nothing of them is left."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fl.processes import MARK, marked
from fl.verify import first_difference, read_record
from tests.conftest import conduct
from training.config import load
from training.runs import Run

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (1, 2)

pytestmark = pytest.mark.slow


class Command:
    """`python -m fl` on the toy task through Flower, and what it starts."""

    def __init__(self, config: Path, results: Path, *words: str) -> None:
        self.folder = results / "toy_task" / "run"
        place = [] if "--resume" in words else [str(config), "--results", str(results), "--name", "run"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fl", *place, *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.traces: dict[str, dict[str, str]] = {}

    def watch(self) -> bool:
        """Note the marks of its launches, and the folders and the ports that these use; tell whether it still runs."""
        for child in _children(self.process.pid):
            environment = _environment(child)
            if mark := environment.get(MARK):
                known = self.traces.setdefault(mark, {"home": str(Path(environment["FLWR_HOME"]).parent)})
                if port := re.search(r"flower-superlink .*--port (\d+)", " ".join(_words(child))):
                    known["port"] = port[1]
        return self.process.poll() is None

    def rounds(self) -> int:
        path = self.folder / "history.json"
        return len(json.loads(path.read_text())["steps"]) if path.exists() else 0

    def assert_nothing_left(self) -> None:
        assert self.traces
        for mark, trace in self.traces.items():
            assert marked(mark) == set()
            assert not Path(trace["home"]).exists()
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", int(trace["port"])))


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rounds that last a second, so that two runs overlap and one can be interrupted."""
    path = tmp_path_factory.mktemp("config") / "toy.yaml"
    slow = [{"kind": "slow", "rate": 1.0, "client": "bob", "seconds": 1.0}]
    federation = {"rounds": 3, "workers": 1, "strategy": "fedadam", "optimizer_state": "kept", "faults": slow}
    path.write_text(yaml.safe_dump({"task": "tests.toy_task", "options": {"data": "none"}, "federation": federation}))
    return path


def alone(config: Path, folder: Path, seed: int) -> Any:
    """What the run says when it is alone on the machine, without Flower's processes."""
    run = Run.create(folder, load(config, [f"seed={seed}"]), "federated")
    conduct(run)
    return read_record(folder)


def test_two_runs_at_once_keep_to_themselves_and_leave_nothing(config: Path, tmp_path: Path) -> None:
    commands = {seed: Command(config, tmp_path / f"results-{seed}", f"seed={seed}") for seed in SEEDS}
    together = 0
    running = list(commands.values())
    while running := [command for command in running if command.watch()]:
        together += len(running) == 2 and all(any("port" in one for one in own.traces.values()) for own in running)
        time.sleep(0.1)
    assert together
    for seed, command in commands.items():
        assert command.process.wait() == 0, command.process.stderr.read()  # type: ignore[union-attr]
        assert first_difference(alone(config, tmp_path / f"alone-{seed}", seed), read_record(command.folder)) is None
        command.assert_nothing_left()
        log = (command.folder / "log.txt").read_text()
        assert log.count("  round 3/3  ") == 1 and "died" not in log
    hashes = {read_record(command.folder).sha256 for command in commands.values()}
    assert len(hashes) == 2
    (first,), (second,) = ({trace["home"] for trace in command.traces.values()} for command in commands.values())
    assert first != second


def test_ctrl_c_ends_a_run_within_seconds_and_it_goes_on_where_it_stood(config: Path, tmp_path: Path) -> None:
    command = Command(config, tmp_path / "results", "seed=1")
    while command.watch() and command.rounds() < 1:
        time.sleep(0.05)
    assert command.process.poll() is None
    command.process.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    assert command.process.wait() == 130
    assert time.monotonic() - interrupted < 20
    command.assert_nothing_left()
    (line,) = command.process.stderr.read().splitlines()  # type: ignore[union-attr]
    assert line.startswith("error: interrupted") and line.endswith(f"go on with --resume {command.folder})")
    status = json.loads((command.folder / "status.json").read_text())
    assert (status["status"], status["error"], status["exit_code"]) == ("failed", "interrupted", 130)
    stood = command.rounds()
    assert 1 <= stood < 3

    again = Command(config, tmp_path, "--resume", str(command.folder))
    while again.watch():
        time.sleep(0.1)
    assert again.process.wait() == 0
    again.assert_nothing_left()
    assert f"goes on after round {stood}" in (command.folder / "log.txt").read_text()
    assert first_difference(alone(config, tmp_path / "alone", 1), read_record(command.folder)) is None
