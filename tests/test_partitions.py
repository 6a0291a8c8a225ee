"""Units go to clients as a whole, whatever the order they come in."""

import numpy as np
import pytest

from core.errors import UserError
from datasets.partitions import client_names, dirichlet, evenly, ranges

UNITS = [f"{number:04d}" for number in range(1, 24)]
LABELS = [("a", "b", "c")[number % 3] for number in range(23)]


def counts(placed):
    return sorted(np.unique(list(placed.values()), return_counts=True)[1].tolist())


def test_clients_are_numbered_with_equal_width():
    assert client_names(3) == ["client_01", "client_02", "client_03"]
    assert client_names(100)[0] == "client_001"


def test_even_parts_cover_all_units_and_differ_by_one_at_most():
    placed = evenly(UNITS, 4, seed=1)
    assert sorted(placed) == UNITS
    assert counts(placed) == [5, 6, 6, 6]
    assert set(placed.values()) == set(client_names(4))


def test_order_and_repeats_do_not_matter_but_the_seed_does():
    placed = evenly(UNITS, 3, seed=1)
    assert evenly([*reversed(UNITS), *UNITS], 3, seed=1) == placed
    assert evenly(UNITS, 3, seed=2) != placed
    skewed = dirichlet(UNITS, LABELS, 3, alpha=0.5, seed=1)
    assert dirichlet(UNITS[::-1], LABELS[::-1], 3, alpha=0.5, seed=1) == skewed
    assert dirichlet(UNITS, LABELS, 3, alpha=0.5, seed=2) != skewed


def test_ranges_follow_the_number_not_the_text():
    assert ranges(["10", "2", "1", "9"], 2) == {
        "1": "client_01",
        "2": "client_01",
        "9": "client_02",
        "10": "client_02",
    }
    assert ranges(["b", "a", "10"], 3) == {"10": "client_01", "a": "client_02", "b": "client_03"}


def test_small_alpha_skews_labels_and_large_alpha_does_not():
    units = [f"{number:04d}" for number in range(600)]
    labels = [str(number % 4) for number in range(600)]

    def largest_share(alpha):
        placed = dirichlet(units, labels, 3, alpha=alpha, seed=0)
        table = np.zeros((3, 4))
        for unit, label in zip(units, labels, strict=True):
            table[client_names(3).index(placed[unit]), int(label)] += 1
        assert table.sum() == 600
        return (table.max(axis=1) / table.sum(axis=1)).mean()

    assert largest_share(0.05) > 0.5
    assert largest_share(1000.0) < 0.3


def test_every_client_gets_the_minimum():
    placed = dirichlet(UNITS, LABELS, 4, alpha=0.3, seed=5, minimum=4)
    assert counts(placed)[0] >= 4 and sorted(placed) == UNITS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evenly(UNITS, 0, seed=0), "clients: 0 must be 1 or more"),
        (lambda: evenly(["a", "b"], 3, seed=0), "clients: 3 are more than the 2 units"),
        (lambda: ranges(["a", "a"], 2), "clients: 2 are more than the 1 units"),
        (lambda: dirichlet(UNITS, LABELS, 3, alpha=0.0, seed=0), "alpha: 0.0 must be above 0"),
        (lambda: dirichlet(UNITS, LABELS, 8, alpha=1.0, seed=0), "clients: 8 x 3 units are more than the 23"),
        (lambda: dirichlet(["a", "a", "b"], ["x", "y", "x"], 1, alpha=1.0, seed=0), "a unit occurs twice"),
        (lambda: dirichlet(UNITS, LABELS, 7, alpha=1e-4, seed=0), "alpha: 0.0001 leaves a client with fewer than 3"),
    ],
)
def test_what_cannot_be_divided_is_refused(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
