"""Workers that die: a launch follows another until it is known who kills them, and it always ends."""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message

from fl.client_app import app as client_app
from fl.deaths import Deaths, WorkersDiedError
from fl.engines import FlowerRunError, on_flower
from fl.exchange import unpack
from fl.inprocess import InProcessGrid
from fl.nodes import RoundError
from fl.server import serve
from tests.conftest import Finished, Go
from training.runs import Run

Start = Callable[..., Run]
CONTINUE = "federation.on_client_failure=continue"


class DyingGrid(InProcessGrid):
    """Stands for a pool of Ray workers, of which the one that serves a victim dies as often as told.

    A dead worker fails every later task of its launch, as in Ray.
    """

    def __init__(self, victim: str, times: int, kinds: Collection[str] = ("train",)) -> None:
        super().__init__(client_app, 2)
        self.victim, self.times, self.kinds = victim, times, kinds
        self.shares: list[tuple[str, list[str]]] = []
        self.dead: set[int] = set()

    def push_messages(self, messages: Any) -> Any:
        identifiers = []
        for message in messages:
            asked = unpack(message.content)["all"].info.get("clients", [])
            kind, node = message.metadata.message_type, message.metadata.dst_node_id
            self.shares.append((kind, asked))
            if kind in self.kinds and self.victim in asked and self.times:
                self.times -= 1
                self.dead.add(node)
            if node in self.dead:
                reply = Message(Error(code=0, reason="<class 'ray.exceptions.ActorDiedError'>"), reply_to=message)
                self.replies[f"dead {node}"] = reply
                identifiers.append(f"dead {node}")
            else:
                identifiers += super().push_messages([message])
        return identifiers

    def asked(self, kind: str) -> set[str]:
        return {name for one, names in self.shares for name in names if one == kind}


def launches(run: Run, grid: DyingGrid) -> int:
    """Conduct a run in as many launches as it takes; give their number."""
    for number in range(1, 9):
        grid.dead.clear()
        try:
            serve(Run.attach(run.folder), grid, 2)
            return number
        except WorkersDiedError:
            continue
    raise AssertionError("the search for the culprit does not end")


def failures(run: Run) -> list[tuple[str, str, int, str]]:
    found = Finished(run.folder).json("status")["failures"]
    return [(one["client"], one["phase"], one["step"], one["message"]) for one in found]


def test_a_worker_that_dies_once_changes_nothing(start: Start, go: Go) -> None:
    run = start("federated")
    assert launches(run, DyingGrid("bob", 1)) == 2
    assert Finished(run.folder).hashes == go("federated").hashes
    found = Finished(run.folder).json("status")
    assert (found["status"], found["failures"]) == ("completed", [])
    (died,) = found["retried"]
    assert (died["client"], died["kind"], died["message"]) == ("bob", "died", "its worker died or never answered")
    assert "ActorDiedError" in (run.folder / died["traceback"]).read_text()


def test_who_kills_every_worker_is_found_and_named(start: Start) -> None:
    """Of two nodes one serves bob alone, so his first death counts."""
    run = start("federated", CONTINUE, "federation.rounds=1")
    grid = DyingGrid("bob", 2)
    assert launches(run, grid) == 3
    assert Finished(run.folder).json("status")["status"] == "degraded"
    assert failures(run) == [("bob", "train", 1, "its worker died 2 times")]
    assert [one["client"] for one in Finished(run.folder).json("status")["retried"]] == ["bob"]
    assert ("train", ["bob"]) in grid.shares


def test_who_kills_every_worker_ends_the_run_where_none_may_be_missing(start: Start) -> None:
    run = start("federated", "federation.rounds=1")
    with pytest.raises(RoundError, match="bob failed in train: its worker died 2 times"):
        launches(run, DyingGrid("bob", 9))


def test_who_is_asked_after_a_death_is_not_blamed_for_it(start: Start) -> None:
    """Ada shares a worker with cyd; asked one by one, cyd would come after her, to a worker that is dead by then."""
    run = start("federated", CONTINUE, "federation.rounds=1")
    assert launches(run, DyingGrid("ada", 3)) == 4
    assert failures(run) == [("ada", "train", 1, "its worker died 2 times")]


def test_who_cannot_open_its_data_is_not_asked_to_train(start: Start) -> None:
    run = start("federated", CONTINUE)
    grid = DyingGrid("bob", 99, ("query.open", "train", "evaluate"))
    assert launches(run, grid) == 3
    assert failures(run) == [("bob", "open", 0, "its worker died 2 times")]
    assert grid.asked("train") == grid.asked("evaluate") == {"ada", "cyd"}


def test_a_death_in_training_does_not_erase_who_killed_workers_before(start: Start) -> None:
    run = start("federated", CONTINUE, "federation.rounds=1")
    deaths = Deaths(run.folder)
    for exchange in ("open round 0", "open round 0", "train round 1"):
        deaths.add(exchange, [["bob"]])
    assert deaths.counts("open round 0") == {"bob": 2}
    assert deaths.counts("train round 1") == {"bob": 1}
    assert (deaths.suspects("train round 1"), deaths.suspects("train round 2")) == ({"bob"}, set())


def test_a_finished_round_clears_all_suspicion(start: Start) -> None:
    run = start("federated")
    assert launches(run, DyingGrid("bob", 1)) == 2
    assert not Deaths(run.folder).path.exists()


# Launch after launch


def launching(patch: pytest.MonkeyPatch, launch: Callable[[Path], None]) -> list[Path]:
    """Put a function of the run folder in the place of `flwr run`; give where its calls are noted."""
    calls: list[Path] = []

    def launched(root: Path, config: dict[str, str], *rest: Any, **more: Any) -> None:
        calls.append(Path(config["run"]))
        launch(calls[-1])

    patch.setattr("fl.engines.launch", launched)
    return calls


def test_a_search_that_never_ends_is_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(folder: Path) -> None:
        Deaths(folder).add("evaluate round 1 val", [["ada", "bob"]])

    calls = launching(monkeypatch, launch)
    with pytest.raises(FlowerRunError, match="workers died in 20 launches in a row, and no round was finished"):
        on_flower(start("federated"))
    assert len(calls) == 20


def test_launches_without_any_progress_are_few(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = launching(monkeypatch, lambda folder: None)
    with pytest.raises(FlowerRunError, match="the server ended without a result"):
        on_flower(start("federated"))
    assert len(calls) == 2


def test_who_kills_workers_is_found_by_launches_and_kept_from_training(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = DyingGrid("bob", 99, ("query.open", "train"))

    def launch(folder: Path) -> None:
        grid.dead.clear()
        try:
            serve(Run.attach(folder), grid, 2)
        except WorkersDiedError as error:
            Run.attach(folder).log(str(error))

    calls = launching(monkeypatch, launch)
    run = start("federated", CONTINUE)
    assert (on_flower(run), len(calls)) == ("degraded", 3)
    assert [one["client"] for one in run.failures] == ["bob"]


def test_going_on_with_a_run_suspects_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes on may have mended what killed the workers."""
    run = start("federated")
    Deaths(run.folder).path.write_text(json.dumps({"open round 0": {"suspects": ["bob"], "counts": {"bob": 9}}}))
    grid = DyingGrid("bob", 0)
    launching(monkeypatch, lambda folder: print(serve(Run.attach(folder), grid, 2)))
    assert on_flower(run) == "completed"
