"""Cross-platform proteomics: two assays of the same samples, each predicted from the other through a shared space.

Clients may hold samples with both platforms or with one; what a client has no data for neither trains there nor
counts in the average.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import nn
from torchmetrics import MetricCollection

from core.errors import UserError
from datasets.placement import HELD_OUT
from datasets.proteomics import PairedRows, Study
from datasets.proteomics_features import Features
from datasets.proteomics_files import read_matrix
from datasets.proteomics_layout import PLATFORMS, holds_platforms
from datasets.proteomics_scaling import Preprocessing
from datasets.unit_splits import SPLITS
from models.joint_vae import build
from models.joint_vae.base import OTHER, CrossPlatformModel, checked
from tasks._joint_vae_answers import prepared, refuse_unlearned, write_imputed
from tasks._joint_vae_baselines import fit_baselines
from tasks._joint_vae_options import JointVAEOptions, model_type
from tasks._joint_vae_passes import Imputer, impute, learn
from tasks._joint_vae_scaling import (
    Scaling,
    agreed_features,
    contents,
    fit_scaling,
    learned_from,
    passed,
    read_scaling,
    warn_without_pairs,
)
from training.imputation import PARTS, ImputationScores, RankScores
from training.loading import InMemory
from training.sample_quality import QualityLimits
from training.statistics import Statistics
from training.task import Answer, Batch, ClientData, Loss, Samples, TableToTable

FEWEST_SAMPLES = 2
CROSSED = ("cross_a", "cross_b")
"""Each platform from the other."""


class JointVAETask(JointVAEOptions):
    """Each proteomics platform from the other."""

    Fitted: ClassVar[type[BaseModel]] = Scaling
    primary: ClassVar[str] = "cross_corr_mean"
    axis: ClassVar[str] = "feature"
    passes: ClassVar[int] = 3

    # Data

    def clients(self) -> list[str]:
        """Give the names of the data holders."""
        return self._study().clients

    def statistics(self, client: str) -> Statistics:
        """Name the features of a client's files, so that all can agree on those they share, and count its pairs.

        Raises:
            UserError: It has too few samples to train the model type on.
        """
        self._refuse_untrainable(client)
        return contents(self._study().own_features[client], self._study().train_pairs(client))

    def further_statistics(self, client: str, known: Statistics) -> Statistics:
        """Sum up the train samples: counts, means and extremes first, then distances from what these give.

        Where the scaling is given nothing is summed up, and nothing leaves the client.
        """
        if self.preparation.given is not None:
            return Statistics()
        return passed(self._study(self._agreed(known)), client, known, self.preparation)

    def fit(self, own: Statistics, everyone: Statistics) -> Scaling:
        """Take the features from everyone, fill, logarithm and scaling from the own train samples.

        Warns where nobody holds a pair.

        Raises:
            UserError: Nobody has one of the platforms, or a given scaling has other features.
        """
        warn_without_pairs(everyone, str(self.data))
        return learned_from(self._scaling(own, everyone), own)

    def client_data(self, client: str, fitted: BaseModel) -> ClientData:
        """Open the splits of a client."""
        assert isinstance(fitted, Scaling)
        scaling = self._own_scaling(client, fitted)
        return ClientData(*(self._samples(client, split, fitted.features, scaling) for split in SPLITS))

    def held_out(self, fitted: BaseModel) -> InMemory | None:
        """Open the samples that belong to no client, where there are some; a server may hold no data."""
        assert isinstance(fitted, Scaling)
        if not holds_platforms(self.data):
            return None
        if self._study(fitted.features).has_held_out:
            return self._samples(HELD_OUT, "test", fitted.features, {key: fitted.of(key) for key in PLATFORMS})
        self.refuse_absent(self.data, self._study().clients)
        return None

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give samples and donors of each split."""
        return self._study().identities(client)

    def held_out_identities(self) -> dict[str, list[str]]:
        """Give samples and donors of the held-out set."""
        held_out = holds_platforms(self.data) and self._study().has_held_out
        return self._study().identities(HELD_OUT)["test"] if held_out else {}

    def data_digest(self, client: str) -> str:
        """Hash features, ids, donors, splits and values."""
        return self._study().digest(client)

    def describe(self, client: str) -> dict[str, Any]:
        """Count samples, and say what was left out."""
        study = self._study()
        counts = {split: len(study.rows(client, split)) for split in SPLITS}
        platforms, unused = ", ".join(sorted(study.own_features[client])), study.unused(client)
        said = {**counts, "platforms": platforms, **({"unused": unused} if unused else {})}
        return {**said, "files": study.manifest(client)}

    def absent(self, client: str) -> tuple[str, ...]:
        """Give the parameters of a platform of which a client has no train sample."""
        lacking = [key for key in OTHER if key not in self._study().trains_on(client)]
        return tuple(pattern for platform in lacking for pattern in self._outline.platform_parameters(platform))

    # Network

    def network(self, fitted: BaseModel) -> nn.Module:
        """Build the network."""
        assert isinstance(fitted, Scaling)
        return build(model_type(self.model), len(fitted.a.features), len(fitted.b.features), self.config())

    def advance(self, network: nn.Module, epoch: int, step: int) -> None:
        """Let schedules of the loss follow epochs and steps of the whole run."""
        assert isinstance(network, CrossPlatformModel)
        network.advance(epoch, step)

    def forward(self, network: nn.Module, batch: Batch) -> Batch:
        """Give the terms of the loss, and in evaluation what becomes of both platforms.

        These are reconstructions and predictions [B, D], and positions in the latent space [B, L] where there is one.

        New data holds one platform only; then it is what is `predicted` of the other, and where the model type has a
        latent space the position in it as `embedding`.
        """
        assert isinstance(network, CrossPlatformModel)
        if "has_a" not in batch:
            return impute(network, batch, self.n_samples, latent=not self.direct)
        if network.training:
            return learn(network, batch, ())
        latent = {} if self.direct else {f"latent_{key}": network.latent(batch[key], key)[0] for key in OTHER}
        return {**learn(network, batch, self._parts), **latent}

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        """Give the loss that the network has computed."""
        terms = {name: value for name, value in outputs.items() if value.dim() == 1}
        total, _ = terms.pop("total_loss")
        parts, counts = ({name: term[place] for name, term in terms.items()} for place in (0, 1))
        return Loss(total, len(batch["has_a"]), parts, counts)

    # Measures

    def metrics(self, fitted: BaseModel) -> MetricCollection:
        """Correlations by feature and by sample, R2 and errors, in scaled units; limits of the quality of samples.

        A network that has seen no pair has no scores across platforms.
        """
        assert isinstance(fitted, Scaling)
        widths, learned = (len(fitted.a.features), len(fitted.b.features)), fitted.pairs != 0
        metrics = {"scores": ImputationScores(*widths, self._parts, learned=learned)}
        ranks = {"ranks": RankScores(*widths, learned=learned)} if self.spearman else {}
        limits = {} if self.direct else {"limits": QualityLimits()}
        return MetricCollection({**metrics, **ranks, **limits}, compute_groups=False)

    def observe(self, metrics: MetricCollection, outputs: Batch, batch: Batch) -> None:
        """Add what a batch shows."""
        metrics.update(outputs, batch["a"], batch["b"], batch["has_a"], batch["has_b"])

    def predictions(self, outputs: Batch, batch: Batch) -> Batch:
        """Keep both platforms as measured and as predicted from each other, [B, D] in scaled units."""
        measured = {"target_a": batch["a"], "target_b": batch["b"], "has_a": batch["has_a"], "has_b": batch["has_b"]}
        return {**measured, **{name: outputs[name] for name in CROSSED}}

    def classes(self, fitted: BaseModel) -> list[str]:
        """Give the features of platform a, then those of b."""
        assert isinstance(fitted, Scaling)
        return [f"{platform.upper()}: {name}" for platform in PLATFORMS for name in fitted.of(platform).features]

    def baselines(self, train: Samples, fitted: BaseModel) -> Mapping[str, Callable[[Batch], Batch]]:
        """Fit what `compare_with` names."""
        return fit_baselines(self.compare_with, train)

    # New data

    def inputs(self, path: Path, fitted: BaseModel) -> InMemory:
        """Open a table of one platform; which one, its columns tell.

        Raises:
            UserError: It lacks a feature, or it cannot be read; or the network has not learned from pairs, or from
                clients of which each has its own scale.
        """
        assert isinstance(fitted, Scaling)
        refuse_unlearned(path, fitted, self.preparation.normalization_scope)
        return prepared(read_matrix(path, wanted={*fitted.a.features, *fitted.b.features}), fitted)

    def write_answers(
        self, answers: Iterable[Answer], folder: Path, fitted: BaseModel, scores: Mapping[str, float | None]
    ) -> list[Path]:
        """Write `imputed.csv` in original units, and where there is a latent space `latent.csv` and `quality.csv`."""
        assert isinstance(fitted, Scaling)
        return write_imputed(answers, folder, fitted, scores)

    def table_to_table(self, network: nn.Module, samples: Batch, fitted: BaseModel) -> TableToTable:
        """Give the map from the platform that new samples hold to the other, in scaled units."""
        assert isinstance(network, CrossPlatformModel) and isinstance(fitted, Scaling)
        ((source, values),) = samples.items()
        target = OTHER[checked(source)]
        mapping = Imputer(network, checked(source), target, self.n_samples)
        return TableToTable(mapping, values, fitted.of(source).features, fitted.of(target).features)

    # Words

    def variant(self) -> str:
        """Give the type of the model."""
        return model_type(self.model)

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Say what the network maps to what."""
        assert isinstance(network, CrossPlatformModel)
        return {"model_type": network.model_type, "features_a": network.dims["a"], "features_b": network.dims["b"]}

    # Opened once per process

    def _study(self, features: Features | None = None) -> Study:
        """Open the study; a party that sees only its own files learns from the others which features are used."""
        if features is None or features == self._whole.features:
            return self._whole
        return self._narrowed(tuple(features["a"]), tuple(features["b"]))

    @functools.cached_property
    def _whole(self) -> Study:
        return Study.open(self.data, self.placement())

    @functools.cached_property
    def _narrower(self) -> dict[tuple[tuple[str, ...], tuple[str, ...]], Study]:
        return {}

    def _narrowed(self, a: tuple[str, ...], b: tuple[str, ...]) -> Study:
        if (a, b) not in self._narrower:
            self._narrower[a, b] = Study.open(self.data, self.placement(), features={"a": a, "b": b})
        return self._narrower[a, b]

    @property
    def _parts(self) -> tuple[str, ...]:
        """What the model gives of each sample."""
        return CROSSED if self.direct else PARTS

    @functools.cached_property
    def _outline(self) -> CrossPlatformModel:
        """A network without weights, for the names of its parameters."""
        width_a, width_b = (max(len(self._whole.features[platform]), 2) for platform in PLATFORMS)
        with torch.device("meta"):
            return build(model_type(self.model), width_a, width_b, self.config())

    def _agreed(self, known: Statistics) -> Features:
        visible: Features = self._whole.features if holds_platforms(self.data) else {"a": (), "b": ()}
        return agreed_features(known, visible)

    # Samples

    def _scaling(self, own: Statistics, everyone: Statistics) -> Scaling:
        features = self._agreed(everyone)
        if self.preparation.given is not None:
            return read_scaling(self.preparation.given, features)
        shared = fit_scaling(everyone, features, self.preparation)
        return shared if own == everyone else fit_scaling(own, features, self.preparation, shared)

    def _own_scaling(self, client: str, fitted: Scaling) -> dict[str, Preprocessing]:
        """Give what a client's values are scaled by: what all share, or what is fitted on its own train samples."""
        if self.preparation.normalization_scope != "local":
            return {platform: fitted.of(platform) for platform in PLATFORMS}
        study = self._study(fitted.features)
        return {
            platform: Preprocessing.from_rows(
                fitted.of(platform).features,
                study.train_values(client, platform),
                self.preparation.steps(platform),
                otherwise=fitted.of(platform),
            )
            for platform in PLATFORMS
        }

    def _samples(self, client: str, split: str, features: Features, scaling: Mapping[str, Preprocessing]) -> InMemory:
        rows: PairedRows = self._study(features).pairs(client, split, scaling)
        return InMemory(rows.batch(), rows.names, rows.units)

    def _refuse_untrainable(self, client: str) -> None:
        study, kind = self._study(), model_type(self.model)
        if self.direct and not study.train_pairs(client):
            raise UserError(
                f"{self.data}: client {client!r} trains on platform {' and '.join(study.trains_on(client))} without "
                f"any pair, but model_type {kind} learns from pairs; leave the client out or choose another type"
            )
        normed = any(isinstance(module, nn.BatchNorm1d) for module in self._outline.modules())
        if normed and len(study.rows(client, "train")) < FEWEST_SAMPLES:
            raise UserError(
                f"{self.data}: client {client!r} has 1 train sample, {FEWEST_SAMPLES} are needed for the statistics of "
                "a batch; give it more, leave it out, or set model.batch_norm to false"
            )


TASK = JointVAETask
