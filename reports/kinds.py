"""The kinds of predictions that a run may have stored: classes, values, pixels, and two platforms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from reports.measures import (
    OF_ALL_PIXELS,
    OF_CLASSES,
    OF_IMAGES,
    OF_PLATFORMS,
    OF_VALUES,
    confusion,
    mean_of_defined,
    mean_pearson,
    of_pixels,
)
from reports.predicted import Arrays, Predicted, wide

ALIKE = 0.7
"""Mean correlation of the features of two tables of the same samples, at least; other samples have one about 0."""


@dataclass(frozen=True)
class Classes(Predicted):
    """One class per sample."""

    target_N: np.ndarray
    """Integers."""
    predicted_N: np.ndarray
    """Likewise."""
    scores_NK: np.ndarray | None = field(default=None, kw_only=True)
    """Probability of each class, where stored and asked for."""

    KEYS: ClassVar[tuple[str, ...]] = ("target", "predicted", "scores")
    METRICS: ClassVar[frozenset[str]] = frozenset(OF_CLASSES)

    @classmethod
    def of(cls, stored: Arrays) -> Self | None:
        """Take integers [N]."""
        target, guess = stored.get("target"), stored.get("predicted")
        if target is None or guess is None or target.ndim != 1 or target.shape != guess.shape:
            return None
        if target.dtype.kind not in "iu" or guess.dtype.kind not in "iu":
            return None
        scores = stored.get("scores")
        fit = scores is not None and scores.ndim > 0 and len(scores) == len(target)
        return cls(None, target, guess, scores_NK=scores if fit else None)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.target_N)

    def measure(self, metric: str, weights_RN: np.ndarray) -> np.ndarray:
        """Measure the confusion matrix of each resample."""
        classes, codes = np.unique(np.stack([self.target_N, self.predicted_N]), return_inverse=True)
        target_N, guess_N = codes.reshape(2, -1)
        size = len(classes)
        counts = (np.bincount(target_N * size + guess_N, weights_N, size * size) for weights_N in weights_RN)
        return np.array([OF_CLASSES[metric](one.reshape(size, size)) for one in counts])

    def same_truth(self, other: Self) -> bool:
        """Compare classes."""
        return np.array_equal(self.target_N, other.target_N)

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Give `true`, `predicted`, and a score per class."""
        labels = {"true": _labels(self.target_N, names), "predicted": _labels(self.predicted_N, names)}
        if self.scores_NK is None or self.scores_NK.ndim != 2:
            return labels
        return labels | wide("score", self.scores_NK, names)

    def agrees(self, metrics: Mapping[str, float | None], arrays: Arrays) -> bool:
        """Compare the confusion matrix, which all reported numbers come from."""
        reported = arrays.get("confusion_matrix", np.zeros((0, 0)))
        if reported.ndim != 2 or not reported.sum():
            return True
        return np.array_equal(confusion(self.target_N, self.predicted_N, len(reported)), reported)

    @classmethod
    def condensed(cls, models: Sequence[Self]) -> tuple[Sequence[Self], np.ndarray]:
        """Take samples of one unit, target and prediction of every model for one and the same."""
        units = models[0].units_N
        unit_N = np.zeros(len(models[0]), int) if units is None else np.unique(units, return_inverse=True)[1]
        rows = np.vstack([unit_N.reshape(-1), models[0].target_N, *(one.predicted_N for one in models)])
        cells, counts_U = np.unique(rows, axis=1, return_counts=True)
        known = None if units is None else cells[0]
        return [cls(None, cells[1], guess_U, units_N=known) for guess_U in cells[2:]], counts_U


