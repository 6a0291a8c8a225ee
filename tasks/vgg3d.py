"""Chromatin classes of cell nuclei in 3-D electron microscopy, by fine-tuning a 3-D VGG.

A nucleus is cut into crops; each crop is classified, and a nucleus by the mean over its crops. Features come from a
network trained on another problem (synapses of the fly), under a small new classifier.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection

from core.errors import UserError
from core.tables import write_table
from datasets.nuclei import NucleiStudy
from datasets.nuclei_crops import NucleiCrops
from datasets.nuclei_inputs import open_nuclei
from datasets.placement import HELD_OUT
from datasets.unit_splits import SPLITS
from models.vgg3d import Adapter, Features
from models.vgg3d_checkpoint import Checkpoint, compare, load_features, read
from tasks._vgg3d_options import MIB, VGG3DOptions
from training.classification import UnitScores, class_columns, class_metrics
from training.statistics import Statistics
from training.task import Answer, Batch, ClientData, Loss


class LabelMap(BaseModel):
    """Which class has which label (the place in these lists), and how much its crops weigh in the loss."""

    model_config = ConfigDict(frozen=True)

    class_ids: list[int]
    classes: list[str]
    weights: list[float] = []


class VGG3DTask(VGG3DOptions):
    """Chromatin classes from crops of nuclei."""

    Fitted: ClassVar[type[BaseModel]] = LabelMap
    primary: ClassVar[str] = "f1_macro"

    # Data

    def clients(self) -> list[str]:
        """Give the names of the data holders."""
        return self._study.clients

    def statistics(self, client: str) -> Statistics:
        """Count the crops of each class in the train split."""
        ids = {name: class_id for class_id, name in self._study.classes.items()}
        counts = self._study.class_counts(client, "train")
        return Statistics(counts={"classes": {f"{ids[name]} {name}": count for name, count in counts.items()}})

    def fit(self, own: Statistics, everyone: Statistics) -> LabelMap:
        """Take the label map from everyone, the weights of classes from the own crops.

        Raises:
            UserError: Clients call a class differently, or there are fewer than two classes.
        """
        ids: dict[int, str] = {}
        for key in everyone.counts["classes"]:
            number, _, name = key.partition(" ")
            if ids.setdefault(int(number), name) != name:
                raise UserError(f"{self.table}: class {number} is called {ids[int(number)]!r} and {name!r}; use one")
        if len(ids) < 2:
            raise UserError(f"{self.table}: {len(ids)} class ({', '.join(ids.values())}) to train on; two are needed")
        class_ids = sorted(ids)
        counts = [own.counts["classes"].get(f"{number} {ids[number]}", 0) for number in class_ids]
        weights = balanced(counts) if self.class_weights == "balanced" else []
        return LabelMap(class_ids=class_ids, classes=[ids[number] for number in class_ids], weights=weights)

    def client_data(self, client: str, fitted: BaseModel) -> ClientData:
        """Open the crops of a client; only those of train are augmented."""
        return ClientData(*(self._crops(client, split, fitted) for split in SPLITS))

    def held_out(self, fitted: BaseModel) -> NucleiCrops | None:
        """Open the crops of the held-out nuclei, where there are some; a deployment's server may hold no data.

        Raises:
            UserError: `held_out_client` names a client that is not there.
        """
        if not self.table.exists():
            return None
        if self._study.has_held_out:
            return self._crops(HELD_OUT, "test", fitted)
        self.refuse_absent(self.table, self._study.clients)
        return None

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give nuclei and hashes of their content for each split."""
        return self._study.identities(client)

    def held_out_identities(self) -> dict[str, list[str]]:
        """Give nuclei and hashes of their content in the held-out set."""
        held_out = self.table.exists() and self._study.has_held_out
        return self._study.identities(HELD_OUT)["test"] if held_out else {}

    def data_digest(self, client: str) -> str:
        """Hash nuclei, classes, splits, voxels, and how crops are made of them."""
        return self._study.digest(client)

    def describe(self, client: str) -> dict[str, Any]:
        """Count crops and nuclei of each split, and crops of each class."""
        return {
            **{split: sum(self._study.class_counts(client, split).values()) for split in SPLITS},
            "labels": self._study.class_counts(client),
            "nuclei": {split: len(self._study.members(client, split)) for split in SPLITS},
            "files": self._study.manifest()["clients"][client],
        }

    def flip_labels(self, batch: Batch, fitted: BaseModel) -> Batch:
        """Call the first class the last, and so on."""
        return {**batch, "label": len(self.classes(fitted)) - 1 - batch["label"]}

    # Network

    def network(self, fitted: BaseModel) -> nn.Module:
        """Put a fresh classifier on the features, and freeze what never trains."""
        network = self.bare_network(fitted)
        if self._stored:
            partial, adapt = self.allow_partial, self.adapt_first_conv
            load_features(network.features, self._stored, allow_partial=partial, adapt_channels=adapt)
        return network

    def bare_network(self, fitted: BaseModel) -> Adapter:
        """Build the network without the checkpoint."""
        assert isinstance(fitted, LabelMap)
        features = Features(self.backbone.shape())
        network = Adapter(features, self.crop_options().input_size, len(fitted.classes), self.classifier_size)
        features.requires_grad_(not self.never_unfrozen)
        network.freeze_classifier(self.freeze_classifier_layers)
        return network

    def waiting(self, epoch: int) -> tuple[str, ...]:
        """Let stages of the features wait: from the output end, one starts every `progressive_unfreezing` epochs."""
        if self.progressive_unfreezing is None:
            return ()
        started = epoch // self.progressive_unfreezing
        stages = self.backbone.shape().parameters_of_stages()
        return tuple(pattern for stage in stages[: max(0, len(stages) - started)] for pattern in stage)

    def rate_factors(self) -> dict[str, float]:
        """Lower the learning rate of each stage by its distance from the output."""
        stages = self.backbone.shape().parameters_of_stages()
        if self.stage_rate_factor == 1:
            return {}
        return {
            pattern: self.stage_rate_factor**depth
            for depth, stage in enumerate(reversed(stages), start=1)
            for pattern in stage
        }

    def encode(self, network: nn.Module, batch: Batch) -> Batch | None:
        """Run features that never train."""
        if not self.never_unfrozen:
            return None
        return {
            "features": self._features(network, batch["volume"]),
            **{key: batch[key] for key in batch if key != "volume"},
        }

    def forward(self, network: nn.Module, batch: Batch) -> Batch:
        """Give `logits` [B, K]."""
        assert isinstance(network, Adapter)
        features = batch["features"] if "features" in batch else self._features(network, batch["volume"])
        return {"logits": network.classify(features)}

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        """Cross-entropy over the classes, each crop weighted by its class where that is asked for."""
        losses = cross_entropy(outputs["logits"], batch["label"], reduction="none")
        if "weight" in batch:
            losses = losses * batch["weight"]
        return Loss(losses.mean(), len(losses), {})

    # Measures

    def metrics(self, fitted: BaseModel) -> MetricCollection:
        """Give the class report over crops, and accuracy and macro F1 over nuclei."""
        count = len(self.classes(fitted))
        metrics: dict[str, Metric | MetricCollection] = {
            **class_metrics(count),
            "nucleus": UnitScores("nucleus", count),
        }
        return MetricCollection(metrics, compute_groups=False)

    def observe(self, metrics: MetricCollection, outputs: Batch, batch: Batch) -> None:
        """Count hits and misses, and keep the probabilities of each crop for its nucleus."""
        metrics.update(outputs["logits"].softmax(dim=1), batch["label"], units=batch["nucleus"])

    def predictions(self, outputs: Batch, batch: Batch) -> Batch:
        """Keep true class, predicted class, and probability of each class."""
        scores = outputs["logits"].softmax(dim=1)
        return {"target": batch["label"], "predicted": scores.argmax(dim=1), "scores": scores}

    def classes(self, fitted: BaseModel) -> list[str]:
        """Give the class names in the order of the label map."""
        assert isinstance(fitted, LabelMap)
        return fitted.classes

    # New data

    def inputs(self, path: Path, fitted: BaseModel) -> NucleiCrops:
        """Open nuclei without classes: a folder of them, one alone, or a CSV with `sample_id` that lists them."""
        return open_nuclei(path, self.crop_options(), self.cache_mb * MIB)

    def columns(self, outputs: Batch, fitted: BaseModel) -> dict[str, np.ndarray]:
        """Give predicted class, and probability of each class."""
        return class_columns(outputs["logits"].softmax(dim=1), self.classes(fitted))

    def write_answers(
        self, answers: Iterable[Answer], folder: Path, fitted: BaseModel, scores: Mapping[str, float | None]
    ) -> list[Path]:
        """Write a table of crops, and `nuclei.csv` of nuclei, each predicted by the mean over its crops."""
        means = UnitMeans()

        def noted() -> Iterator[Answer]:
            for one in answers:
                means.add([name.partition("/")[0] for name in one.names], one.outputs["logits"].softmax(dim=1))
                yield one

        tables = super().write_answers(noted(), folder, fitted, scores)
        nuclei = {"sample": np.asarray(list(means.counts)), "crops": np.asarray(list(means.counts.values()))}
        rows = {**nuclei, **class_columns(means.compute(), self.classes(fitted))}
        return [*tables, write_table(folder / "nuclei.csv", [rows])]

    # Words

    def variant(self) -> str:
        """Say how the features are trained."""
        if not self.freeze_features:
            return "whole"
        return "frozen" if self.progressive_unfreezing is None else "progressive"

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Say where the features come from, and what of the checkpoint was used."""
        assert isinstance(network, Adapter)
        if self._stored is None:
            return {"features": "random weights"}
        report = compare(network.features.shape, self._stored, adapt_channels=self.adapt_first_conv)
        return {
            "features": str(self.checkpoint),
            "loaded": len(report.loaded),
            **{name: list(getattr(report, name)) for name in ("missing", "mismatching", "unknown")},
        }

    # Opened once per process

    @functools.cached_property
    def _study(self) -> NucleiStudy:
        return NucleiStudy.open(
            self.data,
            self.table,
            placement=self.placement(),
            selection=self.selection(),
            options=self.crop_options(),
            unlisted=self.unlisted,
            cache_bytes=self.cache_mb * MIB,
        )

    @functools.cached_property
    def _stored(self) -> Checkpoint | None:
        return read(self.checkpoint) if self.checkpoint else None

    def _crops(self, client: str, split: str, fitted: BaseModel) -> NucleiCrops:
        assert isinstance(fitted, LabelMap)
        return self._study.crops(
            client,
            split,
            augment=self.augment and split == "train",
            class_weights=fitted.weights or None,
            class_ids=fitted.class_ids,
        )

    def _features(self, network: nn.Module, volumes: Tensor) -> Tensor:
        """Give the features of crops [B, F], flat; those that never train block by block and without gradients."""
        if not self.never_unfrozen:
            return _flat_features(network, volumes)
        with torch.no_grad():
            return torch.cat([_flat_features(network, block) for block in torch.split(volumes, self.encode_block)])


class UnitMeans:
    """Mean probabilities of units, from batches of samples.

    Attributes:
        counts: Unit -> samples seen.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.counts: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}

    def add(self, units: list[str], scores_NK: Tensor) -> None:
        """Add samples."""
        for unit, scores_K in zip(units, scores_NK.double(), strict=True):
            self.counts[unit] = self.counts.get(unit, 0) + 1
            self._sums[unit] = self._sums[unit] + scores_K if unit in self._sums else scores_K

    def compute(self) -> Tensor:
        """Give the mean of each unit [units, K]."""
        return torch.stack([self._sums[unit] / count for unit, count in self.counts.items()])


def _flat_features(network: nn.Module, volumes: Tensor) -> Tensor:
    maps: Tensor = network(volumes, return_features=True)
    return maps.flatten(1)


def balanced(counts: list[int]) -> list[float]:
    """Give the weight n / (k n_c) of each class, k being the classes that occur; the mean over samples is 1.

    A class that does not occur has the weight 1: it is met in other data only.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 1.0 for count in counts]


TASK = VGG3DTask
