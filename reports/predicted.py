"""What all kinds of predictions have in common; `reports.kinds` has the kinds.

A kind knows which metrics follow from it, under the weights that resampling gives to samples. Bootstrap, checks, tables
and files ask it, and have no cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

Arrays = Mapping[str, np.ndarray]
OPTIONAL = ("samples_N", "units_N", "scores_NK")


@dataclass(frozen=True)
class Predicted:
    """What a model predicts on one test set of N samples. Every field is an array over the samples, or None."""

    samples_N: np.ndarray | None
    """Ids, where stored."""
    units_N: np.ndarray | None = field(default=None, kw_only=True)
    """Biological unit of each sample (nucleus, patient, animal), where stored."""

    KEYS: ClassVar[tuple[str, ...]]
    """Arrays that it is read from."""
    METRICS: ClassVar[frozenset[str]]
    """Metrics that follow from it."""
    CHECKED: ClassVar[tuple[str, ...]] = ()
    """Those of them that do not depend on the unit of what is stored: what a run reports must be the same."""
    TOLERANCE: ClassVar[float] = 1e-3

    @classmethod
    def of(cls, stored: Arrays) -> Self | None:
        """Make it of stored arrays, still without ids and units, or give None where they are of another kind."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Count the samples."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Features (or genes) that each sample has a value of; 0 where it has none."""
        return 0

    def feature(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Give true and predicted values of one of its `width` features."""
        raise NotImplementedError

    def parts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Give what is predicted together -> true and predicted values [N, K]; their columns are the features in order.

        Samples without a truth are left out. By default there is none.
        """
        return {}

    def measure(self, metric: str, weights_RN: np.ndarray) -> np.ndarray:
        """Give one of `METRICS` in every resample, [R]; NaN where it is undefined.

        Args:
            metric: Its name.
            weights_RN: How often each resample has drawn each sample.
        """
        raise NotImplementedError

    def same_truth(self, other: Self) -> bool:
        """Tell whether both were set against the same truth, sample by sample."""
        raise NotImplementedError

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Give columns of a table with a row per sample; `names` are those of the classes, or of the features."""
        raise NotImplementedError

    def agrees(self, metrics: Mapping[str, float | None], arrays: Arrays) -> bool:
        """Tell whether what a run reports of its predictions follows from them."""
        ones = np.ones((1, len(self)))
        known = [(name, value) for name in self.CHECKED if (value := metrics.get(name)) is not None]
        computed = [(self.measure(name, ones)[0], value) for name, value in known if not np.isnan(value)]
        return all(np.isnan(one) or abs(one - value) < self.TOLERANCE for one, value in computed)

    def taken(self, order_N: np.ndarray) -> Self:
        """Give some of the samples, or all in another order."""
        arrays = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{name: None if one is None else one[order_N] for name, one in arrays.items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self | None:
        """Put several sets of samples together, or give None where their arrays do not fit.

        Ids, units and scores that not all of them have are left out.
        """
        arrays = {one.name: _concatenated([getattr(part, one.name) for part in parts]) for one in fields(cls)}
        needed = [one.name for one in fields(cls) if one.name not in OPTIONAL]
        return None if any(arrays[name] is None for name in needed) else cls(**arrays)

    @classmethod
    def condensed(cls, models: Sequence[Self]) -> tuple[Sequence[Self], np.ndarray]:
        """Give equal samples once, and how many of each there are; by default all are taken to differ."""
        return models, np.ones(len(models[0]), int)


def wide(kind: str, values_NK: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Give one column per class or feature, by number where the names are not as many."""
    return {f"{kind} {name}": values_NK[:, at] for at, name in enumerate(column_names(names, values_NK.shape[1]))}


def column_names(names: Sequence[str], width: int) -> Sequence[str]:
    """Give the names of columns, their numbers where these are not as many as the names."""
    return names if len(names) == width else [str(at) for at in range(width)]


def _concatenated(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    same = len(known) == len(parts) and len({part.shape[1:] for part in known}) == 1
    return np.concatenate(known) if same else None
