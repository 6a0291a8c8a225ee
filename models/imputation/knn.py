"""Imputation by k nearest neighbours in the source platform, weighted by a kernel of the distance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from core.errors import UserError
from models.imputation.baseline import Baseline, Matrix, Platform, Regressor, directions
from models.imputation.folds import unit_folds
from models.imputation.neighbours import Indices, nearest, weighted_mean

Kernel = Literal["uniform", "distance", "gaussian", "exponential", "tricube", "epanechnikov", "polynomial"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
COUNTS = (3, 5, 7, 10, 15, 30, 50, 100, 200)
BANDWIDTHS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
FLOOR = 1e-10


@dataclass(frozen=True)
class Neighbourhood:
    """How many neighbours count, and how much.

    Attributes:
        k: Neighbours.
        kernel: Shape of the weights over distance.
        bandwidth: Distance at which a kernel has decayed; `uniform` and `distance` have none.
        bandwidth_relative: Measure distances in those of the k-th neighbour. With thousands of features all distances
            are large, and a kernel of fixed width gives every neighbour the same, smallest weight.
        degree: Power of the polynomial kernel.
    """

    k: int = 10
    kernel: Kernel = "distance"
    bandwidth: float = 1.0
    bandwidth_relative: bool = True
    degree: int = 2

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: A value is out of range.
        """
        if self.kernel not in KERNELS:
            raise UserError(f"knn.kernel = {self.kernel!r}: unknown; choose one of {', '.join(KERNELS)}")
        for name in ("k", "bandwidth", "degree"):
            if not getattr(self, name) > 0:
                raise UserError(f"knn.{name} = {getattr(self, name)}: must be positive")

    def weights(self, distances_NK: Matrix) -> Matrix:
        """Give the weights of neighbours at ascending distances, at least 1e-10 each."""
        if self.bandwidth_relative:
            farthest_N1 = distances_NK[:, -1:]
            distances_NK = distances_NK / np.where(farthest_N1 > 0, farthest_N1, 1)
        return kernel_weights(distances_NK, self.kernel, self.bandwidth, self.degree)


def kernel_weights(distances: Matrix, kernel: Kernel, bandwidth: float, degree: int = 2) -> Matrix:
    """Give the weight at each distance, at least 1e-10."""
    scaled = distances / bandwidth
    inside = np.minimum(scaled, 1)
    match kernel:
        case "uniform":
            weights = np.ones_like(scaled)
        case "distance":
            weights = 1 / np.maximum(distances, FLOOR)
        case "gaussian":
            weights = np.exp(-(scaled**2) / 2)
        case "exponential":
            weights = np.exp(-scaled)
        case "tricube":
            weights = (1 - inside**3) ** 3
        case "epanechnikov":
            weights = 0.75 * (1 - inside**2)
        case "polynomial":
            weights = 1 / (1 + scaled**degree)
    return np.maximum(weights, FLOOR)


def grid(
    counts: Sequence[int] = COUNTS,
    kernels: Sequence[Kernel] = KERNELS,
    bandwidths: Sequence[float] = BANDWIDTHS,
    bandwidth_relative: bool = True,
) -> list[Neighbourhood]:
    """Give the neighbourhoods to choose from; kernels without a bandwidth come once for each count."""
    return [
        Neighbourhood(k, kernel, bandwidth, bandwidth_relative)
        for k in counts
        for kernel in kernels
        for bandwidth in ((1.0,) if kernel in ("uniform", "distance") else bandwidths)
    ]


@dataclass(frozen=True)
class NeighbourMean:
    """Predicts the weighted mean of the targets of the nearest training rows."""

    neighbourhood: Neighbourhood
    train_NI: Matrix
    train_NO: Matrix

    def predict(self, x_MI: Matrix) -> Matrix:
        """Give [M, O] for [M, I]."""
        distances_MK, indices_MK = nearest(self.train_NI, x_MI, self.neighbourhood.k)
        return weighted_mean(self.neighbourhood.weights(distances_MK), indices_MK, self.train_NO)


def cross_validate(x_NI: Matrix, y_NO: Matrix, candidates: Sequence[Neighbourhood], folds: Sequence[Indices]) -> Matrix:
    """Give the R2 of each candidate over all left-out values at once; `folds` are the rows that are left out."""
    largest = max(candidate.k for candidate in candidates)
    squares = np.zeros(len(candidates))
    for left_out in folds:
        kept = np.setdiff1d(np.arange(len(x_NI)), left_out)
        distances, indices = nearest(x_NI[kept], x_NI[left_out], largest)
        for number, candidate in enumerate(candidates):
            weights = candidate.weights(distances[:, : candidate.k])
            predicted = weighted_mean(weights, indices[:, : candidate.k], y_NO[kept])
            squares[number] += ((y_NO[left_out] - predicted) ** 2).sum()
    return np.asarray(1 - squares / ((y_NO - y_NO.mean()) ** 2).sum())


class Knn(Baseline):
    """Nearest neighbours, chosen for each direction by cross-validation on the training samples.

    After `fit`, `chosen` holds the neighbourhood by source platform, and `scores` the R2 of each candidate, where there
    was a choice.
    """

    name: ClassVar[str] = "knn"

    def __init__(self, candidates: Sequence[Neighbourhood] | None = None, folds: int = 5, seed: int = 42) -> None:
        """Take the neighbourhoods to choose from, by default the whole grid; a single one is used as it is."""
        self.candidates = list(grid() if candidates is None else candidates)
        self.folds = folds
        self.seed = seed

    def _fit(self, train: Mapping[Platform, Matrix]) -> Mapping[Platform, Regressor]:
        self.scores: dict[Platform, dict[Neighbourhood, float]] = {}
        self.chosen: dict[Platform, Neighbourhood] = {}
        for source, (x_NI, y_NO) in directions(train).items():
            self.chosen[source] = self._choose(source, x_NI, y_NO)
        return {source: NeighbourMean(self.chosen[source], *pair) for source, pair in directions(train).items()}

    def _choose(self, source: Platform, x_NI: Matrix, y_NO: Matrix) -> Neighbourhood:
        folds = unit_folds(self._units_N, self.folds, self.seed)
        rows = len(x_NI) - (max(map(len, folds)) if len(self.candidates) > 1 else 0)
        possible = [candidate for candidate in self.candidates if candidate.k <= rows]
        if not possible:
            raise UserError(
                f"knn.k: no candidate has at most {rows} neighbours, as many as there are training samples; give more "
                "of them, or leave this method out"
            )
        if len(possible) > 1:
            scores = cross_validate(x_NI, y_NO, possible, folds)
            self.scores[source] = dict(zip(possible, scores.tolist(), strict=True))
            return possible[int(scores.argmax())]
        return possible[0]
