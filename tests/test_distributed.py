"""Several processes train as one: torchrun on the centralized command, gloo on CPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import UserError
from fl.launcher import free_port
from tests.commands import refused, run
from tests.conftest import Finished
from training import checkpoints
from training.config import load
from training.distributed import ALONE, Group
from training.runs import FollowingRun, Run

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def train(
    config: Path, results: Path, name: str, processes: int, *arguments: str
) -> tuple[Finished, subprocess.CompletedProcess[str]]:
    """Train through the command that a user types, in one process or under torchrun."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={free_port()}", "-m"]
    target = [] if "--resume" in arguments else [str(config), "--results", str(results), "--name", name]
    done = subprocess.run(
        [*launcher, "centralized", *target, *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return Finished(results / "toy_task" / name), done


def weights(run: Finished) -> dict[str, Tensor]:
    return dict(checkpoints.load(run.folder / "model_final.pt")["state"])


def difference(one: Finished, other: Finished) -> float:
    states = weights(one), weights(other)
    return max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])


@pytest.mark.parametrize(("processes", "batch"), [(2, 7), (3, 4)])
def test_processes_share_a_batch_and_end_as_one_process_would(
    toy: Path, tmp_path: Path, processes: int, batch: int
) -> None:
    """120 samples in shares of 14 (or 12) with groups of 2, the last uneven; 15 validation samples in batches of 4."""
    common = ["train.accumulate=2", "train.clip_grad_norm=1.0", "train.eval_batch_size=4", "train.limit_batches=9"]
    alone, _ = train(toy, tmp_path, "alone", 1, *common, f"train.batch_size={batch * processes}")
    shared, done = train(toy, tmp_path, "shared", processes, *common, f"train.batch_size={batch}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == done.stdout.count("centralized  epoch 3/3") == 1
    assert difference(alone, shared) < 1e-6
    for name in ("ada", "bob", "cyd", "held_out"):
        stored = [np.load(one.folder / "predictions" / f"centralized__{name}.npz") for one in (alone, shared)]
        assert stored[0]["target"].tolist() == stored[1]["target"].tolist()
        np.testing.assert_allclose(stored[0]["scores"], stored[1]["scores"], atol=1e-6)
    rows = [one.json("eval_summary")["rows"] for one in (alone, shared)]
    assert [row["support"] for row in rows[0]] == [row["support"] for row in rows[1]]
    assert [row["arrays"] for row in rows[0]] == [row["arrays"] for row in rows[1]]
    assert shared.json("manifest")["processes"] == processes
    assert [path.name for path in (tmp_path / "toy_task").iterdir()] in (["alone", "shared"], ["shared", "alone"])


def test_batchnorm_normalises_over_all_processes_and_a_repeat_is_equal(toy: Path, tmp_path: Path) -> None:
    common = ["options.batchnorm=true", "train.optimizer=sgd", "train.lr=0.1"]
    one, two = (train(toy, tmp_path, name, 2, *common, "train.batch_size=7")[0] for name in ("one", "two"))
    assert one.hashes == two.hashes
    alone, _ = train(toy, tmp_path, "alone", 1, *common, "train.batch_size=14")
    assert difference(one, alone) < 1e-5


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_in_the_middle_of_an_epoch_a_run_continues(toy: Path, tmp_path: Path, processes: int) -> None:
    marker = tmp_path / "batches-left"
    marker.write_text("1000000")
    size = f"train.batch_size={8 // processes}"
    options = [f"options.kill_marker={marker}", size, "options.batchnorm=true", "options.dropout=0.2"]
    straight, _ = train(toy, tmp_path, "straight", processes, *options)
    marker.write_text(str(15 * 3 // 2))  # of 15 batches an epoch
    killed, done = train(toy, tmp_path, "killed", processes, *options)
    assert done.returncode != 0
    assert killed.json("status")["status"] in ("running", "failed")
    assert len(killed.json("history")["steps"]) == 1
    marker.write_text("1000000")
    _, done = train(toy, tmp_path, "killed", processes, "--resume", str(killed.folder))
    assert done.returncode == 0, done.stderr
    assert killed.hashes == straight.hashes
    for name in ("eval_summary.json", "metrics.csv"):
        assert (killed.folder / name).read_text() == (straight.folder / name).read_text()


def test_going_on_with_other_processes_is_refused_in_one_line(toy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "batches-left"
    marker.write_text("20")
    killed, _ = train(toy, tmp_path, "killed", 2, f"options.kill_marker={marker}", "train.batch_size=4")
    done = run("centralized", "--resume", killed.folder)
    assert "made with other processes (2, now 1)" in refused(done)


def test_going_on_with_another_config_is_refused_in_one_line(toy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "batches-left"
    marker.write_text("20")
    killed, _ = train(toy, tmp_path, "killed", 1, f"options.kill_marker={marker}")
    config = killed.folder / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.02", "lr: 0.03"))
    assert "made with other config" in refused(run("centralized", "--resume", killed.folder))
    assert "leave out CONFIG" in refused(run("centralized", toy, "--resume", killed.folder))


def test_a_mistake_is_said_once_and_other_commands_refuse_torchrun(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, done = train(toy, tmp_path, "wrong", 2, "train.lrr=0.1")
    assert done.returncode != 0
    assert done.stderr.count("error: ") == done.stderr.count("train.lrr: unknown key") == 1
    assert not list(tmp_path.glob("*/wrong"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in ("fl", "compare"):
        assert "call it without torchrun" in refused(run(command, toy, "--results", tmp_path))


def test_a_process_that_fails_alone_leaves_its_traceback(toy: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", load(toy), "centralized")
    following = FollowingRun.attach(run.folder)
    before = (run.folder / "status.json").read_text()
    assert following.fail(RuntimeError("the second card is gone")) == 1
    assert following.fail(UserError("both say this")) == 2
    log = (run.folder / "log.txt").read_text()
    assert "RuntimeError: the second card is gone" in log and "both say this" not in log
    assert (run.folder / "status.json").read_text() == before


def test_shares_are_contiguous_and_complete() -> None:
    for size in (1, 2, 3, 5):
        for count in (0, 1, 2, 7, 10):
            shares = [Group(rank, size).share(list(range(count))) for rank in range(size)]
            assert [one for share in shares for one in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_exchanged() -> None:
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = json.dumps([p.grad.tolist() for p in layer.parameters()])
    ALONE.sum_gradients(layer.parameters())
    assert json.dumps([p.grad.tolist() for p in layer.parameters()]) == before
    assert ALONE.gather("x") == ["x"] and ALONE.leads
