"""Quantiles from counts that add up: within the stated error, whoever counted and in whatever order."""

from collections import Counter

import numpy as np
import pytest

from datasets.quantile_sketch import bucket_counts, neighbours, quantile, read_counts, with_value

SHARES = np.linspace(0, 1, 21)


def drawn(seed: int) -> np.ndarray:
    """Columns of every kind: normal, heavy-tailed, one-sided, tied, constant, with missing values."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 400))
    columns = [
        random.normal(size=count),
        random.standard_cauchy(count) * 1e3,
        random.exponential(size=count),
        random.integers(-3, 4, count).astype(float),
        np.zeros(count),
    ]
    values = np.stack(columns, axis=1)
    values[random.random(values.shape) < 0.2] = np.nan
    values[0] = 1.0
    return values


@pytest.mark.parametrize("alpha", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("seed", range(10))
def test_every_order_statistic_keeps_the_bound(alpha: float, seed: int) -> None:
    values, smallest = drawn(seed), np.full(5, 1e-6)
    atoms = read_counts(bucket_counts(values, alpha, smallest), alpha, smallest)
    for column, own in zip(values.T, atoms, strict=True):
        seen = np.sort(column[~np.isnan(column)])
        kept = np.repeat(*own)
        assert len(kept) == len(seen)
        bound = np.maximum(alpha * np.abs(seen), 1e-6) * (1 + 1e-9)
        assert (np.abs(kept - seen) <= bound).all()
        for share in SHARES:
            lower, upper, _ = neighbours((seen, np.ones(len(seen), np.int64)), share)
            error = abs(quantile(own, share) - np.quantile(seen, share))
            assert error <= max(alpha * max(abs(lower), abs(upper)), 1e-6) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_alpha_0_is_exact(seed: int) -> None:
    values = drawn(seed)
    table = bucket_counts(values, 0, np.ones(5))
    for column, own in zip(values.T, read_counts(table, 0, np.ones(5)), strict=True):
        expected = np.nanquantile(column, SHARES)
        np.testing.assert_allclose([quantile(own, share) for share in SHARES], expected, rtol=1e-14)


@pytest.mark.parametrize("alpha", [0, 0.01])
def test_counts_of_parts_add_up_in_any_order(alpha: float) -> None:
    values, smallest = drawn(3), np.full(5, 1e-6)
    parts = [bucket_counts(part, alpha, smallest) for part in np.array_split(values, [1, 30, 31])]
    whole = bucket_counts(values, alpha, smallest)
    for order in (parts, parts[::-1]):
        added = sum((Counter(part) for part in order), Counter())
        assert added == Counter(whole)


def test_buckets_by_hand() -> None:
    # alpha = 1/3 doubles the borders: 1 < d <= 2 is bucket 1, 2 < d <= 4 bucket 2, and their middles 4/3 and 8/3.
    values = np.asarray([[0.5], [-1.0], [1.5], [1.9], [-3.0], [np.nan]])
    table = bucket_counts(values, 1 / 3, np.ones(1))
    assert table == {"0:-2": 1, "0:0": 2, "0:1": 2}
    ((kept, counts),) = read_counts(table, 1 / 3, np.ones(1))
    np.testing.assert_allclose(kept, [-8 / 3, 0, 4 / 3])
    assert counts.tolist() == [1, 2, 2]


def test_a_value_that_occurs_often_is_added_in_its_place() -> None:
    atoms = (np.asarray([1.0, 3.0]), np.asarray([1, 1]))
    values, counts = with_value(atoms, 2.0, 3)
    assert values.tolist() == [1, 2, 3] and counts.tolist() == [1, 3, 1]
    assert quantile((values, counts), 0.5) == 2.0 and quantile((values, counts), 0.125) == 1.5
    assert with_value(atoms, 2.0, 0) is atoms
