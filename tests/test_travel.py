"""What travels and what stays: personal parameters, parts that wait to train, and the policies for BatchNorm."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from core.errors import UserError
from fl.strategies import Aggregator, Update
from fl.travel import Travel
from tests.conftest import Finished, Go, conduct
from tests.toy_task import Points
from training import checkpoints
from training.federation import FedAdam, FedAvg, Federation
from training.runs import Run

NAMES = ("ada", "bob", "cyd")
POLICIES = ("average", "local", "freeze")
FRONT, HEAD = (4 * 8 + 8) * 4, (8 * 3 + 3) * 4
"""Bytes of the toy network's two layers."""
STATISTICS = ["front.1.num_batches_tracked", "front.1.running_mean", "front.1.running_var"]


def state(run: Finished) -> dict[str, torch.Tensor]:
    return dict(checkpoints.load(run.folder / "model_final.pt")["state"])


def test_personal_parameters_stay_at_their_client(go: Go) -> None:
    run = go("federated", "options.personal_head=true", "train.select=last")
    step = run.json("history")["steps"][0]
    assert set(step["bytes_up"].values()) == {FRONT}
    kept = {path.name for path in (run.folder / "checkpoints" / "clients" / "ada").iterdir()}
    assert {"round-000002.pt", "round-000003.pt"} <= kept


@pytest.mark.parametrize("stays", ["options.personal_head=true", "federation.batchnorm=local"])
def test_what_stays_is_scored_as_it_was_in_the_selected_round(go: Go, stays: str) -> None:
    """The best of six rounds, with a rate that ruins the later ones, scores as a run that ended there."""
    common = ["options.batchnorm=true", stays, "train.lr=0.3"]
    best = go("federated", *common, "federation.rounds=6")
    selected = best.json("manifest")["selected"]["federated"]
    assert 0 < selected < 6
    ended = go("federated", *common, f"federation.rounds={selected}", "train.select=last")
    assert best.json("eval_summary")["rows"] == ended.json("eval_summary")["rows"]


def test_statistics_kept_at_the_clients_do_not_travel(go: Go) -> None:
    runs = [go("federated", "options.batchnorm=true", f"federation.batchnorm={policy}") for policy in POLICIES]
    up = [run.json("history")["steps"][0]["bytes_up"]["ada"] for run in runs]
    statistics = (8 + 8) * 4 + 8
    assert up == [FRONT + HEAD + 16 * 4 + statistics, *[FRONT + HEAD + 16 * 4] * 2]
    assert len({*(run.hashes[0] for run in runs)}) == 3
    rows = [[row["data"] for row in run.json("eval_summary")["rows"]] for run in runs]
    assert ["held_out" in one for one in rows] == [True, False, True]
    own = runs[1].folder / "checkpoints" / "clients"
    means = [checkpoints.load(own / name / "round-000003.pt")["personal"]["front.1.running_mean"] for name in NAMES]
    assert not torch.equal(means[0], means[1])


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam()])
def test_statistics_are_averaged_by_samples_and_counters_are_not_averaged(strategy: FedAvg | FedAdam) -> None:
    def sent(mean: float, batches: int) -> dict[str, np.ndarray]:
        return {"w": np.float32([mean]), "bn.running_mean": np.float32([mean]), "bn.num": np.array(batches)}

    updates = {"a": Update(sent(1.0, 3), 1, 0.0), "b": Update(sent(4.0, 8), 3, 0.0)}
    aggregator = Aggregator(strategy, {"w"})
    aggregator.configure(1, sent(0.0, 2))
    new = aggregator.aggregate(1, sent(0.0, 2), updates)
    assert new["bn.running_mean"] == pytest.approx((1 * 1 + 3 * 4) / 4)
    assert (new["bn.num"].dtype, int(new["bn.num"])) == (np.int64, 8)


def test_frozen_statistics_are_those_of_the_start(go: Go) -> None:
    stored = state(go("federated", "options.batchnorm=true", "federation.batchnorm=freeze"))
    assert torch.equal(stored["front.1.running_mean"], torch.zeros(8))
    assert torch.equal(stored["front.1.running_var"], torch.ones(8))
    assert int(stored["front.1.num_batches_tracked"]) == 0


