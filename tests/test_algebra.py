"""The arithmetic of federation against formulae: written out here in numpy, or small enough to do by hand."""

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fl.client_app import app as client_app
from fl.exchange import Arrays
from fl.inprocess import InProcessGrid
from fl.server import serve
from fl.strategies import Aggregator, Update
from tests.conftest import Finished, Go
from training import checkpoints
from training.federation import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from training.runs import Run

Formula = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]
SAMPLES = {"ada": 30, "bob": 10, "cyd": 60}
START = np.array([0.5, -1.0, 2.0])


def update(value: Any, samples: int = 1, loss: float = 1.0) -> Update:
    return Update({"w": np.asarray(value, np.float64)}, samples, loss)


def aggregate(strategy: Strategy, values: list[Any], samples: list[int] | None = None, start: Any = None) -> np.ndarray:
    """Aggregate one round of the clients a, b, c ... in the type of the updates."""
    first = np.zeros_like(np.asarray(values[0], np.float64)) if start is None else np.asarray(start, np.float64)
    aggregator = Aggregator(strategy, {"w"})
    aggregator.configure(1, {"w": first})
    counts = samples or [1] * len(values)
    updates = {chr(97 + n): update(value, counts[n]) for n, value in enumerate(values)}
    return aggregator.aggregate(1, {"w": first}, updates)["w"]


@pytest.fixture(autouse=True)
def sender() -> None:
    """Flower's messages, which strategies write, want a sender; a grid sets it."""
    InProcessGrid(client_app, 1)


# Averages


def test_one_step_on_everything_is_a_step_of_sgd_on_the_pool(go: Go) -> None:
    """The gradient of the mean loss of the pool is the mean of the clients' gradients, weighted by samples."""
    step = ["train.optimizer=sgd", "train.lr=0.1", "federation.rounds=3", "train.select=last"]
    federated = go("federated", *step, "train.batch_size=40")
    pooled = go("centralized", *step, "train.batch_size=120")
    states = [checkpoints.load(run.folder / "model_final.pt")["state"] for run in (federated, pooled)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=1e-6)
    assert go("federated", *step, "train.batch_size=20").hashes != federated.hashes


def test_clients_count_by_their_samples() -> None:
    assert aggregate(FedAvg(), [[1.0, 0.0], [5.0, 8.0]], [3, 1]).tolist() == [2.0, 2.0]
    assert aggregate(FedAvg(), [1.0, 2.0, 4.0], [1, 2, 5]) == pytest.approx(25 / 8, abs=1e-15)


def test_without_a_pull_fedprox_is_fedavg_bit_for_bit(go: Go) -> None:
    runs = [go("federated", f"federation.strategy={name}") for name in ("fedavg", "{name: fedprox, proximal_mu: 0}")]
    assert runs[0].hashes == runs[1].hashes
    assert aggregate(FedProx(), [1.0, 4.0], [1, 2]) == aggregate(FedAvg(), [1.0, 4.0], [1, 2]) == 3.0


# Optimizers on the server (Reddi et al., arXiv 2003.00295, algorithm 2): delta = average - x, and x moves along it.


def momentum(x: np.ndarray, delta: np.ndarray, state: dict[str, Any], number: int) -> np.ndarray:
    state["v"] = 0.6 * state["v"] + delta if "v" in state else delta
    return x + 0.5 * state["v"]


def adagrad(x: np.ndarray, delta: np.ndarray, state: dict[str, Any], number: int) -> np.ndarray:
    state["v"] = state.get("v", 0) + delta**2
    return x + 0.1 * delta / (np.sqrt(state["v"]) + 1e-3)


def first_moment(delta: np.ndarray, state: dict[str, Any]) -> np.ndarray:
    state["m"] = 0.9 * state.get("m", np.zeros_like(delta)) + 0.1 * delta
    return np.asarray(state["m"])


def adam(x: np.ndarray, delta: np.ndarray, state: dict[str, Any], number: int) -> np.ndarray:
    """The step of the paper, times the bias correction of Kingma and Ba at `number + 1`, which Flower adds to it."""
    m = first_moment(delta, state)
    state["v"] = 0.99 * state.get("v", 0) + 0.01 * delta**2
    correction = np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
    return x + 0.1 * correction * m / (np.sqrt(state["v"]) + 1e-3)


def yogi(x: np.ndarray, delta: np.ndarray, state: dict[str, Any], number: int) -> np.ndarray:
    m = first_moment(delta, state)
    before = state.get("v", np.zeros_like(delta))
    state["v"] = before - 0.01 * delta**2 * np.sign(before - delta**2)
    return x + 0.1 * m / (np.sqrt(state["v"]) + 1e-3)


