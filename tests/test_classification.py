"""Metrics of classifiers against recorded reports and scikit-learn, alone and merged over clients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics import MetricCollection

from training.classification import UnitScores, class_metrics
from training.metrics import Measured, Metrics
from training.task import Loss

RECORDED = np.load(Path(__file__).parent / "fixtures" / "vgg3d" / "metrics.npz")


def measured(labels: Any, probabilities: Any, count: int, units: Any = None, parts: int = 1) -> Measured:
    """Measure in several clients and merge."""
    units = np.arange(len(labels)) if units is None else units
    whole = Metrics(MetricCollection({**class_metrics(count), "nucleus": UnitScores("nucleus", count)}))
    for chosen in np.array_split(np.arange(len(labels)), parts):
        one = Metrics(MetricCollection({**class_metrics(count), "nucleus": UnitScores("nucleus", count)}))
        one.collection.update(
            torch.tensor(probabilities[chosen]), torch.tensor(labels[chosen]), units=torch.tensor(units[chosen])
        )
        one.add_loss(Loss(torch.tensor(0.0), len(chosen), {}))
        whole.merge(one.states())
    return whole.compute()


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("case", ["case0", "case1"])
def test_recorded_reports(case: str, parts: int) -> None:
    assert RECORDED["n_cases"] == 2
    expected = {key.removeprefix(f"{case}_"): RECORDED[key] for key in RECORDED.files if key.startswith(case)}
    labels, probabilities = expected["labels"], expected["probs"]
    np.testing.assert_array_equal(probabilities.argmax(1), expected["preds"])
    count = probabilities.shape[1]
    found = measured(labels, probabilities, count, parts=parts)
    names = {"accuracy": "accuracy", "macro_f1": "f1_macro", "macro_precision": "precision_macro",
             "macro_recall": "recall_macro", "weighted_f1": "f1_weighted", "top2": "top2_accuracy"}  # fmt: skip
    for theirs, ours in names.items():
        assert found.values[ours] == pytest.approx(float(expected[theirs]), abs=1e-5), ours
    np.testing.assert_array_equal(found.arrays["confusion_matrix"], expected["confusion"])
    rows = ("precision_per_class", "recall_per_class", "f1_per_class", "support_per_class")
    table = np.stack([found.arrays[row] for row in rows], axis=1)[expected["report_classes"]]
    np.testing.assert_allclose(table, expected["per_class_prf_support"], atol=1e-5)


def test_macro_f1_over_present_and_over_all_classes() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    found = measured(labels, np.eye(5)[predicted], 5)
    assert found.values["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.values["f1_macro_all"] == pytest.approx((2 / 3 + 4 / 5) / 5)
    assert found.values["balanced_accuracy"] == pytest.approx(0.75)
    assert found.arrays["support_per_class"] == [2, 2, 0, 0, 0]


def test_a_predicted_class_that_never_is_true() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    found = measured(labels, np.eye(4)[predicted], 4)
    assert found.values["f1_macro"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert found.values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert found.values["f1_macro_all"] == pytest.approx(
        sk.f1_score(labels, predicted, average="macro", labels=range(4), zero_division=0)
    )


def test_top_2_needs_a_third_class() -> None:
    assert "top2_accuracy" not in class_metrics(2)
    found = measured(np.array([0, 1, 2]), np.array([[0.4, 0.5, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]]), 3)
    assert found.values["top2_accuracy"] == pytest.approx(1 / 3)


def test_a_nucleus_is_what_its_crops_say_on_average() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.45, 0.55], [0.2, 0.8]])
    labels, nuclei = np.array([0, 0, 0, 0, 1]), np.array([7, 7, 7, -3, 5])
    for parts in (1, 2, 5):
        found = measured(labels, probabilities, 2, nuclei, parts)
        assert found.values["accuracy"] == pytest.approx(2 / 5)
        # Means: nucleus 7 (0.567, 0.433) right, nucleus -3 wrong, nucleus 5 right.
        assert found.values["nucleus_accuracy"] == pytest.approx(2 / 3)
        assert found.values["nucleus_f1_macro"] == pytest.approx(2 / 3)
        assert found.values["nucleus_count"] == 3


def test_nuclei_against_scikit_learn() -> None:
    random = np.random.default_rng(0)
    nuclei = random.integers(0, 30, 200)
    labels = (nuclei * 7 % 4).astype(np.int64)
    probabilities = random.dirichlet([1.0] * 4, 200)
    probabilities[np.arange(200), labels] += 0.2
    probabilities /= probabilities.sum(1, keepdims=True)
    found = measured(labels, probabilities, 4, nuclei, parts=3)
    distinct = np.unique(nuclei)
    mean = np.stack([probabilities[nuclei == nucleus].mean(0) for nucleus in distinct])
    truth = distinct * 7 % 4
    assert 0.3 < found.values["nucleus_accuracy"] < 1
    assert found.values["nucleus_accuracy"] == pytest.approx(sk.accuracy_score(truth, mean.argmax(1)))
    assert found.values["nucleus_f1_macro"] == pytest.approx(sk.f1_score(truth, mean.argmax(1), average="macro"))
    report = sk.classification_report(labels, probabilities.argmax(1), output_dict=True, zero_division=0)
    assert found.values["f1_weighted"] == pytest.approx(report["weighted avg"]["f1-score"])


def test_counts_have_no_direction() -> None:
    directions = Metrics(MetricCollection({**class_metrics(3), "nucleus": UnitScores("nucleus", 3)})).directions()
    assert set(directions) == {
        "loss", "accuracy", "f1_macro", "f1_macro_all", "f1_weighted", "precision_macro", "recall_macro",
        "balanced_accuracy", "top2_accuracy", "nucleus_accuracy", "nucleus_f1_macro",
    }  # fmt: skip
