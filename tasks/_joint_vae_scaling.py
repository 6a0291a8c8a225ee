"""What is fitted of both platforms, from statistics in three passes.

First clients name their features, so that all use those they share, and count their pairs; then they count, sum up
and give extremes; then they sum up distances from the centre that these give.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import UserError
from core.files import read_json
from datasets.proteomics import Study
from datasets.proteomics_features import Features, shared_names
from datasets.proteomics_layout import PLATFORMS
from datasets.proteomics_scaling import Preprocessing
from datasets.proteomics_statistics import SecondPass, merge_rule
from tasks._joint_vae_options import Preparation
from training.statistics import Statistics, Values

FIRST, SECOND = "first", "second"
LEARNED = "learned"


class Scaling(BaseModel):
    """What was fitted of both platforms, and on what a network that takes it has learned."""

    model_config = ConfigDict(frozen=True)

    a: Preprocessing
    b: Preprocessing
    clients: int | None = None
    """Clients that the network learns from; None where a scaling stands alone."""
    pairs: int | None = None
    """Their train samples on both platforms: without any, neither platform is learned from the other."""

    def of(self, platform: str) -> Preprocessing:
        """Give that of a platform."""
        return self.a if platform == "a" else self.b

    @property
    def features(self) -> Features:
        """Names of the features of each platform, in order."""
        return {"a": self.a.features, "b": self.b.features}


def contents(own: Mapping[str, tuple[str, ...]], train_pairs: int) -> Statistics:
    """Name the features of one client's platforms, and count its train samples on both."""
    names = {f"features_{platform}": dict.fromkeys(own.get(platform, ()), 1) for platform in PLATFORMS}
    holders = {platform: int(platform in own) for platform in PLATFORMS}
    return Statistics(counts={**names, "holders": holders, LEARNED: {"clients": 1, "pairs": train_pairs}})


def learned_from(scaling: Scaling, own: Statistics) -> Scaling:
    """Note on what a network learns, from the first pass of the clients that it learns from, merged."""
    return scaling.model_copy(update=own.counts[LEARNED])


def warn_without_pairs(everyone: Statistics, data: str) -> None:
    """Warn where the train samples of all clients hold no pair."""
    if not everyone.counts[LEARNED]["pairs"]:
        warnings.warn(
            f"{data}: no client has a train sample on both platforms, so that neither is learned from the other and "
            "scores across are undefined",
            stacklevel=2,
        )


def agreed_features(known: Statistics, visible: Features) -> Features:
    """Give the features of each platform that all who have it share.

    Args:
        known: The first pass, merged.
        visible: What all clients share whose files are open here: one of a deployment sees its own only, a simulation
            everyone's, also where one client trains alone.

    Raises:
        UserError: Nobody has one of the platforms, or those who have it share no feature.
    """
    agreed = {}
    for platform in PLATFORMS:
        holders, here = known.counts["holders"][platform], visible[platform]
        shared = shared_names(known.counts[f"features_{platform}"], holders) if holders else here
        agreed[platform] = tuple(name for name in shared if name in set(here)) if here else shared
        if not (holders or here):
            raise UserError(f"data: no client has platform {platform}; give platform_{platform}.csv to one at least")
        if not agreed[platform]:
            raise UserError(
                f"data: clients share no feature of platform {platform}; name features alike, and check that no "
                "client has swapped its files"
            )
    return agreed


def passed(study: Study, client: str, known: Statistics, options: Preparation) -> Statistics:
    """Make the second or third pass over a client's train samples, whichever is next."""
    if f"{FIRST}.a.count" not in known.arrays:
        return _packed(FIRST, {platform: study.first_pass(client, platform) for platform in PLATFORMS}, {})
    second = {
        platform: study.second_pass(client, platform, _arrays(known, FIRST, platform), options.steps(platform))
        for platform in PLATFORMS
    }
    arrays = {platform: dict(one.arrays) for platform, one in second.items()}
    return _packed(SECOND, arrays, {platform: dict(one.buckets) for platform, one in second.items()})


def fit_scaling(
    known: Statistics, features: Features, options: Preparation, otherwise: Scaling | None = None
) -> Scaling:
    """Fit both platforms.

    Args:
        known: All passes, merged.
        features: Of each platform.
        options: What is asked for.
        otherwise: What to take for features without a value here.

    Raises:
        UserError: Nobody has one of the platforms.
    """
    each = {
        platform: Preprocessing.fit(
            features[platform],
            _arrays(known, FIRST, platform),
            SecondPass(_arrays(known, SECOND, platform), known.counts[f"{SECOND}.{platform}.buckets"]),
            options.steps(platform),
            otherwise=None if otherwise is None else otherwise.of(platform),
        )
        for platform in PLATFORMS
    }
    return Scaling(a=each["a"], b=each["b"])


def read_scaling(path: Path, agreed: Features) -> Scaling:
    """Read what an earlier run fitted.

    Raises:
        UserError: The file does not hold it, or it has features that the data lack.
    """
    try:
        scaling = Scaling.model_validate(read_json(path))
    except ValidationError as error:
        reason = error.errors()[0]
        place = ".".join(map(str, reason["loc"])) or "the file"
        raise UserError(f"{path}: {place}: {reason['msg']}; give the model_final.json of a run") from None
    for platform in PLATFORMS:
        missing = sorted(set(scaling.of(platform).features) - set(agreed[platform]))
        if missing:
            raise UserError(
                f"{path}: feature {missing[0]!r} of platform {platform} is not in the data of every client; give a "
                "scaling that was fitted on features they share"
            )
    return scaling


def _packed(
    name: str, arrays: Mapping[str, Mapping[str, np.ndarray]], buckets: Mapping[str, dict[str, int]]
) -> Statistics:
    """Name the numbers of both platforms after the pass."""
    values = {
        f"{name}.{platform}.{key}": Values(rule=merge_rule(key), values=value.tolist())
        for platform, rows in arrays.items()
        for key, value in rows.items()
    }
    return Statistics(
        arrays=values, counts={f"{name}.{platform}.buckets": counts for platform, counts in buckets.items()}
    )


def _arrays(known: Statistics, name: str, platform: str) -> dict[str, np.ndarray]:
    start = f"{name}.{platform}."
    return {key.removeprefix(start): one.array() for key, one in known.arrays.items() if key.startswith(start)}
