"""What becomes of clients that fail: asked again, rejected by name, given up or the end of the run."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

from core.errors import UserError
from core.files import read_json
from fl.client_app import app as client_app
from fl.exchange import Arrays, Part, pack, unpack
from fl.faults import Faults
from fl.guard import out_of_place, reason_to_reject
from fl.inprocess import InProcessGrid
from fl.nodes import RoundError
from fl.server import serve
from fl.time_limit import OvertimeError, time_limit
from reports.report import write_report
from tests.commands import interrupt
from tests.conftest import Finished, Go, conduct
from tests.toy_task import Points
from training.config import load
from training.federation import Federation
from training.runs import Run

EXPECTED: Arrays = {"w": np.zeros((2, 3), np.float32), "n": np.zeros((), np.int64)}
Start = Callable[..., Run]


def fault(kind: str, **options: Any) -> str:
    return f"federation.faults={json.dumps([{'kind': kind, 'round': 2, 'client': 'bob', **options}])}"


def status(run: Run) -> dict[str, Any]:
    return dict(json.loads((run.folder / "status.json").read_text()))


def participants(run: Finished) -> list[list[str]]:
    return [sorted(step["train"]) for step in run.json("history")["steps"]]


# Guarded aggregation

BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nan": ({"w": np.full((2, 3), np.nan, np.float32)}, {}, "w: holds NaN or infinity"),
    "infinity": ({"w": np.full((2, 3), np.inf, np.float32)}, {}, "w: holds NaN or infinity"),
    "shape": ({"w": np.zeros((3, 3), np.float32)}, {}, r"w: shape \(3, 3\) instead of \(2, 3\)"),
    "broadcastable": ({"w": np.zeros((1, 3), np.float32)}, {}, r"w: shape \(1, 3\) instead of \(2, 3\)"),
    "dtype": ({"w": np.zeros((2, 3), np.float64)}, {}, "w: type float64 instead of float32"),
    "missing": ({"w": None}, {}, "weights missing: w"),
    "extra": ({"v": np.zeros(1, np.float32)}, {}, "unknown weights: v"),
    "negative": ({}, {"samples": -40}, "claims -40 training samples instead of 40"),
    "zero": ({}, {"samples": 0}, "claims 0 training samples instead of 40"),
    "absurd": ({}, {"samples": 10**12}, "claims 1000000000000 training samples instead of 40"),
    "boolean": ({}, {"samples": True}, "claims True training samples instead of 40"),
    "fraction": ({}, {"samples": 40.0}, "claims 40.0 training samples instead of 40"),
    "loss": ({}, {"initial_loss": float("nan")}, "reports a loss of nan before training"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_update_that_is_not_what_was_asked_for_is_rejected_with_the_reason(case: str) -> None:
    arrays, info, words = BROKEN[case]
    update = {name: value for name, value in {**EXPECTED, **arrays}.items() if value is not None}
    reason = reason_to_reject(Part({"samples": 40, **info}, {"update": update}), EXPECTED, 40)
    assert reason is not None
    assert re.fullmatch(words, reason)


def test_a_sound_update_is_accepted() -> None:
    assert reason_to_reject(Part({"samples": 40}, {"update": EXPECTED}), EXPECTED, 40) is None


def test_answers_of_another_client_or_round_are_out_of_place() -> None:
    assert out_of_place(Part({"client": "ada", "round": 2}), "ada", 2) is None
    assert out_of_place(Part({"client": "ada", "round": 1}), "ada", 2) == "answers for round 1 instead of 2"
    assert out_of_place(Part({"client": "bob", "round": 2}), "ada", 2) == "answers as client 'bob'"
    assert out_of_place(Part({}), "ada", 2) == "answers as client None"


@pytest.mark.parametrize(
    ("fault_kind", "words"),
    [
        ("nan", "front.0.bias: holds NaN or infinity"),
        ("wrong_shape", "front.0.bias: shape (9,) instead of (8,)"),
        ("exception", "the fault that federation.faults asks for"),
    ],
)
def test_a_bad_round_of_one_client_leaves_all_others_in_every_round(go: Go, fault_kind: str, words: str) -> None:
    run = go("federated", fault(fault_kind), "federation.on_client_failure=continue", "train.select=last")
    assert participants(run) == [["ada", "bob", "cyd"], ["ada", "cyd"], ["ada", "bob", "cyd"]]
    said = run.json("status")
    assert (said["status"], said["exit_code"]) == ("degraded", 3)
    (failure,) = said["failures"]
    assert (failure["client"], failure["phase"], failure["step"], failure["message"]) == ("bob", "train", 2, words)


def test_none_of_a_rejected_update_is_averaged(go: Go) -> None:
    """The round without bob gives the weights that it gives where bob never took part in it."""
    options = ("federation.on_client_failure=continue", "train.select=last", "federation.rounds=2")
    runs = [go("federated", fault(kind), *options) for kind in ("nan", "wrong_shape", "exception")]
    assert len({tuple(run.hashes) for run in runs}) == 1


# The policy


def test_a_failure_ends_the_run_unless_told_otherwise(start: Start) -> None:
    for policy in ([], ["federation.on_client_failure=stop"]):
        run = start("federated", fault("exception"), *policy)
        with pytest.raises(RoundError, match="bob failed in train: the fault"):
            conduct(run)


def test_a_client_that_recovers_is_asked_again_in_the_same_round(go: Go) -> None:
    struck, clean = go("federated", fault("exception", times=1)), go("federated")
    assert struck.json("status")["status"] == "completed"
    assert struck.hashes == clean.hashes
    message = "the fault that federation.faults asks for"
    assert f"bob failed in train of step 2: {message}; asked again" in (struck.folder / "log.txt").read_text()
    assert struck.json("status")["failures"] == []
    (cured,) = struck.json("status")["retried"]
    where = "failures/bob-train-2-attempt-1.txt"
    assert cured == {
        "client": "bob", "step": 2, "phase": "train", "kind": "failed", "message": message, "traceback": where,
    }  # fmt: skip
    assert "InjectedError" in (struck.folder / where).read_text()
    assert "asked again" in write_report([struck.folder], struck.folder).read_text()


def test_each_attempt_of_a_client_that_is_given_up_leaves_its_traceback(go: Go) -> None:
    struck = go("federated", fault("exception"), "federation.on_client_failure=continue", "federation.retries=2")
    found = struck.json("status")
    assert [one["traceback"] for one in found["failures"]] == ["failures/bob-train-2.txt"]
    assert [one["traceback"] for one in found["retried"]] == [f"failures/bob-train-2-attempt-{n}.txt" for n in (1, 2)]


def test_what_was_cured_before_a_run_was_cut_off_is_told_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start("federated", fault("exception", client="ada", times=1))
    interrupt(monkeypatch, epoch=6)
    with pytest.raises(KeyboardInterrupt):
        conduct(run)
    conduct(Run.attach(run.folder))
    assert [one["client"] for one in status(run)["retried"]] == ["ada"]


def test_attempts_are_counted_anew_where_a_killed_run_goes_on(
    go: Go, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ada is struck in round 2, then the process is killed; gone on with, round 2 is what it was: without ada."""
    words = (fault("exception", client="ada", times=1), "federation.retries=0", "federation.on_client_failure=continue")
    straight = go("federated", *words)
    run = start("federated", *words)
    interrupt(monkeypatch, epoch=5)
    with pytest.raises(KeyboardInterrupt):
        conduct(run)
    assert [one["step"] for one in run.history] == [1]
    resumed = Run.attach(run.folder)
    assert conduct(resumed) == "degraded"
    assert Finished(run.folder).hashes == straight.hashes
    assert participants(Finished(run.folder)) == [["ada", "bob", "cyd"], ["bob", "cyd"], ["ada", "bob", "cyd"]]


