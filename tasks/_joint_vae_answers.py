"""New samples on one platform: which one it is, and the files that say what a network makes of them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from core.errors import UserError
from core.tables import write_table
from datasets.proteomics_files import Matrix
from datasets.proteomics_layout import PLATFORMS
from models.imputation.confidence import confidence
from models.imputation.quality import latent_log_likelihood, reconstruction_error, sample_table
from models.joint_vae.base import OTHER, Platform
from tasks._joint_vae_scaling import Scaling
from training.loading import InMemory
from training.sample_quality import limits
from training.task import Answer

Columns = dict[str, np.ndarray]


def refuse_unlearned(path: Path, scaling: Scaling, scope: str) -> None:
    """Refuse to predict with a network that has not learned to, or for which new samples have no scale.

    Raises:
        UserError: It has seen no sample on both platforms, or each of several clients had a scale of its own.
    """
    if scaling.pairs == 0:
        raise UserError(
            f"{path}: this model has seen no sample on both platforms, so it has not learned one from the other; "
            "use a model of clients that hold pairs"
        )
    if scope == "local" and scaling.clients != 1:
        raise UserError(
            f"{path}: options.preparation.normalization_scope = local: each client of this model has its own scale, "
            "and new samples have none; use the model of one client from a local run, or train with federated"
        )


def prepared(matrix: Matrix, scaling: Scaling) -> InMemory:
    """Give the features [N, D] of the platform that a table holds, found by name, filled and scaled.

    Raises:
        UserError: A feature is missing, a value lies too far out, or the table could be either platform.
    """
    source = _platform(matrix, scaling)
    fitted = scaling.of(source)
    columns = matrix.columns(fitted.features, source)
    names = matrix.ids.tolist()
    scaled = fitted.scaled(matrix.values[:, columns], names, str(matrix.source))
    return InMemory({source: torch.from_numpy(scaled)}, names)


def write_imputed(
    answers: Iterable[Answer], folder: Path, scaling: Scaling, scores: Mapping[str, float | None]
) -> list[Path]:
    """Write `imputed.csv` in original units, batch by batch; with a latent space `latent.csv` and `quality.csv`, too.

    Where predictions are averages of draws, `confidence.csv` says how sure they are (`models.imputation.confidence`).
    The quality of a sample is how badly its own platform is rebuilt, and how likely its latent position is. Where both
    are worse than the limits that the run found on its test samples, it is an anomaly; without limits nothing is.

    Raises:
        UserError: A prediction is no finite number; then nothing is written.
    """
    kept: list[Columns] = []
    sure: list[Columns] = []
    sources: set[str] = set()

    def rows() -> Iterator[Mapping[str, np.ndarray]]:
        for one in answers:
            names = np.asarray(one.names)
            imputed = _original(one, scaling)
            _refuse_infinite(one, imputed)
            if "embedding" in one.outputs:
                kept.append({"sample": names, **_quality(one)})
                sources.add(_source(one))
            if deviations := _confidence(one, scaling):
                sure.append({"sample": names, **deviations})
            yield {"sample": names, **imputed}

    written = [write_table(folder / "imputed.csv", rows())]
    if sure:
        written.append(write_table(folder / "confidence.csv", sure))
    if not kept:
        return written
    joined = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    latent = {f"latent_dim_{at + 1}": column for at, column in enumerate(joined["latent"].T)}
    thresholds = limits(scores, sources.pop(), joined["latent"].shape[1])
    table = sample_table(joined["sample"].tolist(), joined["error"], joined["likelihood"], thresholds)
    quality = {str(name): table[name].to_numpy() for name in table.columns}
    return [
        *written,
        write_table(folder / "latent.csv", [{"sample": joined["sample"], **latent}]),
        write_table(folder / "quality.csv", [quality]),
    ]


def _platform(matrix: Matrix, scaling: Scaling) -> str:
    """Tell by its features which platform a table holds; where both name them alike, by its file name."""
    own = set(matrix.features)
    shares = {key: np.mean([name in own for name in scaling.of(key).features]) for key in PLATFORMS}
    if shares["a"] != shares["b"] or not shares["a"]:
        return max(PLATFORMS, key=lambda key: shares[key])
    for platform in PLATFORMS:
        if matrix.source.stem.startswith(f"platform_{platform}"):
            return platform
    raise UserError(
        f"{matrix.source}: its features are those of both platforms; call the file platform_a.csv or platform_b.csv"
    )


def _source(one: Answer) -> Platform:
    """Tell which platform new samples hold."""
    return next(source for source, target in OTHER.items() if f"predicted_{target}" in one.outputs)


def _original(one: Answer, scaling: Scaling) -> Columns:
    """Give predicted features in units of the data, by name."""
    target = OTHER[_source(one)]
    values = scaling.of(target).inverse(one.outputs[f"predicted_{target}"].double().numpy())
    return dict(zip(scaling.of(target).features, values.T, strict=True))


def _confidence(one: Answer, scaling: Scaling) -> Columns:
    """Give how sure each predicted feature is, between 0 and 1, where predictions were drawn."""
    target = OTHER[_source(one)]
    if f"deviation_{target}" not in one.outputs:
        return {}
    fitted = scaling.of(target)
    deviation = one.outputs[f"deviation_{target}"].double().numpy() * np.asarray(fitted.scale)
    return dict(zip(fitted.features, confidence(deviation).T, strict=True))


def _refuse_infinite(one: Answer, imputed: Columns) -> None:
    """Refuse samples of which a network makes no numbers, in scaled units or in those of the data."""
    told = {**imputed, **{name: values.numpy().reshape(len(one.names), -1) for name, values in one.outputs.items()}}
    for name, values in told.items():
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(one.names), -1)).all(axis=1))
        if len(bad):
            raise UserError(
                f"prediction of sample {one.names[bad[0]]!r}: {name} is no finite number; check the units of this "
                "sample, and whether the training has come to an end"
            )


def _quality(one: Answer) -> Columns:
    """Give latent position, reconstruction error and likelihood of each sample."""
    latent, given, rebuilt = (one.outputs[name].double().numpy() for name in ("embedding", "given", "rebuilt"))
    error, likelihood = reconstruction_error(given, rebuilt), latent_log_likelihood(latent)
    return {"latent": latent.astype(np.float32), "error": error, "likelihood": likelihood}
