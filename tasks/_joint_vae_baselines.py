"""Imputation without a network, in the same scaled units and on the same samples."""

from collections.abc import Callable, Mapping

import torch

from core.errors import UserError
from models.imputation import baseline
from models.imputation.knn import Knn, Neighbourhood
from models.imputation.ridge import Ridge
from models.imputation.wnn import Wnn
from tasks._joint_vae_options import Baseline
from training.loading import fetch
from training.task import Batch, Samples

CANDIDATES = tuple(
    Neighbourhood(k=k, kernel=kernel, bandwidth=1.0) for k in (5, 10, 20, 50) for kernel in ("distance", "gaussian")
)
"""Neighbourhoods of which the best by cross-validation on training rows is taken, for each direction."""
MAKERS: Mapping[Baseline, Callable[[], baseline.Baseline]] = {
    "ridge": Ridge,
    "knn": lambda: Knn(CANDIDATES),
    "wnn": Wnn,
}


def fit_baselines(names: tuple[Baseline, ...], train: Samples) -> Mapping[str, Callable[[Batch], Batch]]:
    """Fit methods on training samples that were measured on both platforms.

    Args:
        names: Which.
        train: The pooled training samples.

    Returns:
        Name -> `cross_a` and `cross_b` of a batch.

    Raises:
        UserError: There are too few samples on both platforms.
    """
    if not names:
        return {}
    batch = fetch(train, range(len(train)))
    paired = batch["has_a"] & batch["has_b"]
    if not paired.any():
        raise UserError(
            f"options.compare_with = {', '.join(names)}: no train sample is on both platforms, and these methods learn "
            "from pairs; leave them out"
        )
    a, b = (batch[platform][paired].double().numpy() for platform in "ab")
    units = getattr(train, "units", None)
    own = None if units is None else [unit for unit, pair in zip(units, paired.tolist(), strict=True) if pair]
    return {name: _predictor(MAKERS[name]().fit(a, b, own)) for name in names}


def _predictor(method: baseline.Baseline) -> Callable[[Batch], Batch]:
    def predict(batch: Batch) -> Batch:
        a, b = (batch[platform].double().numpy() for platform in "ab")
        crossed = {"cross_a": method.impute(b, "b", "a"), "cross_b": method.impute(a, "a", "b")}
        return {name: torch.from_numpy(values).float() for name, values in crossed.items()}

    return predict
