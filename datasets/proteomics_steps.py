"""The steps that turn measured abundances into what a network sees: missing cells, logarithm, scaling.

Facts of the steps: Cross-platform proteomics imputation (cpiVAE), whose arithmetic they keep; where its order of steps
lets validation and test rows into the fit, ours does not.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from sklearn.impute import KNNImputer

Array = npt.NDArray[np.float64]
Missing = Literal["mean", "median", "knn", "drop"]
Scaler = Literal["zscore", "minmax", "robust"]
NEIGHBOURS = 5


class Steps(BaseModel):
    """What is done to one platform."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    missing: Missing = "mean"
    """Missing cells: mean or median of the feature over the training rows; `knn`, mean of the 5 nearest training rows
    of the same client; `drop`, rows with a missing cell are left out (on new data the mean stands in)."""
    log: bool = False
    """Natural logarithm of x + shift; the shift makes the smallest training value positive."""
    epsilon: float = Field(1e-8, gt=0)
    """What the smallest training value becomes where it is not positive, in units of the data."""
    scaler: Scaler = "zscore"
    """By feature: mean and population deviation; minimum and range; median and quartile range."""
    alpha: float = Field(0.005, ge=0, le=0.1)
    """Relative error of medians and quartiles, see `datasets.quantile_sketch`. With 0 they are exact, but then the
    values themselves are what clients give away."""

    @property
    def needs_quantiles(self) -> bool:
        """Whether medians or quartiles are asked for."""
        return self.missing == "median" or self.scaler == "robust"


class Log(BaseModel):
    """Natural logarithm of max(x + shift, floor)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift: float
    """0, or what lifts the smallest training value to epsilon."""
    floor: float = Field(gt=0)
    """Smallest argument of the logarithm: epsilon, or the smallest of the training values where that is less."""

    @classmethod
    def fitted(cls, minimum: float, epsilon: float) -> "Log":
        """Take the shift from the smallest training value of the platform."""
        shift = 0.0 if minimum > 0 else epsilon - minimum
        lowest = minimum + shift  # Rounded: beside a large minimum, epsilon may be lost.
        return cls(shift=shift, floor=min(epsilon, lowest) if lowest > 0 else epsilon)

    def forward(self, values: Array) -> Array:
        """Take the logarithm; NaN stays."""
        return np.asarray(np.log(np.maximum(values + self.shift, self.floor)))

    def inverse(self, values: Array) -> Array:
        """Undo `forward`, except where it had to raise x + shift to the floor."""
        return np.asarray(np.exp(values) - self.shift)


def nearest_fill(train_MD: Array, rows_ND: Array, otherwise_D: Array) -> Array:
    """Fill missing cells with the mean over the 5 nearest training rows that have the feature.

    The rule is that of Troyanskaya et al. 2001 (KNNimpute), with equal weights; distances are Euclidean over the
    features that both rows have. The training rows stay where they are: nothing of them is stored, so only their
    holder can fill in this way.

    Args:
        train_MD: Training rows of the same client, NaN where missing; M may be 0.
        rows_ND: Rows to fill, NaN where missing.
        otherwise_D: Stands in for features that no training row has.
    """
    known = ~np.isnan(train_MD).all(axis=0) if len(train_MD) else np.zeros(train_MD.shape[1], dtype=bool)
    filled = np.where(np.isnan(rows_ND), otherwise_D, rows_ND)
    if known.any() and len(rows_ND):
        imputer = KNNImputer(n_neighbors=NEIGHBOURS).fit(train_MD[:, known])
        filled[:, known] = imputer.transform(rows_ND[:, known])
    return np.asarray(filled)