def test_a_death_is_an_attempt_of_the_fault_that_kills_and_of_no_other(toy: Path) -> None:
    def struck(kind: str, attempt: int, deaths: int) -> bool:
        return bool(Faults(load(toy, [fault(kind, times=1)]), "bob", 2, attempt, deaths).rules)

    assert [struck("exit", *counts) for counts in ((0, 0), (1, 0), (0, 1))] == [True, False, False]
    assert [struck("exception", *counts) for counts in ((0, 0), (1, 0), (0, 1))] == [True, False, True]


def test_without_retries_one_failure_counts(go: Go) -> None:
    run = go("federated", fault("exception", times=1), "federation.retries=0", "federation.min_clients=2")
    assert participants(run)[1] == ["ada", "cyd"]


def test_a_missed_quorum_ends_the_run(start: Start) -> None:
    everyone = f"federation.faults={json.dumps([{'kind': 'exception', 'round': 2}])}"
    for policy in ("federation.on_client_failure=continue", "federation.min_clients=2"):
        run = start("federated", everyone, policy)
        with pytest.raises(RoundError, match="failed in train: the fault"):
            conduct(run)
        assert {failure["client"] for failure in status(run)["failures"]} == {"ada", "bob", "cyd"}


def test_a_client_that_hangs_is_interrupted(go: Go) -> None:
    limits = ("federation.client_timeout=2", "federation.retries=0", "federation.on_client_failure=continue")
    started = time.monotonic()
    run = go("federated", fault("hang"), *limits, "train.select=last")
    assert time.monotonic() - started < 30
    assert participants(run) == [["ada", "bob", "cyd"], ["ada", "cyd"], ["ada", "bob", "cyd"]]
    (failure,) = run.json("status")["failures"]
    assert failure["message"] == "no end after 2 s, federation.client_timeout"
    assert "time.sleep" in (run.folder / failure["traceback"]).read_text()


