"""Imputation by ridge regression of all features of one platform on all of the other: simple, and hard to beat."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from sklearn.linear_model import RidgeCV

from models.imputation.baseline import Baseline, Matrix, Platform, Regressor, directions

ALPHAS = tuple(np.logspace(-1, 5, 7).tolist())


class Ridge(Baseline):
    """Ridge regression; its penalty has the least leave-one-out error on the training samples, for each direction.

    After `fit`, `chosen` holds the penalty by source platform.
    """

    name: ClassVar[str] = "ridge"

    def __init__(self, alphas: Sequence[float] = ALPHAS) -> None:
        """Take the penalties to choose from."""
        self.alphas = alphas

    def _fit(self, train: Mapping[Platform, Matrix]) -> Mapping[Platform, Regressor]:
        fitted = {source: RidgeCV(alphas=self.alphas).fit(*pair) for source, pair in directions(train).items()}
        self.chosen = {source: float(model.alpha_) for source, model in fitted.items()}
        return fitted
