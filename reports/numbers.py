"""Numbers as a reader sees them: repeated over seeds, never rounded away, undefined where undefined."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

UNDEFINED = "undefined"
NOT_RUN = "\N{EN DASH}"
METRIC_NAMES = {
    "f1_macro": "macro-F1",
    "f1_macro_all": "macro-F1, all classes",
    "f1_weighted": "weighted F1",
    "f1": "F1",
    "top2_accuracy": "top-2 accuracy",
    "nucleus_f1_macro": "nucleus macro-F1",
    "dice": "Dice",
    "iou": "IoU",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R²",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "samplewise_spearman": "Spearman within samples",
    "baseline_mse": "MSE of the baseline",
    "image_f1": "F1, mean over images",
    "image_iou": "IoU, mean over images",
    "object_f1": "F1 of objects",
    "object_precision": "precision of objects",
    "object_recall": "recall of objects",
    "empty_targets": "share of images without foreground",
    "best_f1": "F1 at the threshold that is best on this very set (optimistic)",
    "best_threshold": "threshold that is best on this very set",
    "bce": "binary cross-entropy",
    "dice_loss": "Dice loss",
    "cross_corr": "cross-platform correlation",
    "cross_corr_mean": "mean cross-platform correlation",
    "cross_r2": "cross-platform R²",
    "cross_spearman": "cross-platform Spearman",
    "cross_spearman_mean": "mean cross-platform Spearman",
}
PARTS = {"cross_a": "A from B", "cross_b": "B from A", "recon_a": "A from itself", "recon_b": "B from itself"}
"""Of two platforms, what is predicted from what."""
SCORES = {
    "r2": "R² of all values",
    "corr": "correlation of all values",
    "mse": "MSE",
    "corr_mean": "mean correlation",
    "corr_median": "median correlation",
    "mean_feature_r2": "mean R² of features",
    "median_feature_r2": "median R² of features",
    "frac_r2_above_0.5": "share of features with R² above 0.5",
    "frac_r2_above_0.7": "share of features with R² above 0.7",
    "samplewise_corr_mean": "correlation within samples",
    "spearman_mean": "mean Spearman",
    "samplewise_spearman_mean": "Spearman within samples",
}
"""Of each of them."""


@dataclass(frozen=True)
class Spread:
    """A number repeated over seeds; NaN stands for undefined, no value at all for not run."""

    values: tuple[float, ...]

    @property
    def defined(self) -> list[float]:
        """The values that are finite or infinite, but not NaN."""
        return [value for value in self.values if not math.isnan(value)]

    @property
    def mean(self) -> float:
        """Mean of the defined values, NaN without any."""
        return statistics.fmean(self.defined) if self.defined else math.nan

    @property
    def sd(self) -> float:
        """Sample standard deviation (n - 1) over seeds, NaN for fewer than two values."""
        return statistics.stdev(self.defined) if len(self.defined) > 1 else math.nan

    def text(self, *, signed: bool = False) -> str:
        """Write mean ± sd; a single value alone."""
        if not self.values:
            return NOT_RUN
        shown = number(self.mean, signed=signed)
        if len(self.defined) > 1:
            shown += f" ± {number(self.sd)}"
        partly = self.defined and len(self.defined) < len(self.values)
        return f"{shown} ({len(self.defined)} of {len(self.values)} seeds defined)" if partly else shown


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float
    over: str = "test samples"
    """What was drawn again and again: test samples, or biological units with all their samples."""

    def text(self, *, signed: bool = False) -> str:
        """Write the ends in brackets."""
        return f"[{number(self.low, signed=signed)}, {number(self.high, signed=signed)}]"


def number(value: float, *, signed: bool = False) -> str:
    """Write a metric to four decimals, small ones to four significant digits, NaN as `undefined`."""
    if math.isnan(value):
        return UNDEFINED
    sign = "+" if signed and value != 0 else ""
    small = not signed and value != 0 and abs(value) < 1e-3
    return f"{value:{sign}.4g}" if small else f"{value:{sign}.4f}"


def counted(values: Sequence[int | float | None]) -> str:
    """Write a whole number, or the range where runs differ."""
    known = sorted({int(value) for value in values if value is not None})
    if not known:
        return NOT_RUN
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


def amount(values: Sequence[float]) -> str:
    """Write a count, which may come as a float, or its range where runs differ; undefined ones are left out."""
    known = [value for value in values if math.isfinite(value)]
    if all(value == round(value) for value in known):
        return counted(known)
    low, high = number(min(known)), number(max(known))
    return low if low == high else f"{low} to {high}"


def data_size(count: float) -> str:
    """Write bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def metric_name(metric: str) -> str:
    """Write a metric as the field does."""
    part, score = metric[:7], metric[8:]
    if part in PARTS and score:
        return f"{PARTS[part]}: {SCORES.get(score, score.replace('_', ' '))}"
    return METRIC_NAMES.get(metric, metric.replace("_", " "))
