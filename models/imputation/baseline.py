"""What the baselines of imputation share: fit on samples measured on both platforms, impute one from the other."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from models.imputation.folds import numbered

Platform = Literal["a", "b"]
Matrix = npt.NDArray[np.float64]


class Regressor(Protocol):
    """Whatever predicts the features of one platform from those of the other."""

    def predict(self, x_NI: Matrix, /) -> Matrix:
        """Give [N, O] for [N, I]."""
        ...


class Baseline(ABC):
    """Predicts platform B from A and A from B; values are standardised features, computed in float64.

    A subclass says in one hook how the two directions are fitted.
    """

    name: ClassVar[str]
    """What reports call it."""

    def fit(self, train_a: npt.ArrayLike, train_b: npt.ArrayLike, units: Sequence[str] | None = None) -> Self:
        """Fit both directions.

        Args:
            train_a: Training samples on platform A, [N, features of A].
            train_b: The same samples, in the same order, on platform B, [N, features of B].
            units: Biological unit of each sample, which no choice by cross-validation takes apart; by default each is
                its own.

        Raises:
            UserError: The rows do not pair up, or a value is missing or infinite.
        """
        train: dict[Platform, Matrix] = {"a": self._matrix(train_a, "a"), "b": self._matrix(train_b, "b")}
        if len(train["a"]) != len(train["b"]):
            sizes = f"{len(train['a'])} training samples on platform a, {len(train['b'])} on b"
            raise UserError(f"{self.name}: {sizes}; give the samples measured on both, in one order")
        self._units_N = numbered(units, len(train["a"]))
        self._widths = {platform: values.shape[1] for platform, values in train.items()}
        self._regressors = self._fit(train)
        return self

    def impute(self, x_NI: npt.ArrayLike, source: Platform, target: Platform) -> Matrix:
        """Predict the features of `target` for samples measured on `source`, [N, O].

        Raises:
            UserError: Source and target are the same, or the features are not those of the training samples.
        """
        if {source, target} != {"a", "b"}:
            raise UserError(
                f"{self.name}: from {source!r} to {target!r}; source and target are 'a' and 'b' or the reverse"
            )
        x_NI = self._matrix(x_NI, source)
        if x_NI.shape[1] != self._widths[source]:
            counts = f"{x_NI.shape[1]} features on platform {source}, but {self._widths[source]} in training"
            raise UserError(f"{self.name}: {counts}; give the training features in their order")
        return np.asarray(self._regressors[source].predict(x_NI), np.float64)

    @abstractmethod
    def _fit(self, train: Mapping[Platform, Matrix]) -> Mapping[Platform, Regressor]:
        """Give source platform -> what predicts the other one from it."""

    def _matrix(self, values: npt.ArrayLike, platform: Platform) -> Matrix:
        matrix = np.asarray(values, np.float64)
        if matrix.ndim != 2 or not matrix.size:
            raise UserError(f"{self.name}: platform {platform} has shape {matrix.shape}; give [samples, features]")
        if not np.isfinite(matrix).all():
            raise UserError(f"{self.name}: platform {platform} has missing or infinite values; fill them first")
        return matrix


def directions(train: Mapping[Platform, Matrix]) -> dict[Platform, tuple[Matrix, Matrix]]:
    """Give source platform -> inputs and targets."""
    return {"a": (train["a"], train["b"]), "b": (train["b"], train["a"])}
