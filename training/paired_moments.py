"""Correlation, explained variance and error of paired columns, from sums that merge exactly over clients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

REDUCTIONS = {
    "count": "sum",
    "target": "sum",
    "predicted": "sum",
    "target_squares": "sum",
    "predicted_squares": "sum",
    "products": "sum",
    "errors": "sum",
    "target_least": "min",
    "predicted_least": "min",
    "target_most": "max",
    "predicted_most": "max",
}
"""Field of `PairedMoments` -> how those of two sets of samples become one."""
MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sum": torch.add, "min": torch.minimum, "max": torch.maximum}
STARTS = {"sum": 0.0, "min": float("inf"), "max": float("-inf")}


@dataclass(frozen=True)
class PairedMoments:
    """Sums over N samples of target and prediction [N, K], in float64; the count is a scalar, all others are [K].

    Values are taken about an agreed centre: where means are large against spreads, sums of squares about zero would
    lose the digits that matter. Extremes tell a constant column from one whose spread is mere rounding. What is
    undefined is so by the rules of `training.regression`, and NaN.
    """

    count: Tensor
    target: Tensor
    predicted: Tensor
    target_squares: Tensor
    predicted_squares: Tensor
    products: Tensor
    errors: Tensor
    target_least: Tensor
    predicted_least: Tensor
    target_most: Tensor
    predicted_most: Tensor

    @classmethod
    def of(cls, target_NK: Tensor, predicted_NK: Tensor, centre_K: Tensor) -> Self:
        """Sum over samples, of which there is at least one."""
        target, predicted = target_NK.double() - centre_K, predicted_NK.double() - centre_K
        return cls(
            count=torch.tensor(len(target), dtype=torch.float64),
            target=target.sum(0),
            predicted=predicted.sum(0),
            target_squares=target.square().sum(0),
            predicted_squares=predicted.square().sum(0),
            products=(target * predicted).sum(0),
            errors=(target - predicted).square().sum(0),
            target_least=target.amin(0),
            predicted_least=predicted.amin(0),
            target_most=target.amax(0),
            predicted_most=predicted.amax(0),
        )

    def merged(self, other: Self) -> Self:
        """Give the moments of both sets of samples."""
        return type(self)(
            **{name: MERGES[kind](getattr(self, name), getattr(other, name)) for name, kind in REDUCTIONS.items()}
        )

    def flattened(self, centre_K: Tensor) -> Self:
        """Give the moments of all values as one column, K = 1."""
        shift = centre_K - centre_K.mean()
        squares = self.count * shift.square()

        def total(sums: Tensor) -> Tensor:
            return sums.sum(0, keepdim=True)

        return type(self)(
            count=self.count * len(shift),
            target=total(self.target + self.count * shift),
            predicted=total(self.predicted + self.count * shift),
            target_squares=total(self.target_squares + 2 * shift * self.target + squares),
            predicted_squares=total(self.predicted_squares + 2 * shift * self.predicted + squares),
            products=total(self.products + shift * (self.target + self.predicted) + squares),
            errors=total(self.errors),
            target_least=(self.target_least + shift).amin(0, keepdim=True),
            predicted_least=(self.predicted_least + shift).amin(0, keepdim=True),
            target_most=(self.target_most + shift).amax(0, keepdim=True),
            predicted_most=(self.predicted_most + shift).amax(0, keepdim=True),
        )

    def pearson(self) -> Tensor:
        """Give the correlation of each column, [K]; NaN where target or prediction is constant."""
        scale = (self._target_spread() * self._predicted_spread()).sqrt()
        varies = (self.target_least != self.target_most) & (self.predicted_least != self.predicted_most)
        return _ratio(self.products - self.target * self.predicted / self.count, scale, varies)

    def r2(self) -> Tensor:
        """Give the coefficient of determination of each column, [K]; NaN where the target is constant."""
        return 1 - _ratio(self.errors, self._target_spread(), self.target_least != self.target_most)

    def mse(self) -> Tensor:
        """Give the mean squared error of each column, [K]; NaN without samples."""
        return self.errors / self.count

    def _target_spread(self) -> Tensor:
        return (self.target_squares - self.target.square() / self.count).clamp(min=0)

    def _predicted_spread(self) -> Tensor:
        return (self.predicted_squares - self.predicted.square() / self.count).clamp(min=0)


def _ratio(above: Tensor, below: Tensor, defined: Tensor) -> Tensor:
    return torch.where(defined & (below > 0), above / below, torch.nan)
