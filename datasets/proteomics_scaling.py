"""From measured abundances to what a network sees and back: one fitted record per platform, kept as JSON.

Mean, deviation, minimum and maximum are those of the pooled training rows; medians and quartiles are within the bound
of `datasets.quantile_sketch`. Filled cells take part in the scaling, as in a pipeline of imputer and scaler.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from core.errors import UserError
from core.files import read_json, write_json
from datasets.proteomics_statistics import Agreed, Row, SecondPass, first_pass, second_pass
from datasets.proteomics_steps import Log, Steps, nearest_fill
from datasets.proteomics_units import other_units
from datasets.quantile_sketch import Atoms, neighbours, quantile, read_counts, with_value

Array = npt.NDArray[np.float64]
FARTHEST = 1e15
"""In scaled units; networks in single precision make no numbers out of what lies much farther out."""
ROUNDING = float(np.finfo(np.float64).eps)


class Preprocessing(BaseModel):
    """What was fitted on the training rows of one platform."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    features: tuple[str, ...]
    steps: Steps
    fill: tuple[float, ...]
    """Stands in for missing cells, by feature, in units of the data: median or mean."""
    log: Log | None
    centre: tuple[float, ...]
    """Subtracted after the logarithm, by feature: mean, minimum or median."""
    scale: tuple[float, ...]
    """Divided by, by feature: deviation, range or quartile range; 1 for a constant feature."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Preprocessing":
        lengths = {len(self.features), len(set(self.features)), len(self.fill), len(self.centre), len(self.scale)}
        if len(lengths) != 1 or not self.features:
            raise ValueError("features, fill, centre and scale need one entry per feature, each feature once")
        if min(self.scale) <= 0 or self.steps.log != (self.log is not None):
            raise ValueError("scale must be positive, and log there exactly where steps.log is true")
        return self

    @classmethod
    def fit(
        cls,
        features: Sequence[str],
        first: Mapping[str, Row],
        second: SecondPass,
        steps: Steps,
        *,
        otherwise: "Preprocessing | None" = None,
    ) -> "Preprocessing":
        """Fit from the merged passes over training rows.

        Args:
            features: Names, [D].
            first: Merged `first_pass`.
            second: Merged `second_pass`, made with what `Agreed.of(first, steps)` gives.
            steps: What is asked for.
            otherwise: What to take for features without any value here, such as what all clients agreed on where one
                client trains alone.

        Raises:
            UserError: A feature has no value in the training rows, or nobody has the platform.
        """
        if not features:
            raise UserError("data: no client holds one of the two platforms; give platform_a and platform_b files")
        empty = first["count"] == 0
        if empty.any() and otherwise is None:
            raise _without_values(features, empty)
        agreed = Agreed.of(first, steps)
        rows = first["count"] + first["missing"]
        atoms = read_counts(second.buckets, steps.alpha, agreed.smallest) if steps.needs_quantiles else []
        fill = _medians(atoms, agreed, empty) if steps.missing == "median" else agreed.mean
        offset = agreed.forward(fill) - agreed.centre
        filled = rows - second.arrays["cells"]
        if steps.scaler == "robust":
            centre, scale = _quartiles(atoms, offset, filled, agreed)
        elif steps.scaler == "minmax":
            centre, scale = agreed.low, _nonzero(agreed.high - agreed.low)
        else:
            centre, scale = _mean_and_deviation(second.arrays, offset, filled, rows, agreed)
        log = agreed.log
        if otherwise is not None and empty.any():
            pairs = ((fill, otherwise.fill), (centre, otherwise.centre), (scale, otherwise.scale))
            fill, centre, scale = (np.where(empty, theirs, own) for own, theirs in pairs)
            log = otherwise.log if empty.all() else log
        columns = {"fill": fill.tolist(), "centre": centre.tolist(), "scale": scale.tolist()}
        return cls(features=tuple(features), steps=steps, log=log, **columns)

    @classmethod
    def from_rows(
        cls,
        features: Sequence[str],
        values_ND: Array,
        steps: Steps,
        *,
        otherwise: "Preprocessing | None" = None,
    ) -> "Preprocessing":
        """Fit from rows at hand, NaN where a cell is missing, with exact quantiles.

        Raises:
            UserError: A feature has no value in the rows.
        """
        exact = steps.model_copy(update={"alpha": 0.0})
        first = first_pass(values_ND)
        agreed = Agreed.of(first, exact)
        rows = nearest_fill(values_ND, values_ND, agreed.mean) if steps.missing == "knn" else values_ND
        return cls.fit(features, first, second_pass(rows, agreed, exact), exact, otherwise=otherwise)

    def filled(self, values_ND: Array) -> Array:
        """Put the stored values in the place of missing cells."""
        return np.where(np.isnan(values_ND), np.asarray(self.fill), values_ND)

    def apply(self, values_ND: Array) -> Array:
        """Fill, take the logarithm, scale; columns as `features`, NaN where a cell is missing."""
        values = self.filled(values_ND)
        values = values if self.log is None else self.log.forward(values)
        return np.asarray((values - np.asarray(self.centre)) / np.asarray(self.scale))

    def scaled(self, values_ND: Array, names: Sequence[str], source: str) -> npt.NDArray[np.float32]:
        """Give what a network takes of some samples, and warn where they seem to be in other units.

        Args:
            values_ND: As `apply` takes them.
            names: Of the samples, [N].
            source: What to name in an error.

        Raises:
            UserError: A value lies farther out than a network can take.
        """
        scaled_ND = self.apply(values_ND)
        far = np.argwhere(~(np.abs(scaled_ND) <= FARTHEST))
        if len(far):
            at, column = far[0].tolist()
            raise UserError(
                f"{source}: sample {names[at]!r}: {self.features[column]} = {values_ND[at, column]:g} lies "
                f"{abs(scaled_ND[at, column]):.0e} times the spread of the training samples away; correct it or leave "
                "it empty"
            )
        if (difference := other_units(np.where(np.isnan(values_ND), np.nan, scaled_ND), self.steps.scaler)) is not None:
            warnings.warn(f"{source}: samples typically {difference}; check that the units are the same", stacklevel=2)
        return scaled_ND.astype(np.float32)

    def inverse(self, scaled_ND: Array) -> Array:
        """Go back to units of the data."""
        values = scaled_ND * np.asarray(self.scale) + np.asarray(self.centre)
        return values if self.log is None else self.log.inverse(values)

    def write(self, path: Path) -> None:
        """Write JSON; floats are kept exactly."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> "Preprocessing":
        """Read what `write` wrote.

        Raises:
            UserError: The file is missing or does not hold it.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(
                f"{path}: {place}: {first['msg']}; give a scaler file that a training run has written"
            ) from None


def _without_values(features: Sequence[str], empty_D: npt.NDArray[np.bool_]) -> UserError:
    names = [name for name, none in zip(features, empty_D.tolist(), strict=True) if none]
    more = f", nor have {len(names) - 1} more" if len(names) > 1 else ""
    return UserError(f"training data: feature {names[0]!r} has no value in any row{more}; drop the column")


def _medians(atoms: Sequence[Atoms], agreed: Agreed, empty_D: npt.NDArray[np.bool_]) -> Row:
    """Give medians in units of the data: logarithms keep the order, so the middle values are taken back one by one."""
    middle = [(0.0, 0.0, 0.0) if none else neighbours(own, 0.5) for own, none in zip(atoms, empty_D, strict=True)]
    lower, upper, weight = np.asarray(middle).T
    below, above = (agreed.inverse(np.clip(agreed.centre + d, agreed.low, agreed.high)) for d in (lower, upper))
    return np.asarray(below + (above - below) * weight)


def _quartiles(atoms: Sequence[Atoms], offset: Row, filled: Row, agreed: Agreed) -> tuple[Row, Row]:
    whole = [
        with_value(own, *fill) for own, *fill in zip(atoms, offset.tolist(), filled.astype(int).tolist(), strict=True)
    ]
    low, middle, high = (
        np.clip(
            agreed.centre + [quantile(own, share) if len(own[0]) else 0.0 for own in whole], agreed.low, agreed.high
        )
        for share in (0.25, 0.5, 0.75)
    )
    return middle, _nonzero(high - low)


def _mean_and_deviation(
    sums: Mapping[str, Row], offset: Row, filled: Row, rows: Row, agreed: Agreed
) -> tuple[Row, Row]:
    number = np.maximum(rows, 1)
    shift = (sums["sum"] + filled * offset) / number
    variance = np.maximum((sums["squares"] + filled * offset**2) / number - shift**2, 0)
    mean = np.clip(agreed.centre + shift, agreed.low, agreed.high)
    # The bound up to which scikit-learn's StandardScaler takes a feature for constant.
    constant = variance <= number * ROUNDING * variance + (number * mean * ROUNDING) ** 2
    return mean, np.where(constant | (agreed.high == agreed.low), 1.0, np.sqrt(variance))


def _nonzero(spread: Row) -> Row:
    """Put 1 for spreads that are mere rounding, as scikit-learn's scalers do."""
    return np.where(spread < 10 * ROUNDING, 1.0, spread)
