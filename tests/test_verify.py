"""`python -m fl verify`: a run once more; equal, or the first difference named, or refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import refused, run
from tests.conftest import Finished, Go, conduct
from tests.toy_task import Points
from training import checkpoints
from training.runs import Run

Start = Callable[..., Run]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def verified(finished: Finished, *words: str) -> tuple[int, str]:
    """The exit code and the last line."""
    answer = run("fl", "verify", finished.folder, *words)
    return answer.exit_code, answer.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "overrides",
    [
        ["options.dropout=0.2", "options.batchnorm=true"],
        ["federation.strategy=fedadam", "federation.optimizer_state=kept", "federation.clients_per_round=2"],
        ["options.personal_head=true", "federation.faults=[{kind: nan, rate: 0.2}]", "federation.min_clients=1"],
    ],
    ids=["layers that draw", "state and sampling", "personal and degraded"],
)
def test_a_run_verifies_with_any_number_of_workers(go: Go, overrides: list[str]) -> None:
    finished = go("federated", *overrides)
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    assert verified(finished) == (0, "equal")
    assert verified(finished, "--workers", "3") == (0, "equal")
    assert before == {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}


def test_a_resumed_run_verifies_too(go: Go, start: Start) -> None:
    finished = go("federated")
    stored = checkpoints.load(finished.folder / "checkpoints" / "last.pt")
    assert stored["accepted"] == {}
    finished.folder.joinpath("status.json").write_text(
        json.dumps({**finished.json("status"), "status": "running", "failures": []})
    )
    conduct(Run.resume(finished.folder, ("federated",)))
    assert verified(finished) == (0, "equal")


def test_the_first_metric_that_differs_is_named(go: Go) -> None:
    finished = go("federated")
    loss = finished.json("history")["steps"][1]["train"]["bob"]["metrics"]["loss"]

    def spoil(history: Any) -> None:
        history["steps"][2]["val"]["ada"]["metrics"]["accuracy"] = 0.5
        history["steps"][1]["train"]["bob"]["metrics"]["loss"] = 0.25
        history["steps"][0]["seconds"] = 1e9

    edit(finished.folder / "history.json", spoil)
    code, line = verified(finished)
    assert (code, line) == (
        1,
        f"different: history.json, round 2, train, bob, metrics, loss: 0.25 recorded, {loss} now",
    )


def test_a_score_that_differs_is_named(go: Go) -> None:
    finished = go("federated")

    def spoil(summary: Any) -> None:
        (row,) = (row for row in summary["rows"] if row["data"] == "cyd")
        row["metrics"]["accuracy"] = 1.25

    edit(finished.folder / "eval_summary.json", spoil)
    code, line = verified(finished)
    accuracy = re.escape("different: eval_summary.json, test of cyd, metrics, accuracy: 1.25 recorded, ")
    assert code == 1 and re.match(accuracy, line)


def test_a_round_that_is_missing_is_named(go: Go) -> None:
    finished = go("federated")
    edit(finished.folder / "history.json", lambda history: history["steps"].pop())
    assert verified(finished) == (1, "different: history.json, round 3, step: nowhere recorded, 3 now")


@pytest.mark.parametrize("value", [7.0, float("nan"), -0.0])
def test_the_first_weight_that_differs_is_named(go: Go, value: float) -> None:
    finished = go("federated")
    path = finished.folder / "model_final.pt"
    content = checkpoints.load(path)
    true = content["state"]["head.weight"][1, 4].item()
    content["state"]["head.weight"][1, 4] = value
    checkpoints.save(path, content)
    said = f"model_final.pt, head.weight[1, 4]: {value!r} recorded, {true!r} now (1 of 24 values differ)"
    assert verified(finished) == (1, f"different: {said}")


def test_a_weight_of_another_shape_or_none_is_named(go: Go) -> None:
    finished = go("federated")
    path = finished.folder / "model_final.pt"
    content = checkpoints.load(path)
    state = content["state"]
    checkpoints.save(path, {**content, "state": {**state, "head.bias": torch.zeros(4)}})
    shapes = "model_final.pt, head.bias: torch.float32 (4,) recorded, torch.float32 (3,) now"
    assert verified(finished) == (1, f"different: {shapes}")
    checkpoints.save(path, {**content, "state": {name: state[name] for name in state if name != "head.bias"}})
    assert verified(finished) == (1, "different: model_final.pt, head.bias: nowhere recorded")


def test_a_hash_that_is_not_that_of_the_weights_is_named(go: Go) -> None:
    finished = go("federated")
    true = finished.hashes[0]
    edit(finished.folder / "manifest.json", lambda manifest: manifest["weights_sha256"].update(federated="0" * 64))
    line = f"different: manifest.json, weights_sha256: {'0' * 64} recorded, {true} in the file"
    assert verified(finished) == (1, line)


def test_a_run_that_fails_this_time_is_different(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = go("federated")

    def broken(self: Points, client: str, fitted: Any) -> Any:
        raise RuntimeError("the disk\nof this client is broken")

    monkeypatch.setattr(Points, "client_data", broken)
    code, line = verified(finished)
    assert code == 1
    assert line == "different: this time the run failed (ada failed in open: the disk of this client is broken)"


def test_what_cannot_give_the_same_is_refused(
    go: Go, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(folder: Path, *words: str) -> None:
        refused(run("fl", "verify", folder), *words)

    check(tmp_path / "nothing", "nothing: no run folder, it holds no status.json; name one of results/<task>/")
    check(go("centralized").folder, ": a centralized run; only federated runs are verified")
    cut = start("federated").folder
    check(cut, f"{cut}: this run is running; finish it first with --resume {cut}")
    finished = go("federated").folder
    with monkeypatch.context() as patch:
        patch.setattr(Points, "data_digest", lambda self, client: "rewritten" if client == "bob" else "")
        check(finished, "manifest.json: made with other data of ada (points of ad, now )")
    with monkeypatch.context() as patch:
        original = Points.data_digest
        patch.setattr(Points, "data_digest", lambda self, one: "new" if one == "held_out" else original(self, one))
        check(finished, "manifest.json: made with other data of held_out (points of he, now new)")
    with monkeypatch.context() as patch:
        patch.setattr(Points, "clients", lambda self: ["ada", "bob", "cyd", "dan"])
        check(finished, "made with other data of dan (nowhere, now points of da); restore the data it was made with")
    with monkeypatch.context() as patch:
        patch.setattr("fl.verify.code_digest", lambda task: "0123456789ab")
        check(finished, "manifest.json: made with other code (", ", now 0123456789ab); check out ")
    edit(finished / "manifest.json", lambda manifest: manifest.update(accepted={"federated": {"code": ["abc"]}}))
    check(finished, "manifest.json: federated went on with other code (--accept)")
