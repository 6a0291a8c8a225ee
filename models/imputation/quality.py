"""Quality control of samples: which ones a platform's autoencoder neither rebuilds well nor finds likely."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import percentileofscore

from core.errors import UserError
from models.imputation.baseline import Matrix

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which a new sample is anomalous, from others that a network has not learned from."""

    reconstruction_error: float
    negative_log_likelihood: float

    def flag(self, reconstruction_error_N: Matrix, log_likelihood_N: Matrix) -> Flags:
        """Tell which samples lie above both limits, [N].

        Raises:
            UserError: Values are missing or do not pair up.
        """
        error_N, unlikely_N = _paired(reconstruction_error_N, log_likelihood_N)
        return np.asarray((error_N > self.reconstruction_error) & (unlikely_N > self.negative_log_likelihood))


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
    """Give one row per sample, worst first: error and likelihood, and the percentile of each among these samples.

    Args:
        samples: Ids of the samples.
        reconstruction_error_N: Mean squared error of each.
        log_likelihood_N: Log-likelihood of each.
        thresholds: Limits from other samples; with these the column `anomaly` says which samples exceed both.

    Raises:
        UserError: Values are missing or do not pair up.
    """
    error_N, unlikely_N = _paired(reconstruction_error_N, log_likelihood_N)
    if len(samples) != len(error_N):
        raise UserError(f"quality: {len(samples)} sample ids for {len(error_N)} values; give one for each")
    table = pd.DataFrame(
        {
            "sample": list(samples),
            "reconstruction_error": error_N,
            "log_likelihood": -unlikely_N,
            "error_percentile": percentileofscore(error_N, error_N),
            "unlikeliness_percentile": percentileofscore(unlikely_N, unlikely_N),
        }
    )
    order = ["reconstruction_error"]
    if thresholds is not None:
        table["anomaly"] = thresholds.flag(error_N, -unlikely_N)
        order.insert(0, "anomaly")
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
