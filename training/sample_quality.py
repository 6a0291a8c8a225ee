"""Limits beyond which a new sample is unusual to a network, from samples that it has not learned from.

How badly a sample's own platform is rebuilt, and how far from the origin its latent position lies, are counted in
buckets that clients add up; the limits are quantiles of these counts.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from models.imputation.quality import Thresholds

PLATFORMS = ("a", "b")
KINDS = ("error", "distance")
QUANTILE = 0.8
STEP = 1.05
"""Each bucket ends at so many times the end of the one before: limits are too high by 5 per cent at most."""
LEAST, MOST = 1e-6, 1e9
EDGES = LEAST * STEP ** torch.arange(math.ceil(math.log(MOST / LEAST) / math.log(STEP)) + 1, dtype=torch.float64)


class QualityLimits(Metric):
    """For platform a and b the `<platform>_error_limit` and `<platform>_distance_limit`, NaN without samples.

    Four of five samples are at or below: in mean squared error of what is rebuilt of their own platform, and in squared
    distance of their latent position from the origin.
    """

    full_state_update = False
    higher_is_better: Mapping[str, bool] = {}  # type: ignore[assignment]

    def __init__(self, **settings: Any) -> None:
        """Start without samples; `settings` are those of torchmetrics."""
        super().__init__(**settings)
        for platform in PLATFORMS:
            for kind in KINDS:
                start = torch.zeros(len(EDGES) + 1, dtype=torch.float64)
                self.add_state(f"{platform}_{kind}", default=start, dist_reduce_fx="sum")

    def update(
        self, outputs: Mapping[str, Tensor], target_a: Tensor, target_b: Tensor, has_a_B: Tensor, has_b_B: Tensor
    ) -> None:
        """Count a batch.

        Args:
            outputs: `recon_a`, `recon_b` [B, D] and `latent_a`, `latent_b` [B, L]; a platform without is left out.
            target_a: Platform a, [B, D].
            target_b: Platform b, [B, D].
            has_a_B: Which samples were measured on platform a.
            has_b_B: Which on b.
        """
        for platform, target, has in (("a", target_a, has_a_B), ("b", target_b, has_b_B)):
            if f"latent_{platform}" not in outputs:
                continue
            error_B = (outputs[f"recon_{platform}"] - target).double().square().mean(dim=1)
            distance_B = outputs[f"latent_{platform}"].double().square().sum(dim=1)
            for kind, values_B in zip(KINDS, (error_B, distance_B), strict=True):
                counts = torch.bincount(torch.bucketize(values_B[has], EDGES), minlength=len(EDGES) + 1)
                setattr(self, f"{platform}_{kind}", getattr(self, f"{platform}_{kind}") + counts)

    def compute(self) -> dict[str, Tensor]:
        """Give the limits by name."""
        return {
            f"{platform}_{kind}_limit": _quantile(getattr(self, f"{platform}_{kind}"))
            for platform in PLATFORMS
            for kind in KINDS
        }

    @property
    def supports(self) -> dict[str, int]:
        """Give limit -> samples that it rests on."""
        return {
            f"{platform}_{kind}_limit": int(getattr(self, f"{platform}_{kind}").sum())
            for platform in PLATFORMS
            for kind in KINDS
        }


def limits(scores: Mapping[str, float | None], platform: str, latent_dim: int) -> Thresholds | None:
    """Find the limits of a platform among the scores of a run; None where it had no such samples.

    Args:
        scores: Name -> value, as `QualityLimits` computes them.
        platform: Which.
        latent_dim: Dimensions of the latent space.
    """
    error, distance = (scores.get(f"{platform}_{kind}_limit") for kind in KINDS)
    if error is None or distance is None or not (math.isfinite(error) and math.isfinite(distance)):
        return None
    return Thresholds(error, 0.5 * (distance + latent_dim * math.log(2 * math.pi)))


def _quantile(counts: Tensor) -> Tensor:
    """Give the end of the bucket up to which at least the quantile of all values lies."""
    total = counts.sum()
    ends = torch.cat([EDGES, torch.tensor([torch.inf], dtype=torch.float64)])
    if not total:
        return torch.tensor(torch.nan, dtype=torch.float64)
    return ends[int((counts.cumsum(0) < QUANTILE * total).sum())]
