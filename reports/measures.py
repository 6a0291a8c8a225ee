"""Metrics recomputed from stored predictions, under the weights that resampling gives to samples.

A weight is the number of times that a sample is drawn; with all weights 1 the metrics are those of the run.
"""

from collections.abc import Callable

import numpy as np

SMOOTHING = 1e-6
"""Added above and below in the scores of one image, which defines those of an empty one."""


def confusion(target_N: np.ndarray, predicted_N: np.ndarray, size: int) -> np.ndarray:
    """Count samples by true (rows) and predicted class; those of other classes than 0 to size - 1 are left out."""
    known_N = (target_N >= 0) & (target_N < size) & (predicted_N >= 0) & (predicted_N < size)
    return np.bincount(target_N[known_N] * size + predicted_N[known_N], minlength=size * size).reshape(size, size)


def accuracy(counts_KK: np.ndarray) -> float:
    """Share of hits."""
    return float(np.trace(counts_KK) / counts_KK.sum())


def macro_f1(counts_KK: np.ndarray) -> float:
    """Mean over the classes that occur as target or prediction, as scikit-learn and torchmetrics take it."""
    hits_K = np.diag(counts_KK)
    total_K = counts_KK.sum(0) + counts_KK.sum(1)
    return float(np.mean(2 * hits_K[total_K > 0] / total_K[total_K > 0]))


def balanced_accuracy(counts_KK: np.ndarray) -> float:
    """Mean recall over the classes that occur as target."""
    support_K = counts_KK.sum(1)
    return float(np.mean(np.diag(counts_KK)[support_K > 0] / support_K[support_K > 0]))


def mean_pearson(target_NK: np.ndarray, predicted_NK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Pearson correlation per gene, its mean over the genes where neither side is constant; [R]."""
    total_R = np.maximum(weights_RN.sum(1), 1)

    def correlation(target_N: np.ndarray, predicted_N: np.ndarray) -> np.ndarray:
        first_N, second_N = (values_N - values_N.mean() for values_N in (target_N, predicted_N))
        first_R, second_R = weights_RN @ first_N / total_R, weights_RN @ second_N / total_R
        covariance_R = weights_RN @ (first_N * second_N) / total_R - first_R * second_R
        variances_R = (weights_RN @ first_N**2 / total_R - first_R**2) * (
            weights_RN @ second_N**2 / total_R - second_R**2
        )
        defined_R = _varies(target_N, weights_RN) & _varies(predicted_N, weights_RN)
        return _ratio(covariance_R, np.sqrt(np.maximum(variances_R, 0)), defined_R & (variances_R > 0))

    return _mean_over_genes(correlation, target_NK, predicted_NK)


def mean_spearman(target_NK: np.ndarray, predicted_NK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Pearson correlation of the ranks within each resample, ties at their mean rank; [R]."""

    def correlation(target_N: np.ndarray, predicted_N: np.ndarray) -> np.ndarray:
        (first_RN, first_R), (second_RN, second_R) = (_ranks(one_N, weights_RN) for one_N in (target_N, predicted_N))
        covariance_R = np.einsum("rn,rn,rn->r", weights_RN, first_RN, second_RN)
        variances_R = first_R * second_R
        return _ratio(covariance_R, np.sqrt(variances_R), variances_R > 0)

    return _mean_over_genes(correlation, target_NK, predicted_NK)


def mean_r2(target_NK: np.ndarray, predicted_NK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Coefficient of determination per gene, its mean over the genes whose target varies; [R]."""

    def determination(target_N: np.ndarray, predicted_N: np.ndarray) -> np.ndarray:
        centred_N = target_N - target_N.mean()
        defined_R = _varies(target_N, weights_RN)
        spread_R = weights_RN @ centred_N**2 - (weights_RN @ centred_N) ** 2 / weights_RN.sum(1)
        return 1 - _ratio(weights_RN @ (target_N - predicted_N) ** 2, spread_R, defined_R)

    return _mean_over_genes(determination, target_NK, predicted_NK)


def mean_squared_error(target_NK: np.ndarray, predicted_NK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Mean over samples and genes; [R]."""
    return _mean_over_samples((target_NK - predicted_NK) ** 2, weights_RN)


def mean_absolute_error(target_NK: np.ndarray, predicted_NK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Mean over samples and genes; [R]."""
    return _mean_over_samples(np.abs(target_NK - predicted_NK), weights_RN)


def overall_r2(target_NK: np.ndarray, predicted_NK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Coefficient of determination of all values as one column; [R]."""
    centred_NK = target_NK - target_NK.mean()
    count_R = weights_RN.sum(1) * target_NK.shape[1]
    spread_R = weights_RN @ (centred_NK**2).sum(1) - _ratio((weights_RN @ centred_NK.sum(1)) ** 2, count_R, count_R > 0)
    return 1 - _ratio(weights_RN @ ((target_NK - predicted_NK) ** 2).sum(1), spread_R, spread_R > 0)


def image_f1(counts_N3: np.ndarray) -> np.ndarray:
    """F1 of each image from its right, wrong and missed pixels, 1 for an empty one without prediction; [N]."""
    right, wrong, missed = counts_N3.T
    return np.asarray((2 * right + SMOOTHING) / (2 * right + wrong + missed + SMOOTHING))


def image_iou(counts_N3: np.ndarray) -> np.ndarray:
    """Intersection over union of each image, likewise; [N]."""
    right = counts_N3[:, 0]
    return np.asarray((right + SMOOTHING) / (counts_N3.sum(1) + SMOOTHING))


OF_CLASSES: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1_macro": macro_f1,
    "balanced_accuracy": balanced_accuracy,
}
"""Metrics of a confusion matrix (rows truth)."""

OF_VALUES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "spearman": mean_spearman,
    "pearson": mean_pearson,
    "r2": mean_r2,
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
}
"""Metrics of values per gene: targets, predictions, and weights [R, N] -> value per resample."""

OF_PLATFORMS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "corr_mean": mean_pearson,
    "r2": overall_r2,
    "mse": mean_squared_error,
}
"""Metrics of a platform that is predicted from another, likewise."""

