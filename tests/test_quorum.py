"""How many clients a strategy takes to do what it is for; with fewer it is refused, before and in each round."""

from collections.abc import Callable

import numpy as np
import pytest

from core.errors import UserError
from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.nodes import RoundError
from fl.quorum import check_clients, quorum
from fl.strategies import Aggregator, Update
from tests.conftest import Go, conduct
from tests.refusals import refused
from training.federation import Bulyan, FedAvg, Federation, FedMedian, FedTrimmedAvg, Krum, MultiKrum, Strategy
from training.runs import Run


@pytest.mark.parametrize(
    ("strategy", "updates"),
    [
        (FedAvg(), 1),
        (FedMedian(), 3),
        (FedTrimmedAvg(), 5),
        (FedTrimmedAvg(beta=0.0), 1),
        (FedTrimmedAvg(beta=0.3), 4),
        (FedTrimmedAvg(beta=0.49), 3),
        (FedTrimmedAvg(beta=1 / 49), 50),  # 49 times this double is a little less than 1.
        (Krum(), 3),
        (Krum(num_malicious_nodes=1), 5),
        (MultiKrum(num_malicious_nodes=1, num_nodes_to_select=4), 5),
        (MultiKrum(num_malicious_nodes=1, num_nodes_to_select=5), 6),
        (Bulyan(num_malicious_nodes=1), 7),
    ],
    ids=str,
)
def test_the_fewest_updates_of_each_strategy(strategy: Strategy, updates: int) -> None:
    assert quorum(strategy).updates == updates
    check_clients(Federation(strategy=strategy), updates)
    if updates > 1:
        with pytest.raises(
            UserError, match=rf"federation\.strategy = {strategy.name}: .* takes {updates}; add clients"
        ):
            check_clients(Federation(strategy=strategy), updates - 1)


@pytest.mark.parametrize("strategy", [FedTrimmedAvg(beta=0.1), FedTrimmedAvg(beta=0.34), FedMedian()], ids=str)
def test_with_a_quorum_one_attacker_is_cut_and_with_one_less_he_is_not(strategy: Strategy) -> None:
    InProcessGrid(client_app, 1)
    updates = quorum(strategy).updates
    sent = {f"{n:02}": Update({"w": np.array([1e6 if n == 0 else 1.0])}, 1, 0.0) for n in range(updates)}
    start = {"w": np.zeros(1)}
    assert Aggregator(strategy, {"w"}).aggregate(1, start, sent)["w"] == 1.0
    del sent["01"]
    with pytest.raises(RoundError, match=f"round 1: {updates - 1} updates of w are too few for {strategy.name}; "):
        Aggregator(strategy, {"w"}).aggregate(1, start, sent)


@pytest.mark.parametrize(
    ("strategy", "parts"),
    [
        ("fedtrimmedavg", ["3 clients per round, but cutting beta = 0.2 off each end takes 5", "or raise beta"]),
        ("{name: multikrum, num_nodes_to_select: 99}", ["averaging num_nodes_to_select = 99", "takes 99", "lower"]),
    ],
)
def test_robustness_that_would_do_nothing_is_refused_before_the_first_round(
    start: Callable[..., Run], strategy: str, parts: list[str]
) -> None:
    run = start("federated", f"federation.strategy={strategy}")
    refused(lambda: conduct(run), *parts)
    assert not (run.folder / "history.json").exists()


def test_a_round_that_failures_left_with_too_few_ends_the_run(go: Go) -> None:
    common = ["federation.on_client_failure=continue", "federation.strategy=fedmedian", "federation.retries=0"]
    with pytest.raises(RoundError, match=r"round 2: 2 updates of .* are too few for fedmedian"):
        go("federated", *common, "federation.faults=[{kind: nan, client: bob, round: 2}]")
