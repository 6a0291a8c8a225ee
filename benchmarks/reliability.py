"""Whether a federation gives the same again, survives being killed, and says truly how it ended.

`python -m benchmarks.reliability same` runs the config of every task three times in one process, then with 1, 2 and 4
workers on both engines (Flower takes no more than there are cores): one hash of the weights, one of the metrics.
`python -m benchmarks.reliability kills` kills runs with SIGKILL at drawn moments (one process, the server, a worker,
the whole tree of a launch, or in the middle of writing a checkpoint) and goes on with --resume until they end: weights,
metrics and failures of clients must be those of a run that was left alone.
`python -m benchmarks.reliability failures` makes clients fail in five ways: exit code, status and the line for the user
must tell of it.

Exit code 1 where anything is not as it should be. On two cores the parts take about 15, 25 and 8 minutes.
"""

import importlib
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import Command, end, python
from core.files import read_json, sha256_json, write_text
from core.randomness import generator
from fl.processes import MARK, marked
from fl.verify import first_difference, read_record
from training.provenance import ROOT
from training.runs import EXIT_CODES

app = typer.Typer(add_completion=False)

ROUNDS = 6
SLOW = {"kind": "slow", "rate": 1, "seconds": 0.3}
TOY: dict[str, Any] = {
    "task": "tests.toy_task",
    "options": {"data": "none", "hidden": 20000},
    "train": {"lr": 0.02, "batch_size": 8},
    "federation": {"rounds": ROUNDS, "workers": 2, "faults": [SLOW]},
}
PASSING = [
    SLOW,
    {"kind": "exception", "client": "ada", "round": 2, "times": 1},
    {"kind": "exception", "client": "bob", "round": 3, "times": 2},
    {"kind": "nan", "client": "cyd", "round": 4, "times": 2},
]
"""Asked twice, ada recovers; bob and cyd miss a round each."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedadam": ("federation.strategy=fedadam",),
    "kept optimizers": ("federation.optimizer_state=kept", "train.schedule={name: cosine, warmup: 3}"),
    "personal, kept, faults": (
        "options.personal_head=true",
        "federation.optimizer_state=kept",
        "federation.on_client_failure=continue",
        f"federation.faults={json.dumps(PASSING)}",
    ),
}
REPEATS = [("inprocess", 0)] * 2 + [("inprocess", 1), ("inprocess", 2), ("inprocess", 4)]
REPEATS += [("flower", 1), ("flower", 2), ("flower", 4)]
KILLS = [
    ("inprocess", "process"),
    ("inprocess", "write"),
    ("flower", "worker"),
    ("flower", "server"),
    ("flower", "tree"),
]
WORDS = {"worker": "ClientAppActor", "server": "flwr-simulation"}
"""What the command line of the process to kill holds."""
SMALL = ("federation.rounds=2", "federation.local_epochs=1", "train.limit_batches=4")


@app.command()
def same(
    tasks: Annotated[list[str] | None, typer.Argument(help="Stems of configs/; by default all")] = None,
) -> None:
    """Run each config again and again: one hash for weights and one for metrics."""
    table = Table("task", "weights", "metrics", "runs", "equal", title="The same config, nine runs each")
    stems = tasks or sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        for stem in stems:
            data = Path(name) / "data" / stem
            importlib.import_module(f"datasets.synthetic.{stem}").make(data)
            config, overrides = ROOT / "configs" / f"{stem}.yaml", (f"options.data={data}", *SMALL)
            command = Command(config, stem, Path(name), "inprocess", overrides)
            code, errors = command.run()
            if code:
                raise SystemExit(errors)
            unequal = [case for case in REPEATS if not _verifies(stem, command.folder, *case)]
            wrong += len(unequal)
            record = read_record(command.folder)
            runs, equal = str(len(REPEATS) + 1), "all" if not unequal else f"not {unequal}"
            table.add_row(stem, record.sha256[:16], sha256_json(record.metrics)[:16], runs, equal)
    Console().print(table)
    raise typer.Exit(int(wrong > 0))


def _verifies(stem: str, folder: Path, engine: str, workers: int) -> bool:
    start = time.perf_counter()
    words = ["--workers", str(workers)] if workers else []
    code, errors = end(python("fl", "verify", str(folder), "--engine", engine, *words))
    said = {0: "equal", 1: "different"}.get(code, errors)
    print(
        f"{stem}  {engine}  workers {workers or 'as configured'}  {said}  {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return code == 0


@app.command()
def kills(
    count: Annotated[int, typer.Option(help="Runs to kill.")] = 20,
    first: Annotated[int, typer.Option(help="The first seed; the others follow.")] = 0,
) -> None:
    """Kill runs at drawn moments and go on with --resume: all must end like a run that was left alone."""
    table = Table("seed", "killed", "of", "variant", "after round", "resumed", "seconds", "equal")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        config = Path(name) / "toy.yaml"
        write_text(config, yaml.safe_dump(TOY))
        alone: dict[str, Path] = {}
        for seed in range(first, first + count):
            engine, target = KILLS[seed % len(KILLS)]
            variant = list(VARIANTS)[seed % len(VARIANTS)]
            command = Command(config, "toy_task", Path(name) / f"killed-{seed}", engine, VARIANTS[variant])
            if variant not in alone:
                alone[variant] = _left_alone(replace(command, results=Path(name) / f"alone-{seed}", engine="inprocess"))
            start = time.perf_counter()
            stood = _kill(command, target, seed)
            resumed = _resume(command)
            difference = _difference(alone[variant], command.folder)
            wrong += difference is not None
            took = f"{time.perf_counter() - start:.0f}"
            row = [str(seed), target, engine, variant, stood, str(resumed), took, difference or "yes"]
            table.add_row(*row)
            print("  ".join(row), flush=True)
    Console().print(table)
    print(f"{count - wrong} of {count} equal to the run that was left alone")
    raise typer.Exit(int(wrong > 0))


def _left_alone(command: Command) -> Path:
    code, errors = command.run()
    if code not in EXIT_CODES.values():
        raise SystemExit(errors)
    return command.folder


def _difference(alone: Path, killed: Path) -> str | None:
    """Name the first thing in which two runs differ: weights, metrics, or what became of their clients."""
    ends = [read_json(folder / "status.json") for folder in (alone, killed)]
    said = [f"{end['status']}, {end['failures']}" for end in ends]
    unequal = f"status.json: {said[0]} left alone, {said[1]} killed" if said[0] != said[1] else None
    return first_difference(read_record(alone), read_record(killed)) or unequal


def _kill(command: Command, target: str, seed: int) -> str:
    """Start a run and kill a part of it; give the round after which that was."""
    draw = generator(seed, "kill")
    process = command.start()
    rounds, delay = int(draw.integers(0, ROUNDS - 1)), float(draw.uniform(0, 0.5))
    _wait(process, lambda: rounds_of(command.folder) >= rounds)
    mark = _mark(process.pid)
    if target == "write":
        folder = command.folder / "checkpoints"
        _wait(process, lambda: any(folder.rglob(".*.pt")))
    else:
        time.sleep(delay)
    victims = _victims(mark, WORDS[target]) if target in WORDS else [process.pid]
    os.kill(int(draw.choice(victims)), signal.SIGKILL)
    stood = rounds_of(command.folder)
    end(process)
    while mark and marked(mark):
        time.sleep(0.1)
    return str(stood)


def _resume(command: Command) -> int:
    """Go on with a run until it ends; give how often that took."""
    for times in range(4):
        status = read_json(command.folder / "status.json")
        if status["status"] in EXIT_CODES:
            return times
        end(command.start(resume=True))
    raise SystemExit(f"{command.folder}: does not end: {status}")


def _wait(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    while not condition():
        if process.poll() is not None:
            raise SystemExit(f"ended before it was killed: {end(process)}")
        time.sleep(0.0005)


def rounds_of(folder: Path) -> int:
    """Count the finished rounds; -1 before the first has begun."""
    if (folder / "history.json").exists():
        return len(read_json(folder / "history.json")["steps"])
    log = folder / "log.txt"
    return 0 if log.exists() and "bytes of weights per exchange" in log.read_text(encoding="utf-8") else -1


def _mark(launcher: int) -> str:
    """Give the mark of the launch that a command has under way; empty without one."""
    marks = {_environment(child).get(MARK, "") for child in psutil.Process(launcher).children(recursive=True)}
    return max(marks, default="")


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()  # type: ignore[no-any-return]
    except psutil.Error:
        return {}


def _victims(mark: str, word: str) -> list[int]:
    """Give the processes of a launch whose command line holds a word."""
    return [pid for pid in sorted(marked(mark)) if word in " ".join(psutil.Process(pid).cmdline())]


@dataclass(frozen=True)
class Case:
    """A way to fail, and how the run must end."""

    name: str
    faults: Sequence[dict[str, Any]]
    overrides: tuple[str, ...]
    code: int
    status: str


ON = "federation.on_client_failure=continue"
CASES = (
    Case("all clients fail", [{"kind": "exception", "rate": 1}], (ON,), 1, "failed"),
    Case("one always fails", [{"kind": "exception", "rate": 1, "client": "bob"}], (ON,), 3, "degraded"),
    Case("one always fails, none may", [{"kind": "exception", "rate": 1, "client": "bob"}], (), 1, "failed"),
    Case(
        "quorum of two missed",
        [{"kind": "exception", "round": 2, "client": name} for name in ("ada", "bob")],
        ("federation.min_clients=2",),
        1,
        "failed",
    ),
    Case("a worker dies once", [{"kind": "exit", "round": 2, "client": "bob", "times": 1}], (), 0, "completed"),
    Case("a client kills every worker", [{"kind": "exit", "round": 2, "client": "bob"}], (ON,), 3, "degraded"),
    Case(
        "a client hangs",
        [{"kind": "hang", "round": 2, "client": "bob"}],
        (ON, "federation.client_timeout=15", "federation.retries=0"),
        3,
        "degraded",
    ),
)


@app.command()
def failures() -> None:
    """Let clients fail: exit code, status and report must tell of it."""
    table = Table("case", "engine", "exit code", "status", "said", "as it should be")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        config = Path(name) / "toy.yaml"
        write_text(config, yaml.safe_dump({**TOY, "federation": {"rounds": 3, "workers": 2}}))
        for number, (case, engine) in enumerate(itertools.product(CASES, ("inprocess", "flower"))):
            if engine == "inprocess" and case.faults[0]["kind"] == "exit":
                continue  # there the worker is the whole run
            faults = f"federation.faults={json.dumps(case.faults)}"
            command = Command(config, "toy_task", Path(name) / str(number), engine, (*case.overrides, faults))
            code, errors = command.run()
            status = read_json(command.folder / "status.json")
            good = (code, status["status"]) == (case.code, case.status) and _told(command.folder, errors, status)
            wrong += not good
            row = [case.name, engine, str(code), status["status"], _said(errors, status), "yes" if good else "NO"]
            table.add_row(*row)
            print("  ".join(row), flush=True)
    Console().print(table)
    raise typer.Exit(int(wrong > 0))


def _said(errors: str, status: dict[str, Any]) -> str:
    first = status["failures"][0] if status["failures"] else None
    where = f"{first['client']} in {first['phase']} of round {first['step']}: {first['message']}" if first else ""
    return status["error"] or where or errors


def _told(folder: Path, errors: str, status: dict[str, Any]) -> bool:
    """Tell whether the user hears of it: one line on stderr, and every client that failed in the report."""
    if status["status"] == "completed":
        return not errors
    told = {(failure["client"], failure["kind"]) for failure in status["failures"]}
    if len(errors.splitlines()) != 1:
        return False
    if status["status"] == "failed":
        return errors.startswith("error: ") and status["error"] in errors
    report = (folder / "report.html").read_text(encoding="utf-8")
    return all(f"{name} {kind} in" in report and name in errors for name, kind in told)


if __name__ == "__main__":
    app()
