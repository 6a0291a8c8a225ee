"""Imputation by ridge regression of all features of one platform on all of the other: simple, and hard to beat."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from sklearn.linear_model import RidgeCV

from models.imputation.baseline import Baseline, Matrix, Platform, Regressor, directions
from models.imputation.folds import unit_folds

ALPHAS = tuple(np.logspace(-1, 5, 7).tolist())


class Ridge(Baseline):
    """Ridge regression; its penalty has the least leave-one-out error on the training samples, for each direction.

    Where some samples are of one unit, whole units are left out, in folds. After `fit`, `chosen` holds the penalty by
    source platform.
    """

    name: ClassVar[str] = "ridge"

    def __init__(self, alphas: Sequence[float] = ALPHAS, folds: int = 5, seed: int = 42) -> None:
        """Take the penalties to choose from, and how whole units are left out."""
        self.alphas, self.folds, self.seed = alphas, folds, seed

    def _fit(self, train: Mapping[Platform, Matrix]) -> Mapping[Platform, Regressor]:
        fitted = {source: self._chosen().fit(*pair) for source, pair in directions(train).items()}
        self.chosen = {source: float(model.alpha_) for source, model in fitted.items()}
        return fitted

    def _chosen(self) -> RidgeCV:
        folds = unit_folds(self._units_N, self.folds, self.seed)
        if int(self._units_N.max()) + 1 == len(self._units_N) or len(folds) == 1:
            return RidgeCV(alphas=self.alphas)
        everyone = np.arange(len(self._units_N))
        splits = [(np.setdiff1d(everyone, left_out), left_out) for left_out in folds]
        return RidgeCV(alphas=self.alphas, cv=splits, scoring="neg_mean_squared_error")
