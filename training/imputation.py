"""How well each of two platforms is reconstructed from itself and predicted from the other.

Names of what is scored: `recon_a`, `recon_b` are a platform from itself; `cross_a` is platform A **from B**, `cross_b`
platform B from A. All values are in the normalised units in which a network works: in original units, scores over all
values would tell little more than that features have different means.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from core.columns import defined_mean, pearson_by_column, spearman_by_column
from training.paired_moments import REDUCTIONS, STARTS, PairedMoments

PARTS = ("recon_a", "recon_b", "cross_a", "cross_b")
DIRECTIONS = {
    "r2": True,
    "corr": True,
    "mse": False,
    "corr_mean": True,
    "corr_median": True,
    "mean_feature_r2": True,
    "median_feature_r2": True,
    "frac_r2_above_0.5": True,
    "frac_r2_above_0.7": True,
    "samplewise_corr_mean": True,
}
"""Score of a part -> whether higher is better; `undefined_features` is a count and has no direction."""


class _PlatformPairs(Metric):
    """Takes what was predicted of two platforms, and hands on the rows that hold both what was used and the truth."""

    full_state_update = False

    def __init__(
        self, width_a: int, width_b: int, parts: Sequence[str], *, learned: bool = True, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.learned = learned
        unknown = set(parts) - set(PARTS)
        if unknown or not parts:
            raise ValueError(f"parts {sorted(unknown)}: choose some of {', '.join(PARTS)}")
        self.parts = tuple(part for part in PARTS if part in parts)
        self.widths = {"a": width_a, "b": width_b}

    def _pairs(
        self,
        predicted: Mapping[str, Tensor],
        target_a: Tensor,
        target_b: Tensor,
        has_a_B: Tensor | None,
        has_b_B: Tensor | None,
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Give part, target and prediction, [rows, features] each, of the parts that have rows.

        What a network says of one platform from the other counts as no number where it has never seen a pair.
        """
        targets = {"a": target_a, "b": target_b}
        everything = torch.ones(len(target_a), dtype=torch.bool)
        has = {"a": everything if has_a_B is None else has_a_B, "b": everything if has_b_B is None else has_b_B}
        for part in (one for one in self.parts if one in predicted):
            kind, _, platform = part.partition("_")
            expected = (len(target_a), self.widths[platform])
            for values in (targets[platform], predicted[part]):
                if values.shape != expected:
                    raise ValueError(f"{part}: shape {tuple(values.shape)}, expected {expected}")
            rows = has["a"] & has["b"] if kind == "cross" else has[platform]
            if rows.any():
                said = (
                    predicted[part] if self.learned or kind != "cross" else torch.full_like(predicted[part], torch.nan)
                )
                yield part, targets[platform][rows], said[rows]


