"""How well vectors of values are predicted: correlations per column and over all, errors, and a constant baseline.

Ranks do not merge, so the metric keeps the values per sample; what several clients kept is joined, and the result is
that of the pooled samples.
"""

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from core.columns import (
    Matrix,
    check_tables,
    defined_mean,
    mse_by_column,
    pearson_by_column,
    r2_by_column,
    spearman_by_column,
)


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
        check_tables(predicted_BK.shape, target_BK.shape)
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
