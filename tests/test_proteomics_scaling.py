"""Preprocessing of two platforms: the recorded arrays, pooled figures from merged parts, bounds, and the way back."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from datasets.proteomics_files import read_matrix
from datasets.proteomics_scaling import Preprocessing
from datasets.proteomics_statistics import Agreed, SecondPass, first_pass, merge_rule, second_pass
from datasets.proteomics_steps import Log, Steps, nearest_fill
from tests.refusals import refused
from training.statistics import Statistics, Values, merge_statistics

FOLDER = Path(__file__).parent / "fixtures" / "proteomics"
RECORDED = np.load(FOLDER / "expected.npz")
EXACT = {"rtol": 0, "atol": 1e-9}
SCALERS = {"zscore": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}
both_platforms = pytest.mark.parametrize("platform", ["a", "b"])
all_scalers = pytest.mark.parametrize("scaler", SCALERS)


def recorded_fit(platform: str, rows: np.ndarray | slice = slice(None), **steps: object) -> Preprocessing:
    names = RECORDED[f"feature_names_{platform}"].tolist()
    return Preprocessing.from_rows(names, RECORDED[f"raw_{platform}"][rows], Steps.model_validate(steps))


def travelled(arrays: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> Statistics:
    """What a client sends, as the server reads it from JSON."""
    values = {name: Values(rule=merge_rule(name), values=array.tolist()) for name, array in arrays.items()}
    sent = Statistics(arrays=values, counts={"buckets": dict(counts)}).model_dump(mode="json")
    return Statistics.model_validate(json.loads(json.dumps(sent, allow_nan=False)))


def merged(
    parts: list[tuple[Mapping[str, np.ndarray], Mapping[str, int]]],
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    whole = merge_statistics({f"client_{number}": travelled(*part) for number, part in enumerate(parts)})
    return {name: values.array() for name, values in whole.arrays.items()}, dict(whole.counts["buckets"])


def federated_fit(parts: list[np.ndarray], steps: Steps) -> Preprocessing:
    """Two passes over parts that stay apart."""
    names = [f"feature_{number}" for number in range(parts[0].shape[1])]
    first, _ = merged([(first_pass(part), {}) for part in parts])
    agreed = Agreed.of(first, steps)
    if steps.missing == "knn":
        parts = [nearest_fill(part, part, agreed.mean) for part in parts]
    second = [second_pass(part, agreed, steps) for part in parts]
    return Preprocessing.fit(names, first, SecondPass(*merged([(one.arrays, one.buckets) for one in second])), steps)


def drawn(seed: int) -> np.ndarray:
    """Columns of every kind: ordinary, far from 0, tiny, heavy-tailed, constant; some cells missing."""
    random = np.random.default_rng(seed)
    count = int(random.integers(8, 200))
    columns = [
        random.normal(size=count),
        1e6 + random.normal(size=count),
        1e-7 * random.normal(3, 1, count),
        np.exp(2 * random.normal(size=count)),
        np.full(count, 1.25),
        np.full(count, 7.0) + (np.arange(count) == 0),
    ]
    values = np.stack(columns, axis=1)
    values[random.random(values.shape) < 0.15] = np.nan
    values[:2, :] = np.stack([column[:2] for column in columns], axis=1)
    return values


def cut(values: np.ndarray, seed: int) -> list[np.ndarray]:
    """A random partition into four parts, one of them empty."""
    owner = np.random.default_rng([seed, 1]).integers(0, 3, len(values))
    return [values[owner == part] for part in range(4)]


# The recorded behaviour


@both_platforms
def test_recorded_fill_of_missing_cells(platform: str) -> None:
    raw = RECORDED[f"raw_{platform}"]
    for missing in ("mean", "median"):
        filled = recorded_fit(platform, missing=missing).filled(raw)
        np.testing.assert_allclose(filled, RECORDED[f"missing_{missing}_{platform}"], **EXACT)
    nearest = nearest_fill(raw, raw, np.full(raw.shape[1], np.nan))
    np.testing.assert_allclose(nearest, RECORDED[f"missing_knn_{platform}"], **EXACT)


@both_platforms
@pytest.mark.parametrize("epsilon", ["1e-8", "1e-2"])
def test_recorded_logarithm(platform: str, epsilon: str) -> None:
    fitted = recorded_fit(platform, log=True, epsilon=epsilon)
    assert fitted.log is not None and fitted.steps.epsilon == float(epsilon)
    np.testing.assert_allclose(fitted.log.shift, RECORDED[f"log_eps{epsilon}_shift_{platform}"], **EXACT)
    logs = fitted.log.forward(fitted.filled(RECORDED[f"raw_{platform}"]))
    np.testing.assert_allclose(logs, RECORDED[f"log_eps{epsilon}_{platform}"], **EXACT)


@both_platforms
@all_scalers
def test_recorded_scaling(platform: str, scaler: str) -> None:
    raw = RECORDED[f"raw_{platform}"]
    plain = recorded_fit(platform, scaler=scaler)
    np.testing.assert_allclose(plain.apply(raw), RECORDED[f"norm_{scaler}_{platform}"], **EXACT)
    logged = recorded_fit(platform, scaler=scaler, log=True, epsilon=1e-2)
    np.testing.assert_allclose(logged.apply(raw), RECORDED[f"lognorm_{scaler}_{platform}"], **EXACT)


@all_scalers
def test_recorded_inverse(scaler: str) -> None:
    fitted = recorded_fit("b", scaler=scaler, log=True, epsilon=1e-2)
    back = fitted.inverse(RECORDED[f"inverse_in_{scaler}_b"])
    np.testing.assert_allclose(back, RECORDED[f"inverse_out_{scaler}_b"], **EXACT)


def test_recorded_numbers_of_the_scalers() -> None:
    zscore, minmax, robust = (recorded_fit("a", scaler=scaler) for scaler in SCALERS)
    low, scale = np.asarray(minmax.centre), 1 / np.asarray(minmax.scale)
    pairs = {
        "zscore_a_mean": zscore.centre,
        "zscore_a_scale": zscore.scale,
        "robust_a_center": robust.centre,
        "robust_a_scale": robust.scale,
        "minmax_a_data_min": low,
        "minmax_a_scale": scale,
        "minmax_a_min": -low * scale,
        "minmax_a_data_max": np.nanmax(RECORDED["missing_mean_a"], axis=0),
    }
    for name, values in pairs.items():
        np.testing.assert_allclose(values, RECORDED[f"scaler_{name}"], **EXACT)


@both_platforms
def test_recorded_fit_on_train_rows_only(platform: str) -> None:
    rows, raw = RECORDED["split0_train"], RECORDED[f"raw_{platform}"]
    for scaler in SCALERS:
        fitted = recorded_fit(platform, rows, scaler=scaler)
        np.testing.assert_allclose(fitted.fill, RECORDED[f"trainfit_fill_mean_{platform}"], **EXACT)
        np.testing.assert_allclose(fitted.apply(raw), RECORDED[f"trainfit_{scaler}_{platform}"], **EXACT)
    logged = recorded_fit(platform, rows, log=True, epsilon=1e-2)
    assert logged.log is not None
    np.testing.assert_allclose(logged.log.shift, RECORDED[f"trainfit_log_shift_eps1e-2_{platform}"], **EXACT)


def test_recorded_new_rows() -> None:
    new = read_matrix(FOLDER / "new_a.csv")
    fitted = recorded_fit("a", RECORDED["split0_train"])
    values = new.values[:, new.columns(fitted.features, "a")]
    np.testing.assert_allclose(fitted.apply(values), RECORDED["new_norm_zscore_trainfit"], **EXACT)
    original = recorded_fit("a").apply(np.where(np.isnan(values), np.nanmean(values, axis=0), values))
    np.testing.assert_allclose(original, RECORDED["new_norm_zscore_original_behaviour"], **EXACT)


@both_platforms
@all_scalers
@pytest.mark.parametrize("missing", ["mean", "median"])
def test_merged_parts_give_the_recorded_fit(platform: str, scaler: str, missing: str) -> None:
    raw = RECORDED[f"raw_{platform}"]
    steps = Steps(scaler=scaler, missing=missing, log=True, epsilon=1e-2)
    exact = recorded_fit(platform, scaler=scaler, missing=missing, log=True, epsilon=1e-2)
    parts = federated_fit(np.array_split(raw, 3), steps)
    assert parts.log == exact.log
    tolerance = EXACT if not steps.needs_quantiles else {"rtol": 0.02, "atol": 0.02}
    for name in ("fill", "centre", "scale"):
        np.testing.assert_allclose(getattr(parts, name), getattr(exact, name), **tolerance)
    shared = federated_fit(np.array_split(raw, 3), steps.model_copy(update={"alpha": 0.0}))
    for name in ("fill", "centre", "scale"):
        np.testing.assert_allclose(getattr(shared, name), getattr(exact, name), **EXACT)


# Merged against pooled


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("missing", ["mean", "median"])
@all_scalers
def test_merged_parts_are_the_pooled_pipeline(seed: int, missing: str, scaler: str) -> None:
    values = drawn(seed)
    fitted = federated_fit(cut(values, seed), Steps(missing=missing, scaler=scaler, alpha=0))
    filled = SimpleImputer(strategy=missing).fit_transform(values)
    expected = SCALERS[scaler]().fit(filled)
    np.testing.assert_allclose(fitted.filled(values), filled, rtol=1e-9)
    # In units of its own spread, a feature is scaled as scikit-learn scales it; 1e6 + N(0, 1) loses digits there.
    np.testing.assert_allclose(fitted.apply(values), expected.transform(filled), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("log", [False, True])
def test_mean_and_deviation_keep_all_digits(seed: int, log: bool) -> None:
    values = drawn(seed)
    fitted = federated_fit(cut(values, seed), Steps(log=log, epsilon=1e-3))
    filled = np.where(np.isnan(values), np.nanmean(values, axis=0), values)
    if log:
        filled = np.log(filled - np.nanmin(values) + 1e-3)
    deviation = filled.std(axis=0)
    np.testing.assert_allclose(fitted.centre, filled.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(np.asarray(fitted.scale)[[0, 1, 2, 3, 5]], deviation[[0, 1, 2, 3, 5]], rtol=1e-9)
    assert fitted.scale[4] == 1.0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("alpha", [0.05, 0.005])
@pytest.mark.parametrize("log", [False, True])
def test_medians_and_quartiles_keep_their_bound(seed: int, alpha: float, log: bool) -> None:
    values = drawn(seed)[:, [0, 1, 3, 5]]
    steps = Steps(missing="drop", scaler="robust", log=log, epsilon=0.1, alpha=alpha)
    values = values[~np.isnan(values).any(axis=1)]
    parts = [part for part in cut(values, seed) if len(part)]
    fitted = federated_fit(parts, steps)
    centre = Agreed.of(first_pass(values), steps).centre
    logs = values if fitted.log is None else fitted.log.forward(values)
    quartiles = {share: np.quantile(logs, share, axis=0) for share in (0.25, 0.5, 0.75)}
    reach = {}
    for share in quartiles:
        ends = [np.quantile(logs, share, axis=0, method=method) for method in ("lower", "higher")]
        reach[share] = alpha * np.max(np.abs(np.asarray(ends) - centre), axis=0) + 2e-9 * np.ptp(logs, axis=0) + 1e-12
    assert (np.abs(fitted.centre - quartiles[0.5]) <= reach[0.5]).all()
    spread = quartiles[0.75] - quartiles[0.25]
    varies = spread > 1e-9
    error = np.abs(np.asarray(fitted.scale) - spread)[varies]
    assert (error <= (reach[0.25] + reach[0.75])[varies]).all()


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_are_those_of_the_same_client(seed: int) -> None:
    values = drawn(seed)[:, [0, 3]]
    parts = np.array_split(values, 2)
    filled = np.concatenate([KNNImputer(n_neighbors=5).fit_transform(part) for part in parts])
    fitted = federated_fit(parts, Steps(missing="knn"))
    np.testing.assert_allclose(fitted.centre, filled.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(fitted.scale, filled.std(axis=0), rtol=1e-9)


def test_neighbours_without_the_feature_or_without_rows() -> None:
    train = np.asarray([[1.0, np.nan], [3.0, np.nan]])
    rows = np.asarray([[np.nan, np.nan], [2.0, 5.0]])
    assert nearest_fill(train, rows, np.asarray([9.0, 7.0])).tolist() == [[2.0, 7.0], [2.0, 5.0]]
    assert nearest_fill(train[:0], rows, np.asarray([9.0, 7.0])).tolist() == [[9.0, 7.0], [2.0, 5.0]]
    assert nearest_fill(train, rows[:0], np.asarray([9.0, 7.0])).shape == (0, 2)


def test_the_order_of_rows_does_not_matter() -> None:
    values = drawn(0)
    steps = Steps(scaler="robust", missing="median")
    assert federated_fit([values], steps) == federated_fit([values[::-1]], steps)


# The logarithm


def test_the_shift_by_hand() -> None:
    assert Log.fitted(-2.0, 0.5) == Log(shift=2.5, floor=0.5)
    assert Log.fitted(0.0, 0.5) == Log(shift=0.5, floor=0.5)
    assert Log.fitted(3.0, 0.5) == Log(shift=0.0, floor=0.5)
    np.testing.assert_allclose(Log.fitted(-2.0, 0.5).forward(np.asarray([-2.0, -100.0, 0.5])), np.log([0.5, 0.5, 3.0]))


def test_concentrations_below_epsilon_are_not_flattened() -> None:
    values = np.asarray([[1e-12], [1e-10], [1e-11]])
    fitted = Preprocessing.from_rows(["x"], values, Steps(log=True))
    np.testing.assert_allclose(fitted.inverse(fitted.apply(values)), values, rtol=1e-9)


def test_a_shift_that_epsilon_is_lost_in_gives_no_infinity() -> None:
    values = np.asarray([[-1e12], [5.0], [7.0]])
    fitted = Preprocessing.from_rows(["x"], values, Steps(log=True))
    assert np.isfinite(fitted.apply(values)).all()


# Forward and back, stored and read


@both_platforms
@all_scalers
@pytest.mark.parametrize("log", [False, True])
def test_there_and_back(platform: str, scaler: str, log: bool, tmp_path: Path) -> None:
    fitted = recorded_fit(platform, scaler=scaler, log=log, epsilon=1e-2, missing="median")
    raw = RECORDED[f"raw_{platform}"]
    np.testing.assert_allclose(fitted.inverse(fitted.apply(raw)), fitted.filled(raw), atol=1e-9)
    fitted.write(tmp_path / "scaler.json")
    assert Preprocessing.read(tmp_path / "scaler.json") == fitted


def test_a_row_without_any_value_is_filled_with_training_figures() -> None:
    fitted = recorded_fit("a")
    assert fitted.apply(np.full((1, 6), np.nan)).tolist() == [pytest.approx([0.0] * 6, abs=1e-12)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": [0.0] * 6}, "scale must be positive"),
        ({"fill": [0.0]}, "one entry per feature"),
        ({"centre": ["?"] * 6}, "centre.0"),
        ({"log": {"shift": 0.0, "floor": 1.0}}, "where steps.log is true"),
        ({"more": 1}, "more"),
    ],
)
def test_a_spoiled_file_is_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "scaler.json"
    path.write_text(json.dumps(recorded_fit("a").model_dump(mode="json") | change))
    refused(lambda: Preprocessing.read(path), "scaler.json", said, "a training run has written")


def test_a_list_is_no_scaler(tmp_path: Path) -> None:
    (tmp_path / "scaler.json").write_text("[]")
    refused(lambda: Preprocessing.read(tmp_path / "scaler.json"), "scaler.json: the file")


# Features without values


def test_a_feature_that_nobody_measured_is_refused() -> None:
    values = np.asarray([[1.0, np.nan, np.nan], [2.0, np.nan, np.nan]])
    refused(
        lambda: Preprocessing.from_rows(["x", "y", "z"], values, Steps()), "feature 'y' has no value", "1 more", "drop"
    )
    refused(lambda: Preprocessing.from_rows([], values[:, :0], Steps()), "no client holds one of the two platforms")


@all_scalers
@pytest.mark.parametrize("missing", ["mean", "median", "knn"])
def test_who_trains_alone_takes_from_all_what_it_did_not_measure(scaler: str, missing: str) -> None:
    steps = Steps(scaler=scaler, missing=missing, log=True)
    everyone = Preprocessing.from_rows(["x", "y"], np.asarray([[1.0, 5.0], [2.0, 9.0], [4.0, 6.0]]), steps)
    own = np.asarray([[1.0, np.nan], [3.0, np.nan]])
    alone = Preprocessing.from_rows(["x", "y"], own, steps, otherwise=everyone)
    without = Preprocessing.from_rows(["x"], own[:, :1], steps)
    for name in ("fill", "centre", "scale"):
        assert getattr(alone, name) == (getattr(without, name)[0], getattr(everyone, name)[1])
    nothing = Preprocessing.from_rows(["x", "y"], own[:0], steps, otherwise=everyone)
    assert nothing.model_copy(update={"steps": everyone.steps}) == everyone


@all_scalers
def test_a_constant_feature_is_constant_whatever_the_rounding(scaler: str) -> None:
    parts = [np.full((count, 1), 1.1) for count in (3, 1, 33)]
    fitted = federated_fit(parts, Steps(scaler=scaler, log=True))
    assert fitted.scale == (1.0,) and fitted.apply(parts[0]).tolist() == [[0.0]] * 3