class ImputationScores(_PlatformPairs):
    """Scores from sums and extremes alone, so that those of several clients are those of their pooled samples.

    For each part, `compute` gives over all values at once `r2`, `corr` and `mse`; over features where they are defined
    `corr_mean`, `corr_median`, `mean_feature_r2`, `median_feature_r2`, `frac_r2_above_0.5` and `_0.7`; over samples the
    mean `samplewise_corr_mean` of the correlation across features; and the count `undefined_features`, those without a
    correlation. Each is named after its part, as in `cross_a_corr_mean`. Further `cross_corr_mean`, the mean of both
    directions, or of the one that was given, and the arrays `cross_corr_per_feature` and `cross_r2_per_feature` over
    the features of A, then those of B. NaN stands for undefined: so is all of a part that holds a prediction which is
    no finite number, and so is the mean of two directions of which one is.
    """

    def __init__(
        self,
        width_a: int,
        width_b: int,
        parts: Sequence[str] = PARTS,
        centre_a: Tensor | None = None,
        centre_b: Tensor | None = None,
        *,
        learned: bool = True,
        **settings: Any,
    ) -> None:
        """Take the numbers of features.

        Args:
            width_a: Features of platform A.
            width_b: Features of platform B.
            parts: What the network gives; one that maps directly has no reconstructions.
            centre_a: About which values are summed, the same at every client, [width_a]; zero fits standardised ones.
            centre_b: The same for platform B, [width_b].
            learned: Whether the network has learned from pairs; without, its predictions across platforms are noise,
                and their scores undefined.
            settings: Of torchmetrics.
        """
        super().__init__(width_a, width_b, parts, learned=learned, **settings)
        self.centres = {
            platform: torch.zeros(self.widths[platform]).double() if centre is None else centre.double()
            for platform, centre in (("a", centre_a), ("b", centre_b))
        }
        for part in self.parts:
            for field, kind in REDUCTIONS.items():
                shape = () if field == "count" else (self.widths[part[-1]],)
                start = torch.full(shape, STARTS[kind], dtype=torch.float64)
                self.add_state(f"{part}_{field}", default=start, dist_reduce_fx=kind)
            for state in ("sample_corr", "sample_count"):
                self.add_state(f"{part}_{state}", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @property
    def higher_is_better(self) -> dict[str, bool]:  # type: ignore[override]
        """Give scalar -> whether more of it is better."""
        own = {f"{part}_{name}": better for part in self.parts for name, better in DIRECTIONS.items()}
        return {"cross_corr_mean": True, **own}

    @property
    def supports(self) -> dict[str, int]:
        """Give scalar -> samples that it rests on: those on the platforms that a part needs."""
        counts = {part: int(getattr(self, f"{part}_count")) for part in self.parts}
        own = {f"{part}_{name}": counts[part] for part in self.parts for name in (*DIRECTIONS, "undefined_features")}
        crossed = max((count for part, count in counts.items() if part.startswith("cross")), default=0)
        return {"cross_corr_mean": crossed, **own}

    def update(
        self,
        predicted: Mapping[str, Tensor],
        target_a: Tensor,
        target_b: Tensor,
        has_a_B: Tensor | None = None,
        has_b_B: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            predicted: Part -> prediction, [B, features of the platform it predicts]; a part that is missing, as from a
                baseline that reconstructs nothing, is not scored.
            target_a: Platform A, [B, width_a].
            target_b: Platform B, [B, width_b].
            has_a_B: Which samples were measured on A; all by default. Rows without are ignored, whatever they hold.
            has_b_B: Which were measured on B.

        Raises:
            ValueError: A shape does not fit.
        """
        for part, target, guess in self._pairs(predicted, target_a, target_b, has_a_B, has_b_B):
            merged = self._moments(part).merged(PairedMoments.of(target, guess, self.centres[part[-1]]))
            for field in REDUCTIONS:
                setattr(self, f"{part}_{field}", getattr(merged, field))
            r_B = torch.from_numpy(pearson_by_column(target.double().numpy().T, guess.double().numpy().T))
            self._add(f"{part}_sample_corr", r_B.nansum())
            self._add(f"{part}_sample_count", (~r_B.isnan()).sum())

    def compute(self) -> dict[str, Tensor]:
        """Give scalars and arrays by name."""
        moments = {part: self._moments(part) for part in self.parts}
        values: dict[str, Tensor] = {}
        for part, of_part in moments.items():
            samplewise = getattr(self, f"{part}_sample_corr") / getattr(self, f"{part}_sample_count")
            scores = {**scores_of(of_part, self.centres[part[-1]]), "samplewise_corr_mean": samplewise}
            if not of_part.predicted.isfinite().all():
                scores = dict.fromkeys(scores, torch.tensor(torch.nan).double())
            values |= {f"{part}_{name}": value for name, value in scores.items()}
        crosses = [part for part in self.parts if part.startswith("cross")]
        if crosses:
            given = [values[f"{part}_corr_mean"] for part in crosses if moments[part].count]
            values["cross_corr_mean"] = _mean(given)
            values["cross_corr_per_feature"] = torch.cat([moments[part].pearson() for part in crosses])
            values["cross_r2_per_feature"] = torch.cat([moments[part].r2() for part in crosses])
        return values

    def _moments(self, part: str) -> PairedMoments:
        return PairedMoments(**{field: getattr(self, f"{part}_{field}") for field in REDUCTIONS})

    def _add(self, state: str, value: Tensor) -> None:
        setattr(self, state, getattr(self, state) + value)


class RankScores(_PlatformPairs):
    """Rank correlations of both directions. Ranks do not merge: the values per sample are kept, and travel.

    `compute` gives for `cross_a` and `cross_b` the `spearman_mean` over features and `samplewise_spearman_mean` over
    samples, where they are defined, `cross_spearman_mean` of both, and the array `cross_spearman_per_feature` over the
    features of A, then those of B.
    """

    def __init__(self, width_a: int, width_b: int, *, learned: bool = True, **settings: Any) -> None:
        """Take the numbers of features, and whether the network has learned from pairs."""
        super().__init__(width_a, width_b, ("cross_a", "cross_b"), learned=learned, **settings)
        for part in self.parts:
            for state in ("target", "predicted"):
                self.add_state(f"{part}_{state}", default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> dict[str, bool]:  # type: ignore[override]
        """Give scalar -> whether more of it is better."""
        scores = [f"{part}_{name}" for part in self.parts for name in ("spearman_mean", "samplewise_spearman_mean")]
        return dict.fromkeys(["cross_spearman_mean", *scores], True)

    @property
    def supports(self) -> dict[str, int]:
        """Give scalar -> samples that it rests on: those on both platforms."""
        part, *_ = self.parts
        return dict.fromkeys(self.higher_is_better, sum(map(len, getattr(self, f"{part}_target"))))

    def update(
        self,
        predicted: Mapping[str, Tensor],
        target_a: Tensor,
        target_b: Tensor,
        has_a_B: Tensor | None = None,
        has_b_B: Tensor | None = None,
    ) -> None:
        """Keep a batch; the arguments are those of `ImputationScores`."""
        for part, target, guess in self._pairs(predicted, target_a, target_b, has_a_B, has_b_B):
            getattr(self, f"{part}_target").append(target)
            getattr(self, f"{part}_predicted").append(guess)

    def compute(self) -> dict[str, Tensor]:
        """Give scalars and arrays by name."""
        values: dict[str, Tensor] = {}
        per_feature = []
        for part in self.parts:
            target, guess = (self._kept(part, state).double().numpy() for state in ("target", "predicted"))
            by_feature, by_sample = spearman_by_column(target, guess), spearman_by_column(target.T, guess.T)
            if not np.isfinite(guess).all():
                by_feature, by_sample = np.full_like(by_feature, np.nan), np.full_like(by_sample, np.nan)
            per_feature.append(torch.from_numpy(by_feature))
            values[f"{part}_spearman_mean"] = torch.tensor(defined_mean(by_feature), dtype=torch.float64)
            values[f"{part}_samplewise_spearman_mean"] = torch.tensor(defined_mean(by_sample), dtype=torch.float64)
        given = [values[f"{part}_spearman_mean"] for part in self.parts if len(getattr(self, f"{part}_target"))]
        return {
            **values,
            "cross_spearman_mean": _mean(given),
            "cross_spearman_per_feature": torch.cat(per_feature),
        }

    def _kept(self, part: str, state: str) -> Tensor:
        kept = getattr(self, f"{part}_{state}")
        width = self.widths[part[-1]]
        # A single row of NaN stands for none, since ranks of no rows are not defined.
        return dim_zero_cat(kept) if len(kept) else torch.full((1, width), torch.nan)


def _mean(given: Sequence[Tensor]) -> Tensor:
    """Give the mean of scalars, NaN of none."""
    return torch.stack([*given]).mean() if given else torch.tensor(torch.nan).double()


def scores_of(moments: PairedMoments, centre_K: Tensor) -> dict[str, Tensor]:
    """Give the scores of one part, but those across features."""
    r_K, r2_K, flat = moments.pearson(), moments.r2(), moments.flattened(centre_K)
    defined = (~r2_K.isnan()).sum()
    return {
        "r2": flat.r2()[0],
        "corr": flat.pearson()[0],
        "mse": flat.mse()[0],
        "corr_mean": r_K.nanmean(),
        "corr_median": r_K.nanquantile(0.5),
        "mean_feature_r2": r2_K.nanmean(),
        "median_feature_r2": r2_K.nanquantile(0.5),
        "frac_r2_above_0.5": (r2_K > 0.5).sum().double() / defined,
        "frac_r2_above_0.7": (r2_K > 0.7).sum().double() / defined,
        "undefined_features": r_K.isnan().sum().double(),
    }
