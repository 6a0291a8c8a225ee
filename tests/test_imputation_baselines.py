"""Imputation without a network: recorded numbers, scikit-learn, cases by hand, and input that does not fit."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge as PlainRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from models.imputation.baseline import Baseline
from models.imputation.folds import numbered, unit_folds
from models.imputation.knn import Kernel, Knn, Neighbourhood, cross_validate, grid, kernel_weights
from models.imputation.ridge import Ridge
from models.imputation.wnn import Wnn, bandwidths, gaussian_mean, neighbour_graph, strongest
from tests.refusals import refused

RECORDED = dict(np.load(Path(__file__).parent / "fixtures" / "imputation" / "baselines.npz"))
TRAIN_A, TRAIN_B = RECORDED["train_a"], RECORDED["train_b"]
TEST = {"a": RECORDED["test_a"], "b": RECORDED["test_b"]}
KERNEL_CASES = sorted(name for name in RECORDED if name.startswith("kernel_") and name != "kernel_distances")
KNN_CASES = sorted(name for name in RECORDED if name.startswith("knn_"))
EACH = [Knn([Neighbourhood(5)]), Wnn(), Ridge()]


@pytest.mark.parametrize("case", KERNEL_CASES)
def test_kernels_are_the_recorded_ones(case: str) -> None:
    _, kernel, bandwidth = case.split("_")
    found = kernel_weights(RECORDED["kernel_distances"], kernel, float(bandwidth.removeprefix("bw")))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, RECORDED[case], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", KNN_CASES)
def test_neighbour_means_are_the_recorded_ones(case: str) -> None:
    _, kernel, k, bandwidth, source, _, target = case.split("_")
    one = Neighbourhood(int(k[1:]), kernel, float(bandwidth[2:]), bandwidth_relative=False)  # type: ignore[arg-type]
    imputed = Knn([one]).fit(TRAIN_A, TRAIN_B).impute(TEST[source], source, target)  # type: ignore[arg-type]
    np.testing.assert_allclose(imputed, RECORDED[case], rtol=0, atol=1e-9)


def test_weighted_neighbours_are_the_recorded_ones() -> None:
    k, union, components, k_weight, seed = RECORDED["wnn_params_n_neighbors_union_pca_kweight_seed"].tolist()
    wnn = Wnn(k, union, components, k_weight, seed).fit(TRAIN_A, TRAIN_B)
    for platform in ("a", "b"):
        np.testing.assert_allclose(wnn.weight[platform], RECORDED[f"wnn_weight_{platform}"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(wnn.bandwidth[platform], RECORDED[f"wnn_bandwidth_{platform}"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(wnn.impute(TEST["a"], "a", "b"), RECORDED["wnn_a_to_b"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(wnn.impute(TEST["b"], "b", "a"), RECORDED["wnn_b_to_a"], rtol=0, atol=1e-9)
    gaussian = gaussian_mean(TRAIN_A, TRAIN_B, TEST["a"], k_weight)
    np.testing.assert_allclose(gaussian, RECORDED["gkr_pred_a_to_b"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "tricube", "epanechnikov", "polynomial"])
def test_a_relative_bandwidth_knows_no_unit(kernel: Kernel) -> None:
    relative, fixed = ([Neighbourhood(6, kernel, 0.8, bandwidth_relative=kind)] for kind in (True, False))
    one, other = (Knn(relative).fit(TRAIN_A * scale, TRAIN_B).impute(TEST["a"] * scale, "a", "b") for scale in (1, 1e3))
    np.testing.assert_allclose(one, other, atol=1e-9)
    uniform = Knn([Neighbourhood(6, "uniform")]).fit(TRAIN_A, TRAIN_B).impute(TEST["a"], "a", "b")
    far = Knn(fixed).fit(TRAIN_A * 1e6, TRAIN_B).impute(TEST["a"] * 1e6, "a", "b")
    assert np.abs(one - uniform).max() > 0.01
    if kernel != "polynomial":
        np.testing.assert_allclose(far, uniform, atol=1e-9)


def test_cross_validation_is_that_of_scikit_learn() -> None:
    folds = unit_folds(numbered(None, len(TRAIN_A)), 5, 7)
    fold = np.empty(len(TRAIN_A), int)
    for number, left_out in enumerate(folds):
        fold[left_out] = number
    candidates = [Neighbourhood(4, "uniform"), Neighbourhood(9, "uniform"), Neighbourhood(6, "distance")]
    expected = []
    for one in candidates:
        model = KNeighborsRegressor(one.k, weights=one.kernel)
        predicted = cross_val_predict(model, TRAIN_A, TRAIN_B, cv=PredefinedSplit(fold))
        expected.append(r2_score(TRAIN_B.ravel(), predicted.ravel()))
    np.testing.assert_allclose(cross_validate(TRAIN_A, TRAIN_B, candidates, folds), expected, atol=1e-9)


def test_the_best_neighbourhood_is_chosen_for_each_direction() -> None:
    candidates = grid((3, 10, 200), ("uniform", "gaussian"), (0.5, 1.0))
    knn = Knn(candidates).fit(TRAIN_A, TRAIN_B)
    assert len(candidates) == 9 and len(knn.scores["a"]) == 6, "200 neighbours are more than there are"
    for source in ("a", "b"):
        assert knn.scores[source][knn.chosen[source]] == max(knn.scores[source].values())
    again = Knn(candidates).fit(TRAIN_A, TRAIN_B)
    assert again.scores == knn.scores and again.chosen == knn.chosen
    alone = Knn([knn.chosen["a"]]).fit(TRAIN_A, TRAIN_B)
    np.testing.assert_array_equal(alone.impute(TEST["a"], "a", "b"), knn.impute(TEST["a"], "a", "b"))


def test_a_unit_is_never_on_both_sides_of_a_fold() -> None:
    names = [f"donor {number // 4}" for number in range(18)]
    folds = unit_folds(numbered(names, 18), 3, 7)
    assert sorted(np.concatenate(folds).tolist()) == list(range(18)) and len(folds) == 3
    owners = [{names[row] for row in fold} for fold in folds]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 5


def test_repeats_of_a_donor_do_not_choose_themselves() -> None:
    """Four equal samples per donor, and nothing to learn: among repeats the smallest neighbourhood would seem best."""
    random = np.random.default_rng(0)
    donors = [(random.normal(size=5), random.normal(size=4)) for _ in range(30)]
    a, b = (np.repeat(np.stack([donor[place] for donor in donors]), 4, axis=0) for place in (0, 1))
    units = [f"donor {number // 4}" for number in range(120)]
    candidates = [Neighbourhood(3), Neighbourhood(80)]
    alone, grouped = (Knn(candidates).fit(a, b, one) for one in (None, units))
    assert {alone.chosen[p].k for p in ("a", "b")} == {3} and {grouped.chosen[p].k for p in ("a", "b")} == {80}
    assert Ridge().fit(a, b, units).chosen["a"] > Ridge().fit(a, b).chosen["a"]


def test_the_whole_grid() -> None:
    assert len(grid()) == len(set(grid())) == 9 * (2 + 5 * 6)


def test_ridge_takes_the_penalty_of_least_leave_one_out_error() -> None:
    alphas = (0.1, 1.0, 10.0, 100.0)
    ridge = Ridge(alphas).fit(TRAIN_A, TRAIN_B)
    errors = [
        ((cross_val_predict(PlainRidge(alpha), TRAIN_A, TRAIN_B, cv=LeaveOneOut()) - TRAIN_B) ** 2).sum()
        for alpha in alphas
    ]
    assert ridge.chosen["a"] == alphas[int(np.argmin(errors))]
    centred_a, centred_b = TRAIN_A - TRAIN_A.mean(axis=0), TRAIN_B - TRAIN_B.mean(axis=0)
    penalised = centred_a.T @ centred_a + ridge.chosen["a"] * np.eye(12)
    by_hand = (TEST["a"] - TRAIN_A.mean(axis=0)) @ np.linalg.solve(penalised, centred_a.T @ centred_b)
    np.testing.assert_allclose(ridge.impute(TEST["a"], "a", "b"), by_hand + TRAIN_B.mean(axis=0), atol=1e-9)


def test_more_penalty_for_noise_than_for_a_linear_map() -> None:
    random = np.random.default_rng(0)
    mapped = TRAIN_A @ random.normal(size=(12, 5))
    assert Ridge().fit(TRAIN_A, mapped).chosen["a"] == pytest.approx(0.1)
    assert Ridge().fit(TRAIN_A, random.normal(size=(110, 5))).chosen["a"] > 100


def test_neighbours_of_four_points_by_hand() -> None:
    points = np.array([[1.0, 0], [2.0, 0.1], [0, 1.0], [0.1, 3.0]])
    graph = neighbour_graph(points, 2)
    np.testing.assert_array_equal(graph.toarray(), [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    near, far = np.linalg.norm(points[0] - points[1]), np.linalg.norm(points[2] - points[3])
    np.testing.assert_allclose(bandwidths(points, graph, 2), np.array([near, near, far, far]) / 2)


def test_the_joint_graph_keeps_the_strongest_and_leaves_a_lost_row_as_it_is() -> None:
    scores = neighbour_graph(np.eye(3) + 0.1, 3)
    scores.data[:] = [3.0, 1.0, 0.0, 0.0, 2.0, 6.0]
    np.testing.assert_array_equal(strongest(scores, 1).toarray(), [[0, 1, 0], [0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(strongest(scores, 2).toarray(), [[0, 0.75, 0.25], [0, 1, 0], [0.25, 0.75, 0]])


@pytest.mark.parametrize("baseline", EACH, ids=lambda one: one.name)
def test_every_baseline_imputes_both_ways_and_repeats_itself(baseline: Baseline) -> None:
    baseline.fit(TRAIN_A, TRAIN_B)
    for source, target, width in (("a", "b", 10), ("b", "a", 12)):
        imputed = baseline.impute(TEST[source], source, target)
        assert imputed.shape == (25, width) and np.isfinite(imputed).all()
        assert r2_score(TEST[target], imputed, multioutput="variance_weighted") > 0.2
        np.testing.assert_allclose(baseline.impute(TEST[source][3:4], source, target), imputed[3:4], atol=1e-9)
        again = type(baseline)().fit(TRAIN_A.tolist(), TRAIN_B) if baseline.name != "knn" else baseline
        np.testing.assert_array_equal(again.impute(TEST[source], source, target), imputed)


@pytest.mark.parametrize("baseline", EACH, ids=lambda one: one.name)
def test_samples_that_coincide_do_no_harm(baseline: Baseline) -> None:
    same = [0] * 30 + [1] * 5
    baseline.fit(TRAIN_A[same], TRAIN_B[same])
    imputed = baseline.impute(TRAIN_A[[0]], "a", "b")
    np.testing.assert_allclose(imputed, TRAIN_B[[0]], atol=0.15)


@pytest.mark.parametrize("baseline", EACH, ids=lambda one: one.name)
def test_what_does_not_fit_is_refused(baseline: Baseline) -> None:
    name = baseline.name
    refused(lambda: baseline.fit(TRAIN_A, TRAIN_B[:9]), name, "110", "9", "one order")
    refused(lambda: baseline.fit(TRAIN_A[0], TRAIN_B), name, "platform a", "(12,)")
    refused(lambda: baseline.fit(TRAIN_A, np.where(TRAIN_B > 2, np.nan, TRAIN_B)), name, "platform b", "missing")
    baseline.fit(TRAIN_A, TRAIN_B)
    refused(lambda: baseline.impute(TEST["b"], "a", "b"), name, "10 features", "12 in training")
    refused(lambda: baseline.impute(TEST["a"], "a", "a"), name, "'a' to 'a'")


def test_settings_out_of_range_are_refused() -> None:
    refused(lambda: Neighbourhood(kernel="box"), "knn.kernel = 'box'", "epanechnikov")  # type: ignore[arg-type]
    refused(lambda: Neighbourhood(bandwidth=0.0), "knn.bandwidth = 0.0", "positive")
    refused(lambda: Neighbourhood(k=0), "knn.k = 0")
    refused(lambda: Knn([Neighbourhood(111)]).fit(TRAIN_A, TRAIN_B), "knn.k", "110")
    refused(lambda: Wnn(n_neighbors=1), "wnn.n_neighbors = 1")
    refused(lambda: Wnn(k_weight=0), "wnn.k_weight = 0")
