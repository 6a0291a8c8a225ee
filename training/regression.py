"""How well vectors of values are predicted: correlations per column and over all, errors, and a constant baseline.

Ranks do not merge, so the metric keeps the values per sample; what several clients kept is joined, and the result is
that of the pooled samples.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

Matrix = npt.NDArray[np.float64]


class RegressionScores(Metric):
    """Everything said of predictions [N, K], in the units of the targets, in float64.

    `compute` gives, over columns where they are defined, mean `spearman`, `pearson` and `r2`; over samples, the mean
    `samplewise_spearman` (of the columns of one sample); `mse` and `mae`; `baseline_mse`, of the training means as
    prediction, and `skill`, 1 - mse / baseline_mse; `undefined_genes`, the columns without a rank correlation; and the
    arrays `spearman_per_gene`, `pearson_per_gene`, `mse_per_gene`, `r2_per_gene`, where NaN stands for undefined.
    """

    higher_is_better = MappingProxyType(  # type: ignore[assignment]
        {
            "spearman": True,
            "pearson": True,
            "samplewise_spearman": True,
            "mse": False,
            "mae": False,
            "r2": True,
            "skill": True,
        }
    )
    full_state_update = False
    target: list[Tensor]
    predicted: list[Tensor]
    baseline_squares: Tensor

    def __init__(self, training_mean_K: Matrix, **settings: Any) -> None:
        """Take the training means, which the baseline predicts for every sample; [K]."""
        super().__init__(**settings)
        self.training_mean = torch.as_tensor(training_mean_K, dtype=torch.float64)
        self.add_state("target", default=[], dist_reduce_fx="cat")
        self.add_state("predicted", default=[], dist_reduce_fx="cat")
        self.add_state("baseline_squares", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted_BK: Tensor, target_BK: Tensor) -> None:
        """Keep a batch.

        Raises:
            ValueError: The shapes differ, or are not [samples, columns of the training means].
        """
        _check(predicted_BK.shape, target_BK.shape)
        if target_BK.shape[1] != len(self.training_mean):
            raise ValueError(f"{target_BK.shape[1]} columns, but {len(self.training_mean)} training means")
        target = target_BK.double()
        self.target.append(target)
        self.predicted.append(predicted_BK.double())
        self.baseline_squares = self.baseline_squares + (target - self.training_mean).square().sum()

    def compute(self) -> dict[str, Tensor]:
        """Give scalars and arrays by name."""
        target_NK, predicted_NK = (dim_zero_cat(kept).numpy() for kept in (self.target, self.predicted))
        spearman_K, pearson_K = spearman_by_column(target_NK, predicted_NK), pearson_by_column(target_NK, predicted_NK)
        mse_K, r2_K = mse_by_column(target_NK, predicted_NK), r2_by_column(target_NK, predicted_NK)
        baseline = float(self.baseline_squares) / target_NK.size
        mse = float(mse_K.mean())
        values: dict[str, float | Matrix] = {
            "spearman": defined_mean(spearman_K),
            "pearson": defined_mean(pearson_K),
            "samplewise_spearman": defined_mean(spearman_by_column(target_NK.T, predicted_NK.T)),
            "mse": mse,
            "mae": float(np.abs(target_NK - predicted_NK).mean()),
            "r2": defined_mean(r2_K),
            "baseline_mse": baseline,
            "skill": 1 - mse / baseline if baseline else np.nan,
            "undefined_genes": float(np.isnan(spearman_K).sum()),
            "spearman_per_gene": spearman_K,
            "pearson_per_gene": pearson_K,
            "mse_per_gene": mse_K,
            "r2_per_gene": r2_K,
        }
        return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}


def pearson_by_column(one_NK: Matrix, other_NK: Matrix) -> Matrix:
    """Give the correlation of each column with its partner, [K]; NaN where one is constant or there is one sample.

    Raises:
        ValueError: The shapes differ or are not two-dimensional.
    """
    _check(one_NK.shape, other_NK.shape)
    one, other = (np.asarray(values, np.float64) for values in (one_NK, other_NK))
    varies = (one != one[:1]).any(axis=0) & (other != other[:1]).any(axis=0)
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    scale = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return _ratio((one * other).sum(axis=0), scale, varies & (scale > 0))


def spearman_by_column(one_NK: Matrix, other_NK: Matrix) -> Matrix:
    """Give the rank correlation of each column with its partner, ties sharing their mean rank, [K].

    Raises:
        ValueError: The shapes differ or are not two-dimensional.
    """
    _check(one_NK.shape, other_NK.shape)
    return pearson_by_column(rankdata(one_NK, axis=0), rankdata(other_NK, axis=0))


def mse_by_column(target_NK: Matrix, predicted_NK: Matrix) -> Matrix:
    """Give the mean squared error of each column, [K]."""
    _check(target_NK.shape, predicted_NK.shape)
    return np.asarray(((target_NK - predicted_NK) ** 2).mean(axis=0), np.float64)


def r2_by_column(target_NK: Matrix, predicted_NK: Matrix) -> Matrix:
    """Give the coefficient of determination of each column, [K]; NaN where the target is constant."""
    _check(target_NK.shape, predicted_NK.shape)
    spread = ((target_NK - target_NK.mean(axis=0)) ** 2).mean(axis=0)
    varies = (target_NK != target_NK[:1]).any(axis=0) & (spread > 0)
    return np.asarray(1 - _ratio(mse_by_column(target_NK, predicted_NK), spread, varies), np.float64)


def defined_mean(values: Matrix) -> float:
    """Give the mean of what is not NaN; NaN where nothing is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _ratio(above: Matrix, below: Matrix, defined: npt.NDArray[np.bool_]) -> Matrix:
    return np.asarray(np.divide(above, below, out=np.full(below.shape, np.nan), where=defined), np.float64)


def _check(one: Sequence[int], other: Sequence[int]) -> None:
    if len(one) != 2 or one != other:
        raise ValueError(f"shapes {tuple(one)} and {tuple(other)}: give two equal ones, [samples, columns]")