@pytest.mark.parametrize(
    ("strategy", "formula"),
    [
        (FedAvgM(server_learning_rate=0.5, server_momentum=0.6), momentum),
        (FedAdagrad(eta=0.1), adagrad),
        (FedAdam(eta=0.1), adam),
        (FedYogi(eta=0.1), yogi),
    ],
    ids=["fedavgm", "fedadagrad", "fedadam", "fedyogi"],
)
def test_optimizers_on_the_server_follow_their_formulae_for_three_rounds(strategy: Strategy, formula: Formula) -> None:
    draws = np.random.default_rng(3)
    aggregator = Aggregator(strategy, {"w"})
    arrays, expected, state = {"w": START}, START, dict[str, Any]()
    for number in (1, 2, 3):
        trained = {name: arrays["w"] + draws.normal(size=3) for name in SAMPLES}
        aggregator.configure(number, arrays)
        arrays = aggregator.aggregate(number, arrays, {n: update(trained[n], SAMPLES[n]) for n in SAMPLES})
        average = np.average([trained[name] for name in SAMPLES], axis=0, weights=list(SAMPLES.values()))
        expected = formula(expected, average - expected, state, number)
        np.testing.assert_allclose(arrays["w"], expected, rtol=0, atol=1e-12)


# Fairness (Li et al., arXiv 1905.10497)


def test_without_fairness_qfedavg_is_the_unweighted_mean_at_any_learning_rate() -> None:
    """L = 1 / client_learning_rate stands in the numerator and the denominator alike, and cancels."""
    for rate in (0.01, 0.1, 1.0):
        fair = aggregate(QFedAvg(q=0.0, client_learning_rate=rate), [[1.0, 0.0], [5.0, 8.0]], [3, 1], START[:2])
        np.testing.assert_allclose(fair, [3.0, 4.0], atol=1e-12)


def test_qfedavg_by_its_formula() -> None:
    """Clients count by loss^q, and the step shrinks with the curvature that q adds."""
    q, rate, losses = 0.5, 0.2, [4.0, 1.0]
    values = [np.array([1.0, 0.0]), np.array([5.0, 8.0])]
    start = START[:2]
    aggregator = Aggregator(QFedAvg(q=q, client_learning_rate=rate), {"w"})
    aggregator.configure(1, {"w": start})
    updates = {name: update(value, 1, loss) for name, value, loss in zip("ab", values, losses, strict=True)}
    gradients = [(start - value) / rate for value in values]
    steps = [loss**q * gradient for loss, gradient in zip(losses, gradients, strict=True)]
    curvatures = [
        q * loss ** (q - 1) * gradient @ gradient + loss**q / rate
        for loss, gradient in zip(losses, gradients, strict=True)
    ]
    expected = start - sum(steps) / sum(curvatures)
    np.testing.assert_allclose(aggregator.aggregate(1, {"w": start}, updates)["w"], expected, rtol=1e-8)


# Robust strategies, in numbers to check by hand


def test_the_median_of_each_coordinate() -> None:
    assert aggregate(FedMedian(), [[1.0, 50.0], [2.0, 3.0], [99.0, 4.0]], [9, 1, 1]).tolist() == [2.0, 4.0]
    assert aggregate(FedMedian(), [1.0, 2.0, 4.0, 100.0]) == 3.0


def test_the_trimmed_mean_cuts_both_ends() -> None:
    assert aggregate(FedTrimmedAvg(beta=0.2), [-90.0, 1.0, 2.0, 6.0, 1000.0]) == 3.0
    assert aggregate(FedTrimmedAvg(beta=0.0), [1.0, 2.0, 6.0]) == 3.0
    assert aggregate(FedTrimmedAvg(beta=0.3), [-90.0, 1.0, 3.0, 50.0]) == 2.0  # 0.3 x 4 clients: one of each end


def test_krum_takes_the_one_nearest_to_its_neighbours() -> None:
    """Of 5 with 1 attacker the score is the sum of squared distances to the 2 nearest: 20, 8, 13, 34, 17,865."""
    assert aggregate(Krum(num_malicious_nodes=1), [0.0, 2.0, 4.0, 7.0, 100.0]) == 2.0


def test_multikrum_averages_the_best_by_samples() -> None:
    """With the scores above, 2.0 and 4.0 are the best two."""
    strategy = MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2)
    assert aggregate(strategy, [0.0, 2.0, 4.0, 7.0, 100.0]) == 3.0
    assert aggregate(strategy, [0.0, 2.0, 4.0, 7.0, 100.0], [1, 3, 1, 1, 9]) == 2.5


