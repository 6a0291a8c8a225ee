"""Metrics of classifiers: torchmetrics' own by the names that reports use, and those that it has with another meaning.

All add up over clients. "Macro" averages over the classes that occur in truth or prediction, as scikit-learn does.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score


class BalancedAccuracy(MulticlassConfusionMatrix):
    """Mean recall over the classes that occur in the truth, as scikit-learn's `balanced_accuracy_score`.

    Torchmetrics' macro accuracy counts a class that is predicted but never true as recall 0.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Give the mean recall; NaN without samples."""
        counts = self.confmat.double()
        support = counts.sum(dim=1)
        recall = counts.diagonal() / support
        return torch.nanmean(recall).float()


class F1OverAllClasses(MulticlassConfusionMatrix):
    """Mean F1 over all classes there are; one that occurs neither in truth nor in prediction counts as 0.

    Comparable between clients that lack different classes, where the macro F1 over present classes is not.
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Give the mean over the classes of the label map."""
        counts = self.confmat.double()
        f1 = 2 * counts.diagonal() / (counts.sum(dim=0) + counts.sum(dim=1))
        return f1.nan_to_num().mean().float()


class Support(MulticlassConfusionMatrix):
    """Number of samples of each class."""

    def compute(self) -> Tensor:
        """Give the counts, shape [classes]."""
        return self.confmat.sum(dim=1)


class UnitScores(Metric):
    """Accuracy and macro F1 of units (nuclei, slides), each predicted by the mean probability of its samples.

    Keeps probabilities per sample, since which samples share a unit is only known when all are there.
    """

    full_state_update = False
    unit: list[Tensor]
    probability: list[Tensor]
    label: list[Tensor]

    def __init__(self, name: str, count: int) -> None:
        """Name the unit, as in `nucleus_accuracy`; `count` is the number of classes."""
        super().__init__()
        self.name, self.count = name, count
        for state in ("unit", "probability", "label"):
            self.add_state(state, [], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> dict[str, bool]:  # type: ignore[override]
        """Say that more is better."""
        return {f"{self.name}_accuracy": True, f"{self.name}_f1_macro": True}

    def update(self, preds: Tensor, target: Tensor, units: Tensor) -> None:
        """Add samples.

        Args:
            preds: Probabilities, shape [samples, classes].
            target: Classes, shape [samples]; equal within a unit.
            units: Numbers that identify the units, shape [samples].
        """
        self.probability.append(preds)
        self.label.append(target)
        self.unit.append(units)

    def compute(self) -> dict[str, Tensor]:
        """Give both scores, and how many units there are."""
        _, unit_of_sample = torch.unique(torch.cat(list(self.unit)), return_inverse=True)
        units = int(unit_of_sample.max()) + 1
        probability, label = torch.cat(list(self.probability)).double(), torch.cat(list(self.label))
        mean = torch.zeros(units, self.count, dtype=torch.float64).index_add_(0, unit_of_sample, probability)
        mean /= unit_of_sample.bincount()[:, None]
        target = torch.zeros(units, dtype=label.dtype).index_copy_(0, unit_of_sample, label)
        return {
            f"{self.name}_accuracy": multiclass_accuracy(mean, target, self.count, average="micro"),
            f"{self.name}_f1_macro": multiclass_f1_score(mean, target, self.count, average="macro"),
            f"{self.name}_count": torch.tensor(units),
        }


def class_columns(scores_NK: Tensor, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Give what a table says of classified samples: the likeliest class, and the probability of each."""
    predicted_N = np.asarray(classes)[scores_NK.argmax(dim=1).numpy()]
    return {"predicted": predicted_N, **{f"p_{name}": scores_NK[:, at].numpy() for at, name in enumerate(classes)}}


def class_metrics(count: int) -> dict[str, Metric]:
    """Give what a report on single-label classification holds; each is updated with (probabilities, labels).

    Args:
        count: Number of classes. With two, top-2 accuracy would always be 1 and is left out.
    """
    top2: dict[str, Metric] = {"top2_accuracy": MulticlassAccuracy(count, top_k=2, average="micro")}
    return {
        "accuracy": MulticlassAccuracy(count, average="micro"),
        "f1_macro": MulticlassF1Score(count, average="macro"),
        "f1_macro_all": F1OverAllClasses(count),
        "f1_weighted": MulticlassF1Score(count, average="weighted"),
        "precision_macro": MulticlassPrecision(count, average="macro"),
        "recall_macro": MulticlassRecall(count, average="macro"),
        "balanced_accuracy": BalancedAccuracy(count),
        **(top2 if count > 2 else {}),
        "precision_per_class": MulticlassPrecision(count, average="none"),
        "recall_per_class": MulticlassRecall(count, average="none"),
        "f1_per_class": MulticlassF1Score(count, average="none"),
        "support_per_class": Support(count),
        "confusion_matrix": MulticlassConfusionMatrix(count),
    }
