"""Merged metrics equal those over the pooled samples, and scikit-learn's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from torchmetrics import Metric, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy

from core.errors import UserError
from tasks.nicheformer import LabelMap, NicheFormerTask
from training.classification import BalancedAccuracy
from training.metrics import Metrics
from training.statistics import Statistics, Values, merge_statistics
from training.task import Loss

CLASSES = LabelMap(classes=["a", "b", "c", "never"])
TASK = NicheFormerTask(data=Path("none"), random_backbone={})


def observed(seed: int, count: int) -> tuple[Metrics, np.ndarray, np.ndarray, list[float]]:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=draw)
    logits[:, 3] = -9
    truth = torch.randint(0, 3, (count,), generator=draw)
    metrics, losses = Metrics(TASK.metrics(CLASSES)), []
    for part in torch.arange(count).split(4):
        batch = {"label": truth[part]}
        loss = TASK.loss({"logits": logits[part]}, batch)
        losses += [float(loss.total)] * len(part)
        metrics.add_loss(loss)
        TASK.observe(metrics.collection, {"logits": logits[part]}, batch)
    return metrics, truth.numpy(), logits.argmax(1).numpy(), losses


def test_merged_metrics_equal_scikit_learn_over_the_pool() -> None:
    parts = [observed(seed, count) for seed, count in ((0, 7), (1, 30), (2, 1))]
    merged = Metrics(TASK.metrics(CLASSES))
    for metrics, *_ in parts:
        merged.merge(metrics.states())
    measured = merged.compute()
    truth, predicted = (np.concatenate([part[k] for part in parts]) for k in (1, 2))
    assert measured.support == 38
    assert measured.values["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert measured.values["f1_macro"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert measured.values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert measured.values["loss"] == pytest.approx(np.mean(np.concatenate([part[3] for part in parts])))
    assert measured.arrays["confusion_matrix"] == confusion_matrix(truth, predicted, labels=range(4)).tolist()


def test_merging_is_exact_and_an_average_of_averages_is_not() -> None:
    (one, *_), (two, *_) = observed(0, 7), observed(1, 30)
    merged = Metrics(TASK.metrics(CLASSES))
    merged.merge(one.states())
    merged.merge(two.states())
    average = (one.compute().values["f1_macro"] + two.compute().values["f1_macro"]) / 2
    assert merged.compute().values["f1_macro"] != pytest.approx(average, abs=1e-3)
    assert merged.states()["count"] == 37


def test_metrics_without_samples_have_no_values() -> None:
    empty = Metrics(TASK.metrics(CLASSES)).compute()
    assert (empty.values, empty.arrays, empty.support) == ({}, {}, 0)


class Ranks(Metric):
    """A rank correlation needs every value; it comes with a count, which has no direction."""

    higher_is_better = {"spearman": True}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs", default=[], dist_reduce_fx="cat")
        self.add_state("largest", default=torch.tensor(-torch.inf), dist_reduce_fx="max")

    def update(self, pairs: torch.Tensor) -> None:
        self.pairs.append(pairs)
        self.largest = torch.maximum(self.largest, pairs.max())

    def compute(self) -> dict[str, torch.Tensor]:
        pairs = torch.cat(self.pairs) if isinstance(self.pairs, list) else self.pairs
        value = spearmanr(pairs.numpy()).statistic
        return {"spearman": torch.tensor(value), "largest": self.largest, "first": pairs[0]}


def test_values_per_sample_and_extremes_merge_as_over_the_pool() -> None:
    pairs = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    merged = Metrics(MetricCollection({"ranks": Ranks()}, compute_groups=False))
    for part in (pairs[:4], pairs[4:11], pairs[11:]):
        metrics = Metrics(MetricCollection({"ranks": Ranks()}, compute_groups=False))
        for batch in part.split(3):
            metrics.collection.update(batch)
            metrics.add_loss(Loss(torch.tensor(0.0), len(batch), {}))
        merged.merge(metrics.states())
    measured = merged.compute()
    assert measured.values["spearman"] == pytest.approx(spearmanr(pairs.numpy()).statistic, abs=1e-12)
    assert measured.values["largest"] == float(pairs.max())
    assert measured.arrays["first"] == pairs[0].tolist()
    assert merged.directions() == {"loss": False, "spearman": True}
    with pytest.raises(UserError, match="choose one of loss, spearman"):
        merged.higher_is_better("largest")


def test_a_client_without_samples_merges_as_nothing() -> None:
    merged = Metrics(MetricCollection({"ranks": Ranks()}, compute_groups=False))
    merged.merge(merged.states())
    assert (merged.compute().values, merged.count) == ({}, 0)


def test_metrics_that_do_not_merge_are_refused() -> None:
    with pytest.raises(TypeError, match="does not merge"):
        Metrics(MetricCollection({"pearson": PearsonCorrCoef()}, compute_groups=False))


def test_balanced_accuracy_is_scikit_learns_where_a_class_is_predicted_but_never_true() -> None:
    metric = BalancedAccuracy(3)
    metric.update(torch.tensor([0, 2, 1, 1]), torch.tensor([0, 0, 1, 1]))
    assert float(metric.compute()) == pytest.approx(0.75)
    assert float(metric.compute()) == pytest.approx(balanced_accuracy_score([0, 0, 1, 1], [0, 2, 1, 1]))


def test_direction_of_a_metric() -> None:
    metrics = Metrics(MetricCollection({"accuracy": MulticlassAccuracy(3)}, compute_groups=False))
    assert metrics.higher_is_better("accuracy") and not metrics.higher_is_better("loss")
    with pytest.raises(UserError, match="unknown metric; choose one of loss, accuracy"):
        metrics.higher_is_better("auc")


def test_losses_are_weighted_by_samples() -> None:
    metrics = Metrics(MetricCollection({}, compute_groups=False))
    metrics.add_loss(Loss(torch.tensor(1.0), 1, {"kl": torch.tensor(3.0)}))
    metrics.add_loss(Loss(torch.tensor(4.0), 3, {"kl": torch.tensor(5.0)}))
    assert metrics.compute().values == {"loss": pytest.approx(13 / 4), "kl": pytest.approx(18 / 4)}


def test_a_part_of_some_samples_is_their_mean_over_batches_and_clients() -> None:
    one, other, lacking = (Metrics(MetricCollection({}, compute_groups=False)) for _ in range(3))
    one.add_loss(Loss(torch.tensor(1.0), 4, {"cross": torch.tensor(2.0)}, {"cross": torch.tensor(1.0)}))
    one.add_loss(Loss(torch.tensor(1.0), 4, {}))
    other.add_loss(Loss(torch.tensor(1.0), 4, {"cross": torch.tensor(6.0)}, {"cross": torch.tensor(3.0)}))
    lacking.add_loss(Loss(torch.tensor(1.0), 4, {}))
    for metrics in (other, lacking):
        one.merge(metrics.states())
    found = one.compute()
    assert found.values == {"loss": 1.0, "cross": 5.0} and (found.support, found.supports) == (16, {"cross": 4})


def test_statistics_merge_by_rule_in_the_order_of_names() -> None:
    def one(total: float, low: float, high: float, **counts: int) -> Statistics:
        rules = {"sum": total, "min": low, "max": high}
        arrays = {rule: Values(rule=rule, values=[value]) for rule, value in rules.items()}
        return Statistics(arrays=arrays, counts={"labels": counts})

    parts = {"b": one(0.1, -1, 5, x=2), "a": one(0.2, 3, 9, x=1, y=4), "c": one(0.3, 0, 0)}
    merged = merge_statistics(parts)
    assert merged.arrays["sum"].values == [(0.2 + 0.1) + 0.3]
    assert (merged.arrays["min"].values, merged.arrays["max"].values) == ([-1], [9])
    assert merged.counts["labels"] == {"x": 3, "y": 4}
    assert merge_statistics(dict(reversed(parts.items()))) == merged
    assert Statistics.model_validate_json(merged.model_dump_json()) == merged
    with pytest.raises(ValueError, match="different"):
        merged.merge(Statistics())