@pytest.mark.parametrize("policy", ["average", "local"])
def test_one_client_federated_equals_centralized_with_batchnorm(go: Go, policy: str) -> None:
    common = ["options.batchnorm=true", "options.names=[ada]", "federation.optimizer_state=kept"]
    runs = [go("centralized", *common), go("federated", *common, f"federation.batchnorm={policy}")]
    rows = [{row["data"]: row for row in run.json("eval_summary")["rows"]}["ada"]["metrics"] for run in runs]
    assert rows[0] == rows[1]
    parameters = [{name: value for name, value in state(run).items() if name not in STATISTICS} for run in runs]
    for name, value in parameters[0].items():
        assert torch.equal(value, parameters[1][name])


@pytest.mark.parametrize("policy", ["local", "freeze"])
def test_a_policy_without_batchnorm_is_refused(start: Callable[..., Run], policy: str) -> None:
    with pytest.raises(UserError, match=f"federation.batchnorm = {policy}: the network trains no BatchNorm layer"):
        conduct(start("federated", f"federation.batchnorm={policy}"))


def test_what_waits_does_not_travel_until_its_round(go: Go) -> None:
    run = go("federated", "options.thaw_front=2", "train.select=last")
    steps = run.json("history")["steps"]
    assert [step["bytes_up"]["ada"] for step in steps] == [HEAD, HEAD, HEAD + FRONT]
    assert [step["bytes_down"]["ada"] for step in steps] == [2 * HEAD, 2 * HEAD, 2 * (HEAD + FRONT)]


def test_rounds_of_several_epochs_send_what_trains_in_any_of_them() -> None:
    task = Points(data="none", thaw_front=3)
    network = task.network(None)
    planned = Travel(network, task, Federation(local_epochs=2))
    assert planned.trained(1) == ["head.bias", "head.weight"]
    assert planned.trained(2) == planned.moved(2) == sorted(dict(network.named_parameters()))
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedavgm", "fedmedian", "qfedavg"])
def test_parts_that_wait_keep_their_first_weights(go: Go, strategy: str) -> None:
    common = ["options.thaw_front=2", "options.batchnorm=true", "train.select=last", f"federation.strategy={strategy}"]
    before, after = (state(go("federated", *common, f"federation.rounds={rounds}")) for rounds in (2, 3))
    fresh = state(go("centralized", *common[:3], "train.epochs=1", "train.lr=1e-30"))
    front = [name for name in fresh if name.startswith("front")]
    assert all(torch.equal(fresh[name], before[name]) for name in front)
    assert not any(torch.equal(fresh[name], after[name]) for name in front)
    assert not torch.equal(fresh["head.weight"], before["head.weight"])


@pytest.mark.parametrize("state_kept", ["kept", "fresh"])
def test_selecting_a_round_before_the_thaw_leaves_no_trace_of_it(go: Go, state_kept: str) -> None:
    common = [
        "options.thaw_front=2", "options.batchnorm=true", f"federation.optimizer_state={state_kept}",
        "train.lr=50", "options.head_factor=0.0005",
    ]  # fmt: skip
    ruined = go("federated", *common, "federation.rounds=4", "train.monitor=loss")
    selected = ruined.json("manifest")["selected"]["federated"]
    assert selected <= 2
    ended = go("federated", *common, f"federation.rounds={selected}", "train.select=last")
    assert ruined.json("eval_summary")["rows"] == ended.json("eval_summary")["rows"]


def test_one_client_federated_equals_centralized_while_parts_wait(go: Go) -> None:
    common = [
        "options.thaw_front=2", "options.batchnorm=true", "options.head_factor=0.1", "options.names=[ada]",
        "federation.optimizer_state=kept", "federation.rounds=4", "train.schedule=cosine",
    ]  # fmt: skip
    assert go("centralized", *common).hashes == go("federated", *common).hashes
