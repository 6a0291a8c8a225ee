"""The two engines: the same ServerApp logic and ClientApp, in one process or in an isolated `flwr run` on Ray."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from core.errors import UserError
from core.files import read_json
from fl.client_app import app as client_app
from fl.deaths import Deaths
from fl.faults import check_faults
from fl.inprocess import InProcessGrid
from fl.launcher import LaunchError, launch
from fl.quorum import check_absent, check_clients
from fl.resources import choose_resources, idle_in_process
from fl.server import check_options, serve
from training.config import Experiment
from training.faults import Exit
from training.preparation import check_leaks, check_names
from training.provenance import ROOT, imported_from
from training.runs import Run, Status

SEARCH = 10
"""Launches without a finished round, times those that one client may cost, after which no culprit is looked for."""
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\S+")
"""Time at the start of each line of log.txt."""


class Engine(StrEnum):
    """How a federation is simulated."""

    flower = "flower"
    inprocess = "inprocess"


EngineOption = Annotated[
    Engine, typer.Option(help="flower: an isolated `flwr run` on Ray; inprocess: the same apps in this process")
]
"""--engine, for the commands that take it."""


def engine_function(engine: Engine) -> Callable[[Run], Status]:
    """Give the function that conducts a run on an engine."""
    return on_flower if engine is Engine.flower else in_process


def usual_engine(experiment: Experiment) -> Engine:
    """Give the quickest engine on which an experiment gives what it gives on every other."""
    return Engine.flower if _exits(experiment) else Engine.inprocess


def check_engine(experiment: Experiment, engine: Engine) -> None:
    """Refuse a fault that would end the process of the server with that of the client.

    Raises:
        UserError: There is one, and they share a process.
    """
    if engine is Engine.inprocess and (numbers := _exits(experiment)):
        raise UserError(
            f"federation.faults[{numbers[0]}].kind = exit: would end the process that all share; "
            "use --engine flower, where clients have workers of their own"
        )


def _exits(experiment: Experiment) -> list[int]:
    return [number for number, rule in enumerate(experiment.federation.faults) if isinstance(rule, Exit)]


def check_federation(experiment: Experiment, engine: Engine) -> None:
    """Refuse a federation that could only fail, before hours go into it or into the other settings.

    Raises:
        UserError: The data cannot be opened, options contradict each other, the engine, or the clients that there are.
    """
    check_options(experiment)
    check_engine(experiment, engine)
    task = experiment.build_task()
    clients = check_names(task.clients(), str(task.data))
    check_clients(experiment.federation, len(clients))
    check_faults(experiment.federation, clients, task)
    check_absent(experiment.federation, {name: task.absent(name) for name in clients})


class FlowerRunError(RuntimeError):
    """The run failed inside Flower; the message is what the server recorded."""


def in_process(run: Run) -> Status:
    """Conduct a run with server and clients in this process.

    Raises:
        UserError: Data or config cannot be used.
    """
    check_engine(run.experiment, Engine.inprocess)
    for line in idle_in_process(run.experiment.federation):
        run.log(line)
    return serve(run, InProcessGrid(client_app, nodes=1), nodes=1)


def on_flower(run: Run) -> Status:
    """Conduct a run through a real `flwr run` with its own SuperLink, ports and Ray.

    Raises:
        UserError: Data or config cannot be used.
        FlowerRunError: The run failed.
    """
    Deaths(run.folder).forget()
    task = run.experiment.build_task()
    clients = check_names(task.clients(), str(task.data))
    check_leaks(task, clients)
    resources = choose_resources(run, task, clients)
    config = {"run": str(run.folder.resolve()), "nodes": str(resources.nodes)}
    patience = _Patience(run)
    while True:
        failure: LaunchError | None = None
        try:
            launch(ROOT, config, resources, log=_Console(run), imports=imported_from(run.experiment.task))
        except LaunchError as error:
            failure = error
        recorded = read_json(run.folder / "status.json")
        run.failures, run.retried = recorded["failures"], recorded["retried"]
        if recorded["status"] != "running" or not patience.for_another():
            return _outcome(run, recorded, failure)
        run.log("the launch ended before the run did; another one goes on from there")


class _Patience:
    """Decides whether a launch that ended without a result is followed by another, which goes on where it stood."""

    def __init__(self, run: Run) -> None:
        """Look where the run stands."""
        self.run, self.retries = run, run.experiment.federation.retries
        self.idle = self.fruitless = 0
        self.rounds, self.deaths = self._stand()

    def for_another(self) -> bool:
        """Tell whether to launch again: while the run or the search for the culprit advances, else a few times.

        Raises:
            FlowerRunError: The search has taken many launches since the last finished round.
        """
        rounds, deaths = self._stand()
        self.fruitless = self.fruitless + 1 if rounds == self.rounds else 0
        self.idle = self.idle + 1 if (rounds, deaths) == (self.rounds, self.deaths) else 0
        self.rounds, self.deaths = rounds, deaths
        if self.fruitless >= SEARCH * (self.retries + 1):
            raise FlowerRunError(f"workers died in {self.fruitless} launches in a row, and no round was finished")
        return self.idle <= self.retries

    def _stand(self) -> tuple[int, bytes]:
        """Count the finished rounds; read who is suspected."""
        history, deaths = self.run.folder / "history.json", Deaths(self.run.folder).path
        rounds = len(read_json(history)["steps"]) if history.exists() else 0
        return rounds, deaths.read_bytes() if deaths.exists() else b""


def _outcome(run: Run, recorded: dict[str, Any], failure: LaunchError | None) -> Status:
    """Trust what the server wrote: Flower calls a run finished whatever became of its clients."""
    if recorded["status"] == "failed":
        raise (UserError if recorded["exit_code"] == 2 else FlowerRunError)(recorded["error"])
    if failure or recorded["status"] == "running":
        raise FlowerRunError(
            f"{failure or 'the server ended without a result'} (what Flower said: {run.folder / 'flower.txt'})"
        )
    return recorded["status"]  # type: ignore[no-any-return]


class _Console:
    """Keeps Flower's output in flower.txt and shows the server's own lines, which it appends to log.txt."""

    def __init__(self, run: Run) -> None:
        self.flower, self.log = run.folder / "flower.txt", run.folder / "log.txt"
        self.shown = self.log.stat().st_size

    def __call__(self, line: str) -> None:
        with self.flower.open("a", encoding="utf-8") as stream:
            stream.write(line.rstrip() + "\n")
        with self.log.open("rb") as stream:
            stream.seek(self.shown)
            new = stream.read()
        self.shown += len(new)
        for text in new.decode(errors="replace").splitlines():
            stamp, _, said = text.partition(" ")
            if STAMP.fullmatch(stamp):  # else a line of a traceback
                print(said, flush=True)
