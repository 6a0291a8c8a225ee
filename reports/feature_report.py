"""Every feature's agreement of prediction and truth as a table, and what is said of all features together.

All follows from the stored predictions, in their units.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import beta

from core.columns import Matrix, mse_by_column, pearson_by_column, r2_by_column
from reports.predicted import Predicted, column_names

COLUMNS = (
    "feature",
    "r2",
    "correlation",
    "p_value",
    "rmse",
    "mae",
    "target_mean",
    "predicted_mean",
    "target_sd",
    "predicted_sd",
    "target_range",
    "predicted_range",
    "range_ratio",
)
R2_LEVELS = (0.3, 0.5, 0.7)
CORRELATION_LEVELS = (0.6, 0.8)


def feature_tables(
    places: Iterable[tuple[Mapping[str, Any], Predicted, Sequence[str]]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give a row per place and feature, and a row per place; empty where predictions are no numbers per feature.

    Args:
        places: Columns that name a model and a test set, what was predicted there, and the names of the features.
    """
    each, together = [pd.DataFrame()], []
    for place, predicted, names in places:
        for part, features, target_NK, predicted_NK in _parts(predicted, names):
            where = {**place, "part": part}
            each.append(feature_table(features, target_NK, predicted_NK).assign(**where)[[*where, *COLUMNS]])
            together.append({**where, "samples": len(target_NK), **summary(target_NK, predicted_NK)})
    return pd.concat(each, ignore_index=True), pd.DataFrame(together)


def _parts(predicted: Predicted, names: Sequence[str]) -> Iterator[tuple[str, Sequence[str], Matrix, Matrix]]:
    """Give part, names of its features, truth and prediction, of the parts with any sample."""
    known, start = column_names(names, predicted.width), 0
    for part, (target_NK, predicted_NK) in predicted.parts().items():
        end = start + target_NK.shape[1]
        if len(target_NK):
            yield part, known[start:end], target_NK, predicted_NK
        start = end


def feature_table(features: Sequence[str], target_NK: Matrix, predicted_NK: Matrix) -> pd.DataFrame:
    """Give one row per feature, best R2 first, in the units of the values; NaN stands for undefined.

    Raises:
        ValueError: The shapes differ, or names and columns are not equally many.
    """
    if len(features) != target_NK.shape[1]:
        raise ValueError(f"{len(features)} names of features for {target_NK.shape[1]} columns")
    target_NK, predicted_NK = np.asarray(target_NK, np.float64), np.asarray(predicted_NK, np.float64)
    correlation_K = pearson_by_column(target_NK, predicted_NK)
    target_range_K, predicted_range_K = np.ptp(target_NK, axis=0), np.ptp(predicted_NK, axis=0)
    table = pd.DataFrame(
        {
            "feature": list(features),
            "r2": r2_by_column(target_NK, predicted_NK),
            "correlation": correlation_K,
            "p_value": correlation_p_value(correlation_K, len(target_NK)),
            "rmse": np.sqrt(mse_by_column(target_NK, predicted_NK)),
            "mae": np.abs(target_NK - predicted_NK).mean(axis=0),
            "target_mean": target_NK.mean(axis=0),
            "predicted_mean": predicted_NK.mean(axis=0),
            "target_sd": target_NK.std(axis=0),
            "predicted_sd": predicted_NK.std(axis=0),
            "target_range": target_range_K,
            "predicted_range": predicted_range_K,
            "range_ratio": predicted_range_K / np.where(target_range_K > 0, target_range_K, np.nan),
        }
    )
    return table.sort_values("r2", ascending=False, kind="stable", ignore_index=True)


def summary(target_NK: Matrix, predicted_NK: Matrix) -> dict[str, float]:
    """Give R2, correlation and error over all values at once, and their distribution over features.

    Fractions are of the features for which the score is defined.
    """
    target, predicted = (np.asarray(values, np.float64).reshape(-1, 1) for values in (target_NK, predicted_NK))
    correlation = pearson_by_column(target, predicted)
    values = {
        "overall_r2": float(r2_by_column(target, predicted)[0]),
        "overall_rmse": float(np.sqrt(mse_by_column(target, predicted)[0])),
        "overall_correlation": float(correlation[0]),
        "overall_correlation_pvalue": float(correlation_p_value(correlation, len(target))[0]),
    }
    by_feature = {
        "r2": r2_by_column(target_NK, predicted_NK),
        "correlation": pearson_by_column(target_NK, predicted_NK),
        "rmse": np.sqrt(mse_by_column(target_NK, predicted_NK)),
    }
    for name, values_K in by_feature.items():
        values |= _distribution(name, values_K[~np.isnan(values_K)])
    levels = [("r2", "r2", level) for level in R2_LEVELS]
    levels += [("corr", "correlation", level) for level in CORRELATION_LEVELS]
    for short, name, level in levels:
        above = float((by_feature[name] > level).sum())
        defined = float((~np.isnan(by_feature[name])).sum())
        values[f"features_{short}_above_{level}"] = above
        values[f"fraction_{short}_above_{level}"] = above / defined if defined else np.nan
    return values


def _distribution(name: str, defined_K: Matrix) -> dict[str, float]:
    functions: dict[str, Callable[[Matrix], np.float64]] = {
        "mean": np.mean,
        "std": np.std,
        "median": np.median,
        "min": np.min,
        "max": np.max,
    }
    return {
        f"{word}_feature_{name}": float(function(defined_K)) if len(defined_K) else np.nan
        for word, function in functions.items()
    }


def correlation_p_value(correlation: Matrix, samples: int) -> npt.NDArray[np.float64]:
    """Give the two-sided p-value of no correlation under normality; NaN for fewer than three samples."""
    if samples < 3:
        return np.full(np.shape(correlation), np.nan)
    shape = samples / 2 - 1
    return np.asarray(2 * beta.sf(np.abs(correlation), shape, shape, loc=-1, scale=2), np.float64)
