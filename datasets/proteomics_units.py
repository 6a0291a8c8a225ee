"""Whether samples look as if they were in other units than those that the scaling was fitted on.

A logarithm taken or not, another factor: all features move or stretch together, which no biology does.
"""

import math

import numpy as np
import numpy.typing as npt

from datasets.proteomics_steps import Scaler

Array = npt.NDArray[np.float64]
FEWEST_FEATURES, FEWEST_SAMPLES = 5, 5
"""Fewer features have no typical shift, fewer samples no typical spread."""
LEAST_SPREAD, MOST_SPREAD = 0.2, 5.0
SHIFT_IN_SPREADS = 3.0


def other_units(scaled_ND: Array, scaler: Scaler) -> str | None:
    """Say how samples differ from the training samples if by more than sites and cohorts do, else nothing.

    Medians over features are compared: of their shift, 1 unit and the error of a mean being allowed and no more than 3
    times their own spread; and of their spread, between a fifth and five times. A unit is what the scaler divides by,
    half of it for `minmax`, of which a few extreme samples decide, so that spreads tell nothing.

    Args:
        scaled_ND: In scaled units, NaN where a cell is missing.
        scaler: How they were scaled.
    """
    seen = scaled_ND[:, ~np.isnan(scaled_ND).all(axis=0)]
    if not len(seen) or seen.shape[1] < FEWEST_FEATURES:
        return None
    centre_D, spread_D = _typical(seen, scaler)
    shift = float(np.median(np.abs(centre_D)))
    most = 1 + 1 / math.sqrt(len(seen))
    if spread_D is not None and len(seen) >= FEWEST_SAMPLES:
        spread = float(np.median(spread_D))
        if not LEAST_SPREAD <= spread <= MOST_SPREAD:
            return f"vary {spread:.2g} times as much as the training samples"
        most = min(most, SHIFT_IN_SPREADS * spread)
    if shift > most:
        return f"lie {shift:.1f} times the spread of the training samples away from these"
    return None


def _typical(seen_ND: Array, scaler: Scaler) -> tuple[Array, Array | None]:
    """Give centre and spread of each feature, which for the training samples are 0 and 1 by this scaler."""
    if scaler == "minmax":
        return 2 * np.nanmean(seen_ND, axis=0) - 1, None
    if scaler == "zscore":
        return np.nanmean(seen_ND, axis=0), np.nanstd(seen_ND, axis=0)
    low, middle, high = np.nanquantile(seen_ND, (0.25, 0.5, 0.75), axis=0)
    return middle, high - low