OF_ALL_PIXELS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "f1": lambda right, wrong, missed: (2 * right, 2 * right + wrong + missed),
    "iou": lambda right, wrong, missed: (right, right + wrong + missed),
    "precision": lambda right, wrong, missed: (right, right + wrong),
    "recall": lambda right, wrong, missed: (right, right + missed),
}
"""Metrics of the pixels of all images together: right, wrong and missed ones -> what is divided by what."""

OF_IMAGES = {"image_f1": image_f1, "image_iou": image_iou}
"""Metrics that are means over images: pixels of each image [N, 3] -> value of each image."""


def of_pixels(metric: str, counts_N3: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Give a metric of `OF_ALL_PIXELS` or `OF_IMAGES` in every resample, [R]; 0 / 0 is undefined."""
    if metric in OF_IMAGES:
        return np.asarray(weights_RN @ OF_IMAGES[metric](counts_N3) / weights_RN.sum(1))
    above_R, below_R = OF_ALL_PIXELS[metric](*(weights_RN @ counts_N3).T)
    return _ratio(above_R, below_R, below_R > 0)


def mean_of_defined(values_RM: np.ndarray) -> np.ndarray:
    """Average each row over the values that are defined, [R]."""
    defined_RM = ~np.isnan(values_RM)
    return _ratio(np.where(defined_RM, values_RM, 0).sum(1), defined_RM.sum(1), defined_RM.any(1))


def _mean_over_genes(
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray], target_NK: np.ndarray, predicted_NK: np.ndarray
) -> np.ndarray:
    genes_KR = np.stack([measure(*pair) for pair in zip(target_NK.T, predicted_NK.T, strict=True)])
    return mean_of_defined(genes_KR.T)


def _mean_over_samples(errors_NK: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    total_R = weights_RN.sum(1)
    return _ratio(weights_RN @ errors_NK.mean(1), total_R, total_R > 0)


def _ranks(values_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank the samples of each resample, ties at their mean rank, with mean 0; give the sum of squares too."""
    groups_N, weights_RG = _ties(values_N, weights_RN)
    ranks_RG = np.cumsum(weights_RG, axis=1)
    ranks_RG -= (weights_RG + ranks_RG[:, -1:]) / 2
    return np.take(ranks_RG, groups_N, axis=1), np.einsum("rg,rg,rg->r", weights_RG, ranks_RG, ranks_RG)


def _varies(values_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Tell for each resample whether it drew two different values."""
    return np.asarray(np.count_nonzero(_ties(values_N, weights_RN)[1], axis=1) > 1)


def _ties(values_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the group of equal values of each sample, in ascending order, and the weight of each group."""
    _, groups_N, sizes_G = np.unique(values_N, return_inverse=True, return_counts=True)
    ordered_RN = np.take(weights_RN, np.argsort(groups_N, kind="stable"), axis=1)
    if len(sizes_G) == len(values_N):
        return groups_N, ordered_RN
    return groups_N, np.add.reduceat(ordered_RN, np.cumsum(sizes_G) - sizes_G, axis=1)


def _ratio(above: np.ndarray, below: np.ndarray, defined: np.ndarray) -> np.ndarray:
    out = np.full(np.shape(above), np.nan)
    return np.asarray(np.divide(above, below, out=out, where=defined))
