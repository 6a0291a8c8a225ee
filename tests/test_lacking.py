"""Clients that have no data for a part of the network, and statistics that rest on what all agreed on first."""

import numpy as np
import pytest
import torch

from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.strategies import Aggregator, Update
from tests.conftest import Go
from tests.toy_lacking import Lacking
from tests.toy_task import Points
from training import checkpoints
from training.federation import FedAvg
from training.preparation import complete
from training.statistics import merge_statistics

TASK = "task=tests.toy_lacking"


def update(samples: int, **values: float) -> Update:
    return Update({name: np.array([value], np.float32) for name, value in values.items()}, samples, 0.0)


def test_who_abstains_does_not_sway_the_average() -> None:
    old = {"w": np.array([0.0], np.float32), "extra": np.array([0.0], np.float32), "idle": np.array([7.0], np.float32)}
    updates = {"a": update(1, w=1, extra=4), "b": update(3, w=2, extra=8), "c": update(96, w=3)}
    InProcessGrid(client_app, 1)  # Names the process to Flower, whose messages carry the updates.
    new = Aggregator(FedAvg(), {"w", "extra", "idle"}).aggregate(1, old, updates)
    assert {name: round(float(value[0]), 6) for name, value in new.items()} == {
        "w": (1 * 1 + 3 * 2 + 96 * 3) / 100,
        "extra": (1 * 4 + 3 * 8) / 4,
        "idle": 7.0,
    }


def test_a_client_sends_nothing_of_what_it_lacks(go: Go) -> None:
    run = go("federated", TASK, "train.select=last", "federation.rounds=1")
    up = run.json("history")["steps"][0]["bytes_up"]
    extra = (4 * 3 + 3) * 4
    assert up["ada"] == up["bob"] == up["cyd"] + extra
    alone = go("federated", TASK, 'options.names=["ada","bob"]', "train.select=last", "federation.rounds=1")
    both = [checkpoints.load(one.folder / "model_final.pt")["state"]["extra.weight"] for one in (run, alone)]
    assert both[0].shape == both[1].shape == (3, 4)


def test_a_federation_in_which_only_one_has_a_part_gives_that_part_as_it_trained_it(go: Go) -> None:
    run = go("federated", TASK, "options.lacking=ada", 'options.names=["ada","bob"]', "federation.rounds=1")
    step = run.json("history")["steps"][0]
    assert step["bytes_up"]["ada"] < step["bytes_up"]["bob"]
    state = checkpoints.load(run.folder / "model_final.pt")["state"]
    assert torch.isfinite(state["extra.weight"]).all()


def test_further_statistics_rest_on_the_merged_first_ones() -> None:
    task, plain = Lacking(data="none"), Points(data="none")
    names = task.clients()
    merged = complete(
        task,
        {name: task.statistics(name) for name in names},
        lambda known: {name: task.further_statistics(name, known) for name in names},
    )
    pooled = merge_statistics({name: plain.statistics(name) for name in names})
    one, other = task.fit(merged, merged), plain.fit(pooled, pooled)
    assert one.mean == pytest.approx(other.mean, rel=1e-12)
    assert one.deviation == pytest.approx(other.deviation, rel=1e-12)


@pytest.mark.parametrize("setting", ["centralized", "local", "federated"])
def test_every_setting_makes_both_passes(go: Go, setting: str) -> None:
    run = go(setting, TASK, "federation.rounds=2")
    assert run.json("status")["status"] == "completed"


def test_one_client_federated_is_centralized_with_two_passes(go: Go) -> None:
    options = (TASK, 'options.names=["ada"]', "train.optimizer=sgd")
    assert go("centralized", *options).hashes == go("federated", *options).hashes
