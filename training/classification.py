"""Metrics of classifiers that torchmetrics has with another meaning."""

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


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
