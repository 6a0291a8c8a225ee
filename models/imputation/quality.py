"""Quality control of samples: which ones a platform's autoencoder neither rebuilds well nor finds likely."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import percentileofscore

from core.errors import UserError
from models.imputation.baseline import Matrix

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which a sample is anomalous; fit them on training samples to judge new ones."""

    reconstruction_error: float
    negative_log_likelihood: float

    @classmethod
    def fit(cls, reconstruction_error_N: Matrix, log_likelihood_N: Matrix, quantile: float = 0.8) -> Self:
        """Take the quantiles of the error and of the negative log-likelihood.

        Raises:
            UserError: The quantile is not between 0 and 1, or values are missing or do not pair up.
        """
        if not 0 < quantile < 1:
            raise UserError(f"quantile = {quantile}: must lie between 0 and 1")
        error_N, unlikely_N = _paired(reconstruction_error_N, log_likelihood_N)
        return cls(float(np.quantile(error_N, quantile)), float(np.quantile(unlikely_N, quantile)))

    def flag(self, reconstruction_error_N: Matrix, log_likelihood_N: Matrix) -> Flags:
        """Tell which samples lie above both limits, [N].

        Raises:
            UserError: Values are missing or do not pair up.
        """
        error_N, unlikely_N = _paired(reconstruction_error_N, log_likelihood_N)
        return np.asarray((error_N > self.reconstruction_error) & (unlikely_N > self.negative_log_likelihood))


def anomalies(reconstruction_error_N: Matrix, log_likelihood_N: Matrix, quantile: float = 0.8) -> Flags:
    """Flag samples whose error and negative log-likelihood both exceed their quantile among these very samples, [N]."""
    thresholds = Thresholds.fit(reconstruction_error_N, log_likelihood_N, quantile)
    return thresholds.flag(reconstruction_error_N, log_likelihood_N)


def reconstruction_error(x_NI: Matrix, reconstructed_NI: Matrix) -> Matrix:
    """Give the mean squared error of each sample, [N]."""
    return np.asarray(((x_NI - reconstructed_NI) ** 2).mean(axis=1))


def latent_log_likelihood(mean_NL: Matrix) -> Matrix:
    """Give the log-density of each posterior mean under the standard normal prior, in nats, [N]."""
    squares_N = (mean_NL**2).sum(axis=1)
    return np.asarray(-0.5 * (squares_N + mean_NL.shape[1] * math.log(2 * math.pi)))


def sample_table(
    samples: Sequence[str],
    reconstruction_error_N: Matrix,
    log_likelihood_N: Matrix,
    thresholds: Thresholds | None = None,
) -> pd.DataFrame:
    """Give one row per sample, worst first: error and likelihood, the percentile of each, and whether it is flagged.

    Args:
        samples: Ids of the samples.
        reconstruction_error_N: Mean squared error of each.
        log_likelihood_N: Log-likelihood of each.
        thresholds: Limits; by default the 80th percentiles of these very samples.

    Raises:
        UserError: Values are missing or do not pair up.
    """
    error_N, unlikely_N = _paired(reconstruction_error_N, log_likelihood_N)
    if len(samples) != len(error_N):
        raise UserError(f"quality: {len(samples)} sample ids for {len(error_N)} values; give one for each")
    thresholds = thresholds or Thresholds.fit(error_N, -unlikely_N)
    table = pd.DataFrame(
        {
            "sample": list(samples),
            "reconstruction_error": error_N,
            "log_likelihood": -unlikely_N,
            "error_percentile": percentileofscore(error_N, error_N),
            "unlikeliness_percentile": percentileofscore(unlikely_N, unlikely_N),
            "anomaly": thresholds.flag(error_N, -unlikely_N),
        }
    )
    order = ["anomaly", "reconstruction_error"]
    return table.sort_values(order, ascending=False, kind="stable", ignore_index=True)


def _paired(reconstruction_error_N: Matrix, log_likelihood_N: Matrix) -> tuple[Matrix, Matrix]:
    """Give the error and the negative log-likelihood."""
    error_N, likelihood_N = (np.asarray(values, np.float64) for values in (reconstruction_error_N, log_likelihood_N))
    if error_N.ndim != 1 or error_N.shape != likelihood_N.shape or not len(error_N):
        shapes = f"shapes {error_N.shape} and {likelihood_N.shape}"
        raise UserError(f"quality: errors and likelihoods have {shapes}; give one of each per sample")
    for name, values in (("reconstruction errors", error_N), ("log-likelihoods", likelihood_N)):
        if np.isnan(values).any():
            raise UserError(f"quality: {int(np.isnan(values).sum())} {name} are missing; leave those samples out")
    return error_N, -likelihood_N
