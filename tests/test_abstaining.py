"""Clients without data for a part of the network, under every strategy: they have no vote on it and sway nobody."""

from typing import Any

import numpy as np
import pytest

from core.errors import UserError
from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.nodes import RoundError
from fl.quorum import check_absent
from fl.strategies import STRATEGIES, Aggregator, Update
from tests.conftest import Go
from tests.refusals import refused
from training import checkpoints
from training.federation import Bulyan, FedAvg, Federation, FedMedian, FedTrimmedAvg, Krum, MultiKrum, QFedAvg, Strategy

CHOOSING = {"krum", "multikrum", "bulyan"}
LACKING = {"a": (), "b": (), "c": (), "d": ("part.*",), "e": ("part.*",)}


@pytest.fixture(autouse=True)
def sender() -> None:
    """Flower's messages, which strategies write, want a sender; a grid sets it."""
    InProcessGrid(client_app, 1)


def strategy(name: str) -> Strategy:
    options = {"beta": 0.34} if name == "fedtrimmedavg" else {}
    return Federation.model_validate({"strategy": {"name": name, **options}}).strategy


def update(samples: int = 1, **values: float) -> Update:
    return Update({name: np.array([value]) for name, value in values.items()}, samples, 1.0)


def aggregate(options: Strategy, updates: dict[str, Update], start: float = 0.0, rounds: int = 1) -> dict[str, float]:
    """Aggregate the same changes in some rounds, of a global `part` and `w`."""
    aggregator = Aggregator(options, {"part", "w"})
    arrays = {"part": np.array([start]), "w": np.array([start])}
    for number in range(1, rounds + 1):
        aggregator.configure(number, arrays)
        moved = {
            client: Update({name: arrays[name] + value for name, value in one.arrays.items()}, one.samples, 1.0)
            for client, one in updates.items()
        }
        arrays = aggregator.aggregate(number, arrays, moved)
    return {name: float(array[0]) for name, array in arrays.items()}


def voters() -> dict[str, Update]:
    return {"a": update(2, w=1, part=1), "b": update(5, w=2, part=3), "c": update(3, w=3, part=1e6)}


@pytest.mark.parametrize("options", [FedMedian(), FedTrimmedAvg(beta=0.34)], ids=lambda one: one.name)
def test_an_attacker_gains_no_vote_from_those_who_abstain(options: Strategy) -> None:
    """Median and trimmed mean of 1, 3 and a million are 3, however many have no say."""
    crowd = {**voters(), "d": update(9, w=4), "e": update(1, w=5)}
    assert aggregate(options, crowd) == {"part": 3.0, "w": 3.0}


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - CHOOSING))
def test_a_part_becomes_what_those_who_trained_it_would_have_made_alone(name: str) -> None:
    alone = aggregate(strategy(name), voters(), start=0.5, rounds=3)
    joined = aggregate(strategy(name), {**voters(), "d": update(9, w=4), "e": update(1, w=5)}, start=0.5, rounds=3)
    if name == "qfedavg":  # The step shrinks with the curvature of what is decided together: here of each part alone.
        apart = {client: Update({"part": one.arrays["part"]}, one.samples, 1.0) for client, one in voters().items()}
        alone = aggregate(strategy(name), apart, start=0.5, rounds=3)
    assert joined["part"] == pytest.approx(alone["part"], rel=1e-14)
    assert joined["w"] != alone["w"]


def test_without_fairness_a_part_is_the_mean_of_those_who_trained_it() -> None:
    updates = {"a": update(part=1, w=1), "b": update(part=4, w=1), "c": update(w=4)}
    assert aggregate(QFedAvg(q=0), updates) == pytest.approx({"part": 2.5, "w": 2.0})


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_what_nobody_trained_stays_bit_for_bit(name: str) -> None:
    crowd = {client: update(3, w=0.1 * number) for number, client in enumerate("abcdefg")}
    assert aggregate(strategy(name), crowd, start=0.1, rounds=2)["part"] == 0.1


@pytest.mark.parametrize("options", [Krum(), MultiKrum(num_nodes_to_select=2), Bulyan()], ids=lambda one: one.name)
def test_a_choice_among_whole_updates_takes_all_of_each(options: Strategy, go: Go) -> None:
    federation = Federation(strategy=options)
    refused(lambda: check_absent(federation, LACKING), options.name, "d has no data for part.*", "choose fedmedian")
    check_absent(federation, {"a": (), "b": (), "c": ()})
    with pytest.raises(UserError, match="chooses among whole updates, but cyd has no data for"):
        go("federated", "task=tests.toy_lacking", f"federation.strategy={options.name}")


def test_a_part_that_too_few_can_train_is_refused() -> None:
    median = Federation(strategy=FedMedian())
    check_absent(median, LACKING)
    two = {**LACKING, "c": ("part.*",)}
    refused(lambda: check_absent(median, two), "c has no data for part.*, which may leave 2 clients", "takes 3")
    refused(lambda: check_absent(Federation(strategy=FedMedian(), clients_per_round=4), LACKING), "may leave 2 clients")
    check_absent(median, dict.fromkeys("abc", ("part.*",)))
    check_absent(Federation(strategy=FedAvg()), two)
    with pytest.raises(RoundError, match="round 1: 2 updates of part are too few for fedmedian"):
        aggregate(FedMedian(), {**voters(), "c": update(w=3)})


def test_a_run_withstands_an_attacker_although_others_abstain(go: Go) -> None:
    """The attacker trains the part with two others; five of seven have a say on it at most."""
    names = 'options.names=["ada","bob","cyd","dan"]'
    common = ["task=tests.toy_lacking", names, "federation.strategy=fedmedian", "train.select=last"]
    attack = 'federation.faults=[{"kind":"scaled","client":"bob","rate":1,"factor":1e6}]'
    states: list[Any] = [
        checkpoints.load(go("federated", *common, *more).folder / "model_final.pt")["state"] for more in ([], [attack])
    ]
    assert states[1]["extra.weight"].abs().max() < 2 * states[0]["extra.weight"].abs().max()
