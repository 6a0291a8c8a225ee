"""Numbers that are not finite go nowhere: not in by a config, not into the global weights, not out as a result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.client_app import app as client_app
from fl.exchange import Part
from fl.guard import reason_to_reject
from fl.inprocess import InProcessGrid
from fl.nodes import RoundError
from fl.strategies import Aggregator, Update
from tests.commands import COMMANDS, run
from tests.commands import refused as said
from tests.conftest import conduct
from tests.refusals import refused
from training.config import load
from training.federation import FedAvg
from training.runs import Run


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.lr=.inf", "train.lr = inf"),
        ("train.clip_grad_norm=.nan", "train.clip_grad_norm = nan"),
        ("federation.client_timeout=.inf", "federation.client_timeout = inf"),
        ("federation.strategy={name: fedavgm, server_learning_rate: .inf}", "strategy.server_learning_rate = inf"),
        ("federation.faults=[{kind: scaled, round: 1, factor: .nan}]", "federation.faults.0.factor = nan"),
        ("options.dropout=.nan", "options.dropout = nan"),
    ],
)
def test_no_option_takes_infinity_or_nan(toy: Path, override: str, key: str) -> None:
    refused(lambda: load(toy, [override]), f"{toy}: ", key, "finite number")


@pytest.mark.parametrize("strategy", ["{name: fedadam, eta: 1.0e+39}", "{name: fedavgm, server_learning_rate: 1e300}"])
def test_a_step_of_the_server_out_of_all_bounds_ends_the_run(start: Callable[..., Run], strategy: str) -> None:
    begun = start("federated", f"federation.strategy={strategy}")
    name = strategy.split(",")[0].removeprefix("{name: ")
    with pytest.raises(
        RoundError, match=f"round 1: {name} made front.0.bias NaN or infinite of updates that are finite"
    ):
        conduct(begun)
    assert not (begun.folder / "model_final.pt").exists()


def test_finite_updates_whose_mean_is_not_end_the_round() -> None:
    InProcessGrid(client_app, 1)
    sent = {client: Update({"w": np.array([1.7e308])}, 1, 0.0) for client in "ab"}
    mean = Aggregator(FedAvg(), {"w"}).aggregate(1, {"w": np.zeros(1)}, sent)
    assert np.isfinite(mean["w"]).all()
    with pytest.raises(RoundError, match="round 7: fedavg made w NaN or infinite"):
        Aggregator(FedAvg(), {"w"}).aggregate(7, {"w": np.zeros(1, np.float32)}, sent)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (-3.0, "reports a loss of -3.0 before training; qfedavg weighs by powers, of 0 or more"),
        (float("inf"), "reports a loss of inf before training"),
        ("low", "reports a loss of 'low' before training"),
        (0.0, None),
    ],
)
def test_a_loss_that_qfedavg_cannot_weigh_is_rejected_by_name(loss: Any, words: str | None) -> None:
    weights = {"w": np.zeros(2, np.float32)}
    assert reason_to_reject(Part({"samples": 4, "initial_loss": loss}, {"update": weights}), weights, 4) == words


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_commands_say_so_and_leave_nothing(toy: Path, tmp_path: Path, command: str) -> None:
    said(run(command, toy, "train.lr=.inf", "--results", tmp_path / "results"), "train.lr = inf", "finite number")
    assert not (tmp_path / "results").exists()
