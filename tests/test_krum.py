"""What Krum compares: how far the parameters of each client have moved, and nothing that would drown it."""

import numpy as np
import pytest

from fl.client_app import app as client_app
from fl.exchange import Arrays
from fl.inprocess import InProcessGrid
from fl.strategies import Aggregator, Update
from training.federation import Bulyan, Krum, MultiKrum, Strategy

MOVED = [0.0, 0.002, 0.004, 0.007, 0.1]
"""As the numbers of the tests on algebra, which Krum is at home with, by a thousandth: it takes the second."""


@pytest.fixture(autouse=True)
def sender() -> None:
    """Flower's messages, which strategies write, want a sender; a grid sets it."""
    InProcessGrid(client_app, 1)


def aggregate(strategy: Strategy, start: Arrays, trained: list[Arrays]) -> Arrays:
    aggregator = Aggregator(strategy, {"w"})
    aggregator.configure(1, start)
    return aggregator.aggregate(1, start, {chr(97 + n): Update(one, 1, 0.0) for n, one in enumerate(trained)})


@pytest.mark.parametrize("shared", [0.0, 1.0, 1e6, 1e9])
def test_a_large_value_that_all_share_hides_no_difference(shared: float) -> None:
    start = {"w": np.array([shared, 0.0])}
    new = aggregate(Krum(num_malicious_nodes=1), start, [{"w": np.array([shared, value])} for value in MOVED])
    assert new["w"].tolist() == [shared, 0.002]


def test_statistics_of_batchnorm_do_not_choose_but_come_with_the_chosen() -> None:
    """By variance alone the last three would be neighbours."""
    start = {"w": np.zeros(1), "variance": np.ones(1)}
    variances = [100.0, 300.0, 500.0, 500.1, 500.2]
    trained = [
        {"w": np.array([value]), "variance": np.array([variance])}
        for value, variance in zip(MOVED, variances, strict=True)
    ]
    new = aggregate(Krum(num_malicious_nodes=1), start, trained)
    assert {name: float(array[0]) for name, array in new.items()} == {"w": 0.002, "variance": 300.0}
    new = aggregate(MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2), start, trained)
    assert {name: float(array[0]) for name, array in new.items()} == {"w": 0.003, "variance": 400.0}


def test_bulyan_chooses_by_what_was_trained_too() -> None:
    """Of seven with one attacker five are chosen: not the two last, whatever their variances."""
    start = {"w": np.array([1e6]), "variance": np.ones(1)}
    moved = [0.0, 0.001, 0.002, 0.003, 0.004, 0.02, 9.0]
    variances = [1.0, 1000.0, 2.0, 2000.0, 3.0, 2.0, 2.0]
    trained = [
        {"w": np.array([1e6 + value]), "variance": np.array([variance])}
        for value, variance in zip(moved, variances, strict=True)
    ]
    new = aggregate(Bulyan(num_malicious_nodes=1), start, trained)
    assert new["w"] == pytest.approx(1e6 + 0.002, abs=1e-9)
    assert new["variance"] == pytest.approx((1.0 + 2.0 + 3.0) / 3)