def test_a_limit_met_while_a_file_is_read_is_no_word_about_the_file(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers turn any error of theirs into words about the file; this one is a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "samples.json")
    opened = Points.client_data

    def reading(self: Points, client: str, fitted: Any) -> Any:
        return read_json(tmp_path / "samples.json") if client == "bob" else opened(self, client, fitted)

    monkeypatch.setattr(Points, "client_data", reading)
    limits = ("federation.client_timeout=2", "federation.retries=0", "federation.on_client_failure=continue")
    run = go("federated", *limits)
    found = run.json("status")["failures"][0]
    assert (found["client"], found["phase"], found["kind"]) == ("bob", "open", "failed")
    assert found["message"] == "no end after 2 s, federation.client_timeout"


def test_a_slow_client_changes_nothing_but_time(go: Go) -> None:
    assert go("federated", fault("slow", seconds=0.2)).hashes == go("federated").hashes


def test_the_limit_lets_go_of_what_is_quick() -> None:
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    with pytest.raises(OvertimeError), time_limit(0.05):
        time.sleep(1)


def test_wrong_labels_change_the_weights_of_that_round(go: Go) -> None:
    struck, clean = go("federated", fault("label_flip"), "train.select=last"), go("federated", "train.select=last")
    assert struck.hashes != clean.hashes
    assert struck.json("status")["status"] == "completed"


def test_a_rate_strikes_by_the_seed(go: Go) -> None:
    rule = f"federation.faults={json.dumps([{'kind': 'exception', 'rate': 0.15}])}"
    policy = ("federation.on_client_failure=continue", "federation.retries=0", "train.select=last")
    runs = [go("federated", rule, *policy, "federation.rounds=8", f"seed={seed}") for seed in (1, 1, 2)]
    assert participants(runs[0]) == participants(runs[1]) != participants(runs[2])
    assert 0 < sum(3 - len(names) for names in participants(runs[0])) < 24


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            [fault("exception", client="dan")],
            r"federation.faults\[0\].client = 'dan': no such client; choose one of ada",
        ),
        ([fault("hang")], r"federation.faults\[0\].kind = hang: would never end; set federation.client_timeout"),
        ([fault("exception", seconds=3)], r"federation.faults.0.seconds: unknown key"),
        ([fault("earthquake")], r"federation.faults.0 = 'earthquake': unknown name"),
        ([fault("nan", rate=0.5)], "give one of the two, round or rate"),
        (
            ["federation.min_clients=2", "federation.on_client_failure=stop"],
            "on_client_failure: stop leaves min_clients without effect; leave one of them out",
        ),
    ],
)
def test_rules_that_cannot_work_are_refused(start: Start, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        conduct(start("federated", *overrides))


# Answers changed on their way


class Rewriting(InProcessGrid):
    """Changes the answers to `train` on their way."""

    def __init__(self, change: Callable[[dict[str, Part]], dict[str, Part]]) -> None:
        super().__init__(client_app, 1)
        self.change = change

    def pull_messages(self, message_ids: Any) -> Any:
        replies = []
        for reply in super().pull_messages(message_ids):
            if reply.metadata.message_type == "train":
                reply.content = pack(self.change(unpack(reply.content)))
            replies.append(reply)
        return replies


def stale(parts: dict[str, Part]) -> dict[str, Part]:
    return {**parts, "bob": Part({**parts["bob"].info, "round": 7}, parts["bob"].arrays)}


def swapped(parts: dict[str, Part]) -> dict[str, Part]:
    return {**parts, "bob": parts["ada"]}


def silent(parts: dict[str, Part]) -> dict[str, Part]:
    return {name: part for name, part in parts.items() if name != "bob"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (stale, "answers for round 7 instead of 1"),
        (swapped, "answers as client 'ada'"),
        (silent, "no reply"),
    ],
)
def test_answers_changed_on_their_way_are_rejected_by_name(start: Start, change: Any, words: str) -> None:
    run = start("federated", "federation.on_client_failure=continue", "federation.rounds=1", "federation.retries=0")
    serve(run, Rewriting(change), 1)
    assert [(one["client"], one["message"]) for one in status(run)["failures"]] == [("bob", words)]


def test_two_answers_for_one_client_make_the_reply_useless() -> None:
    record = pack({"ada": Part({})})
    record["index"] = ConfigRecord({"names": '["ada", "ada"]'})
    with pytest.raises(ValueError, match="two answers for ada in one reply"):
        unpack(record)


def test_a_policy_says_what_a_round_needs() -> None:
    assert Federation().needed(5) == 5
    assert Federation(min_clients=3).needed(5) == 3
    assert Federation(min_clients=3).needed(2) == 2
    assert Federation(on_client_failure="continue").needed(5) == 1