def test_bulyan_averages_what_lies_nearest_to_the_median_of_the_selected() -> None:
    """Of 7 with 1 attacker Krum selects 5, and of these the 3 nearest to their median count."""
    honest = [0.0, 1.0, 2.0, 3.0, 4.0, 12.0]
    assert aggregate(Bulyan(num_malicious_nodes=1), [*honest, 1000.0]) == 2.0
    assert aggregate(Bulyan(num_malicious_nodes=1), [*honest, -1000.0]) == 2.0


# Attackers

SEVEN = "options.names=[a, b, c, d, e, f, g]"
ROBUST = [
    "fedmedian",
    "{name: fedtrimmedavg, beta: 0.2}",
    "{name: krum, num_malicious_nodes: 1}",
    "{name: multikrum, num_malicious_nodes: 1, num_nodes_to_select: 4}",
    "{name: bulyan, num_malicious_nodes: 1}",
]
ATTACKS = [{"kind": "sign_flip"}, {"kind": "scaled", "factor": -20}, {"kind": "scaled", "factor": 100}]


def accuracy(go: Go, strategy: str, *attacks: dict[str, Any]) -> float:
    faults = json.dumps([{**attack, "client": "d", "rate": 1} for attack in attacks])
    options = ["federation.rounds=4", "train.lr=0.05", "train.select=last"]
    run = go("federated", SEVEN, *options, f"federation.strategy={strategy}", f"federation.faults={faults}")
    return run.value("federated", "pooled", "accuracy")


@pytest.mark.parametrize("strategy", ROBUST)
def test_one_attacker_of_seven_costs_a_robust_strategy_less_than_five_percent(go: Go, strategy: str) -> None:
    clean = accuracy(go, strategy)
    for attack in ATTACKS:
        assert accuracy(go, strategy, attack) >= 0.95 * clean


def test_one_attacker_of_seven_ruins_the_average(go: Go) -> None:
    """All but the plain sign flip, which takes two of seven votes from the average and leaves it its direction."""
    clean = accuracy(go, "fedavg")
    for attack in ATTACKS[1:]:
        assert accuracy(go, "fedavg", attack) < 0.95 * clean


# Buffers and order


def test_counters_are_never_averaged() -> None:
    start: Arrays = {"w": np.zeros(1, np.float32), "n": np.array(3), "m": np.array([1, 1], np.int32)}
    aggregator = Aggregator(FedAvg(), {"w"})
    aggregator.configure(1, start)
    trained = [
        Update({"w": np.ones(1, np.float32), "n": np.array(5), "m": np.array([2, 9], np.int32)}, 1, 1.0),
        Update({"w": np.zeros(1, np.float32), "n": np.array(8), "m": np.array([4, 3], np.int32)}, 99, 1.0),
    ]
    new = aggregator.aggregate(1, start, dict(zip("ab", trained, strict=True)))
    assert (new["n"], new["m"].tolist()) == (8, [4, 9])
    assert {name: array.dtype for name, array in new.items()} == {name: array.dtype for name, array in start.items()}


def test_batchnorm_keeps_its_count_of_batches(go: Go) -> None:
    run = go("federated", "options.batchnorm=true", "train.batch_size=8", "train.select=last")
    counter = checkpoints.load(run.folder / "model_final.pt")["state"]["front.1.num_batches_tracked"]
    assert (counter.dtype, int(counter)) == (torch.int64, 3 * 5)


class Shuffling(InProcessGrid):
    """Answers messages and hands over replies in an order of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__(client_app, 3)
        self.random = random.Random(seed)

    def get_node_ids(self) -> Any:
        return self.random.sample(list(self.contexts), len(self.contexts))

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        shuffled = list(messages)
        self.random.shuffle(shuffled)
        replies = list(super().send_and_receive(shuffled, timeout=timeout))
        self.random.shuffle(replies)
        return replies


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "{name: multikrum, num_nodes_to_select: 2}"])
def test_the_order_in_which_replies_arrive_changes_nothing(go: Go, start: Callable[..., Run], strategy: str) -> None:
    options = [f"federation.strategy={strategy}", "options.dropout=0.2", "options.batchnorm=true"]
    hashes = go("federated", *options).hashes
    for seed in range(4):
        run = start("federated", *options)
        serve(run, Shuffling(seed), 3)
        assert Finished(run.folder).hashes == hashes
