"""Run folders and checkpoints: whole or not there, resumable, never unpickled."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from centralized.member import Member
from core.errors import UserError
from core.files import atomic, read_json, write_json
from core.randomness import generator, seed_for, seeded_torch, torch_generator
from tests.conftest import Finished, Go, conduct
from training import checkpoints
from training.config import load
from training.runs import Run, default_name
from training.session import run_name


class Killed(BaseException):
    pass


@pytest.mark.parametrize("setting", ["centralized", "local"])
@pytest.mark.parametrize("fatal", [1, 3, 5])
def test_a_killed_run_ends_as_if_it_had_not_been(
    go: Go, start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, setting: str, fatal: int
) -> None:
    overrides = ["train.epochs=2", "options.dropout=0.3", "train.schedule=cosine", "options.batchnorm=true"]
    straight = go(setting, *overrides)
    run, original, calls = start(setting, *overrides), Member._checkpoint, []

    def killed(self: Member, which: str) -> None:
        calls.append(which)
        if len(calls) == fatal:
            raise Killed
        original(self, which)

    monkeypatch.setattr(Member, "_checkpoint", killed)
    try:
        conduct(run)
    except Killed:
        monkeypatch.undo()
        conduct(Run.resume(run.folder, (run.setting,)))
    resumed = Finished(run.folder)
    assert resumed.hashes == straight.hashes
    assert resumed.json("eval_summary") == straight.json("eval_summary")
    steps = [[{**step["train"]}.keys() for step in one.json("history")["steps"]] for one in (resumed, straight)]
    assert steps[0] == steps[1]


def test_local_models_see_their_own_data_only(go: Go) -> None:
    run = go("local")
    rows = {(row["model"], row["data"]) for row in run.json("eval_summary")["rows"]}
    names = ["ada", "bob", "cyd"]
    assert rows == {(m, d) for m in names for d in [*names, "held_out"]} | {("local", "pooled")}
    stored = sorted(path.name for path in run.folder.glob("model_final*.pt"))
    assert stored == [f"model_final.{name}.pt" for name in names]
    alone = go("centralized", "options.names=[ada]")
    assert run.json("manifest")["weights_sha256"]["ada"] == alone.hashes[0]


def test_reported_numbers_follow_from_stored_predictions(go: Go) -> None:
    import numpy as np

    for setting in ("centralized", "local", "federated"):
        run = go(setting)
        for row in run.json("eval_summary")["rows"]:
            path = run.folder / "predictions" / f"{row['model']}__{row['data']}.npz"
            if row["data"] != "pooled":
                stored = np.load(path)
                accuracy = (stored["target"] == stored["predicted"]).mean()
                assert row["metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
                assert row["support"] == len(stored["target"])


def test_early_stopping_ends_before_the_budget(go: Go) -> None:
    run = go("centralized", "train.epochs=30", "train.early_stopping=2", "train.lr=0.5")
    manifest = run.json("manifest")
    assert len(run.json("history")["steps"]) == manifest["selected"]["centralized"] + 2 < 30
    assert manifest["budget"]["samples"] == 120 * len(run.json("history")["steps"])


def test_validation_comes_as_often_as_in_the_federation(go: Go) -> None:
    steps = go("centralized", "federation.local_epochs=2").json("history")["steps"]
    assert [step["step"] for step in steps if "val" in step] == [2, 4, 6]


def test_metrics_table_is_long_form(go: Go) -> None:
    lines = (go("federated").folder / "metrics.csv").read_text().splitlines()
    assert lines[0] == "setting,model,client,split,step,metric,value,support"
    assert any(line.startswith("federated,federated,held_out,test,,accuracy,") for line in lines)
    assert any(line.startswith("federated,federated,bob,val,2,loss,") for line in lines)


def test_metrics_json_sums_up_the_selected_and_the_last_step(go: Go) -> None:
    run = go("centralized", "train.epochs=6", "train.lr=0.3")
    steps, stored = run.json("history")["steps"], run.json("metrics")
    values = [step["val"]["pooled"]["metrics"]["accuracy"] for step in steps]
    assert stored["best"]["epoch"] == 1 + values.index(max(values)) == run.json("manifest")["selected"]["centralized"]
    assert stored["best_primary"] == stored["best"]["val_accuracy"] == max(values)
    assert stored["last"]["epoch"] == 6
    assert stored["last"]["train_loss"] == steps[-1]["train"]["pooled"]["metrics"]["loss"]
    assert stored["last"]["lr"] == 0.3


def test_metrics_json_of_local_models_is_their_mean_and_of_a_federation_the_pool(go: Go) -> None:
    local, federated = go("local"), go("federated")
    selected = local.json("manifest")["selected"]
    own = [local.json("history")["steps"][selected[name] - 1]["val"][name]["metrics"] for name in selected]
    mean = sum(one["accuracy"] for one in own) / 3
    assert local.json("metrics")["best"]["val_accuracy"] == pytest.approx(mean)
    last = federated.json("history")["steps"][-1]
    train = [one["metrics"]["loss"] for one in last["train"].values()]
    assert federated.json("metrics")["last"]["train_loss"] == pytest.approx(sum(train) / 3)  # of 40 samples each
    assert federated.json("metrics")["last"]["val_loss"] == last["val"]["pooled"]["metrics"]["loss"]


def test_json_has_null_for_what_is_undefined(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5, -float("inf")], "b": {"c": float("nan")}, "n": 3})
    assert read_json(tmp_path / "x.json") == {"a": [None, 1.5, None], "b": {"c": None}, "n": 3}


def test_a_run_is_named_by_what_it_is(toy: Path) -> None:
    name = run_name(load(toy, ["train.lr=0.0003", "train.accumulate=4"]), "local", 2)
    assert re.fullmatch(r"local__bs8x4x2__lr0\.0003__seed42__\d{8}_\d{6}", name)
    assert re.fullmatch(r"a_b_c__\d{8}_\d{6}", default_name("a/b c"))


def test_tensorboard_scalars_are_written_when_asked_for(go: Go) -> None:
    assert list((go("centralized", "train.tensorboard=true").folder / "tensorboard").glob("events*"))
    assert not (go("centralized").folder / "tensorboard").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_broken_json_and_folders_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="cannot make this folder"):
        write_json(tmp_path / "a.json" / "b" / "c.json", {})


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploded",)


def test_checkpoints_are_refused_where_they_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    checkpoints.save(path, {"fingerprint": "f" * 64, "state": {"w": torch.ones(2)}})
    assert checkpoints.load(path, "f" * 64)["state"]["w"].tolist() == [1, 1]
    with pytest.raises(UserError, match="fingerprint ffffffffffff does not fit eeeeeeeeeeee"):
        checkpoints.load(path, "e" * 64)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="damaged checkpoint"):
        checkpoints.load(path)
    torch.save({"state": Bomb()}, path)
    with pytest.raises(UserError, match="refused, holds more than tensors"):
        checkpoints.load(path)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "b.pt")


def test_randomness_is_a_function_of_its_keys() -> None:
    assert seed_for(1, "a", "b", 2) == seed_for(1, "a", "b", 2)
    assert (
        len({seed_for(1, "a", "b", 2), seed_for(1, "a", "b2"), seed_for(1, "a", "b", "2"), seed_for(12, "a", "b")}) == 4
    )
    assert generator(1, "a").random() == generator(1, "a").random() != generator(2, "a").random()
    assert torch.rand(1, generator=torch_generator(1, "a")) == torch.rand(1, generator=torch_generator(1, "a"))
    state = torch.random.get_rng_state()
    with seeded_torch(1, "a"):
        first = torch.rand(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    with seeded_torch(1, "a"):
        assert torch.rand(1) == first


def test_status_says_why_a_run_failed(start: Callable[..., Run]) -> None:
    run = start("centralized")
    assert run.fail(UserError("a: b")) == 2
    status = json.loads((run.folder / "status.json").read_text())
    assert (status["status"], status["error"], status["exit_code"]) == ("failed", "a: b", 2)
    assert run.fail(RuntimeError("two\nlines")) == 1
    assert json.loads((run.folder / "status.json").read_text())["error"] == "two lines"


def test_a_run_says_what_its_data_and_network_are(go: Go) -> None:
    for setting in ("centralized", "local", "federated"):
        said = (go(setting, "options.frozen_front=true").folder / "log.txt").read_text()
        assert "ada: train 40, val 15, test 20, 3 labels\n" in said
        assert said.count("parameters: 27 trainable of 67\n") == 1