@dataclass(frozen=True)
class Values(Predicted):
    """One number per sample and gene, as float64."""

    target_NK: np.ndarray
    predicted_NK: np.ndarray

    KEYS: ClassVar[tuple[str, ...]] = ("target", "predicted")
    METRICS: ClassVar[frozenset[str]] = frozenset(OF_VALUES)
    CHECKED: ClassVar[tuple[str, ...]] = ("spearman", "pearson")

    @classmethod
    def of(cls, stored: Arrays) -> Self | None:
        """Take floats [N, K]."""
        target, guess = stored.get("target"), stored.get("predicted")
        if target is None or guess is None or target.ndim != 2 or target.shape != guess.shape:
            return None
        if target.dtype.kind != "f" or guess.dtype.kind != "f":
            return None
        return cls(None, target.astype(np.float64), guess.astype(np.float64))

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.target_NK)

    @property
    def width(self) -> int:
        """Count the genes."""
        return int(self.target_NK.shape[1])

    def feature(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Give true and predicted values of a gene."""
        return self.target_NK[:, at], self.predicted_NK[:, at]

    def parts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Give all genes."""
        return {"all": (self.target_NK, self.predicted_NK)}

    def measure(self, metric: str, weights_RN: np.ndarray) -> np.ndarray:
        """Measure each resample."""
        return OF_VALUES[metric](self.target_NK, self.predicted_NK, weights_RN)

    def same_truth(self, other: Self) -> bool:
        """Compare values, which went through each model's own scaler and back and differ in the last bits."""
        return close(self.target_NK, other.target_NK)

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Give `true <gene>` and `predicted <gene>`."""
        return wide("true", self.target_NK, names) | wide("predicted", self.predicted_NK, names)


@dataclass(frozen=True)
class Pixels(Predicted):
    """Pixels of an image that are right foreground, wrong foreground, and missed foreground."""

    tp_N: np.ndarray
    fp_N: np.ndarray
    fn_N: np.ndarray

    KEYS: ClassVar[tuple[str, ...]] = ("tp", "fp", "fn")
    METRICS: ClassVar[frozenset[str]] = frozenset([*OF_ALL_PIXELS, *OF_IMAGES])
    CHECKED: ClassVar[tuple[str, ...]] = (*OF_ALL_PIXELS, *OF_IMAGES)
    TOLERANCE: ClassVar[float] = 1e-6

    @classmethod
    def of(cls, stored: Arrays) -> Self | None:
        """Take integers [N]."""
        counts = [stored[key] for key in cls.KEYS if key in stored]
        if len(counts) < len(cls.KEYS) or any(one.ndim != 1 or one.dtype.kind not in "iu" for one in counts):
            return None
        return cls(None, *counts) if len({len(one) for one in counts}) == 1 else None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.tp_N)

    @property
    def counts_N3(self) -> np.ndarray:
        """Counts of each image: right, wrong, missed."""
        return np.stack([self.tp_N, self.fp_N, self.fn_N], axis=1).astype(np.float64)

    def measure(self, metric: str, weights_RN: np.ndarray) -> np.ndarray:
        """Measure each resample."""
        return of_pixels(metric, self.counts_N3, weights_RN)

    def same_truth(self, other: Self) -> bool:
        """Compare the true foreground."""
        return np.array_equal(self.tp_N + self.fn_N, other.tp_N + other.fn_N)

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Give counts and scores of the image, which are defined as the means over images define them."""
        counts = {"tp": self.tp_N, "fp": self.fp_N, "fn": self.fn_N}
        return counts | {name.removeprefix("image_"): score(self.counts_N3) for name, score in OF_IMAGES.items()}


@dataclass(frozen=True)
class Platforms(Predicted):
    """Two platforms, and each as it is predicted from the other, in the scale of the model; as float64."""

    target_a_NK: np.ndarray
    target_b_NK: np.ndarray
    cross_a_NK: np.ndarray
    """Platform A from platform B."""
    cross_b_NK: np.ndarray
    both_N: np.ndarray
    """Whether a sample was measured on both, so that predictions can be set against the truth."""

    KEYS: ClassVar[tuple[str, ...]] = ("target_a", "target_b", "cross_a", "cross_b", "has_a", "has_b")
    METRICS: ClassVar[frozenset[str]] = frozenset(
        ["cross_corr_mean", *(f"cross_{platform}_{score}" for platform in "ab" for score in OF_PLATFORMS)]
    )
    CHECKED: ClassVar[tuple[str, ...]] = ("cross_a_corr_mean", "cross_b_corr_mean", "cross_corr_mean")

    @classmethod
    def of(cls, stored: Arrays) -> Self | None:
        """Take floats [N, features of A], [N, features of B], and bools [N]."""
        if not set(cls.KEYS) <= set(stored):
            return None
        a, b, cross_a, cross_b, has_a, has_b = (stored[key] for key in cls.KEYS)
        if a.ndim != 2 or b.ndim != 2 or a.shape != cross_a.shape or b.shape != cross_b.shape:
            return None
        if not len(a) == len(b) == len(has_a) == len(has_b):
            return None
        a, b, cross_a, cross_b = (one.astype(np.float64) for one in (a, b, cross_a, cross_b))
        return cls(None, a, b, cross_a, cross_b, has_a.astype(bool) & has_b.astype(bool))

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.both_N)

    @property
    def width(self) -> int:
        """Count the features of both."""
        return int(self.target_a_NK.shape[1] + self.target_b_NK.shape[1])

    def feature(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Give true and predicted values of a feature, those of A coming before those of B."""
        first = self.target_a_NK.shape[1]
        platform, column = ("a", at) if at < first else ("b", at - first)
        target, guess = self.pair(platform)
        return target[:, column], guess[:, column]

    def parts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Give either direction."""
        return {"a_from_b": self.pair("a"), "b_from_a": self.pair("b")}

    def pair(self, platform: str) -> tuple[np.ndarray, np.ndarray]:
        """Give target and prediction of a platform, of the samples measured on both."""
        target, guess = ((self.target_a_NK, self.cross_a_NK), (self.target_b_NK, self.cross_b_NK))["ab".index(platform)]
        return target[self.both_N], guess[self.both_N]

    def measure(self, metric: str, weights_RN: np.ndarray) -> np.ndarray:
        """Measure each resample; `cross_corr_mean` is the mean of both directions, or the one that is defined."""
        if metric == "cross_corr_mean":
            both = [self.measure(f"cross_{platform}_corr_mean", weights_RN) for platform in "ab"]
            return mean_of_defined(np.stack(both, axis=1))
        _, platform, score = metric.split("_", 2)
        if not self.both_N.any():
            return np.full(len(weights_RN), np.nan)
        return OF_PLATFORMS[score](*self.pair(platform), weights_RN[:, self.both_N])

    def same_truth(self, other: Self) -> bool:
        """Compare what was measured, by correlation: a local model scales features, and fills gaps, in its own way."""
        if not np.array_equal(self.both_N, other.both_N):
            return False
        return all(_alike(self.pair(one)[0], other.pair(one)[0]) for one in "ab")

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Give `true <feature>` and `predicted <feature>`; empty in samples that were not measured on both."""
        here_N1 = self.both_N[:, None]
        true = np.where(here_N1, np.hstack([self.target_a_NK, self.target_b_NK]), np.nan)
        guess = np.where(here_N1, np.hstack([self.cross_a_NK, self.cross_b_NK]), np.nan)
        return wide("true", true, names) | wide("predicted", guess, names)


KINDS: tuple[type[Predicted], ...] = (Classes, Values, Pixels, Platforms)
"""What stored arrays are tried to be read as, in this order."""


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether values are the same but for rounding."""
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)


def _alike(one_NK: np.ndarray, other_NK: np.ndarray) -> bool:
    """Tell whether two tables have the same rows, as far as scales and filled gaps let it be seen."""
    if one_NK.shape != other_NK.shape:
        return False
    r = float(mean_pearson(one_NK, other_NK, np.ones((1, len(one_NK))))[0]) if len(one_NK) else np.nan
    return bool(np.isnan(r) or r > ALIKE)


def _labels(codes_N: np.ndarray, names: Sequence[str]) -> list[str]:
    return [names[code] if 0 <= code < len(names) else str(code) for code in codes_N.tolist()]
