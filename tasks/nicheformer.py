"""Cell-type classification by fine-tuning NicheFormer on spatial single-cell data.

Model and fine-tuning follow theislab/nicheformer (BSD-3-Clause): gene-rank tokens, a transformer encoder, the mean over
positions, a bias-free linear head, cross-entropy.
"""

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from core.errors import UserError
from core.files import sha256_json
from datasets.cell_samples import CONTEXT, CellSamples, class_numbers, context_ids, coordinates
from datasets.cell_tokens import TokenSource
from datasets.cells import Cells, Study
from datasets.unit_splits import SPLITS
from models.nicheformer import NicheFormer
from models.nicheformer_checkpoint import Checkpoint, read
from models.nicheformer_classifier import NicheFormerClassifier
from models.nicheformer_shape import HyperParameters
from tasks._nicheformer_options import NicheFormerOptions
from training.classification import BalancedAccuracy
from training.statistics import Statistics, Values
from training.task import Batch, ClientData, Loss

RESERVED_IDS = 30
"""Token ids below the first gene."""


class LabelMap(BaseModel):
    """Label map, and mean and standard deviation of the coordinates where they are used."""

    model_config = ConfigDict(frozen=True)

    classes: list[str]
    coordinate_mean: list[float] = []
    coordinate_deviation: list[float] = []


class NicheFormerTask(NicheFormerOptions):
    """Cell types from gene-rank tokens."""

    Fitted: ClassVar[type[BaseModel]] = LabelMap
    primary: ClassVar[str] = "f1_macro"

    # Data

    def clients(self) -> list[str]:
        """Give the names of the data holders."""
        return self._study.clients

    def statistics(self, client: str) -> Statistics:
        """Count the labels of the train split, and sum its coordinates where they are used."""
        cells = self._study.cells(client, "train")
        names, counts = np.unique(cells.column(self.label).astype(np.str_), return_counts=True)
        if len(names) < 2:
            raise UserError(
                f"{cells.path}: obs[{self.label!r}]: client {client!r} has one class ({names[0]}) to train on; "
                "give it cells of two classes or leave it out"
            )
        arrays = self._coordinate_sums(cells) if self.include_spatial else {}
        return Statistics(counts={"labels": dict(zip(names.tolist(), counts.tolist(), strict=True))}, arrays=arrays)

    def fit(self, own: Statistics, everyone: Statistics) -> LabelMap:
        """Take the label map from everyone, the scaling of coordinates from the own cells."""
        classes = sorted(everyone.counts["labels"])
        if not self.include_spatial:
            return LabelMap(classes=classes)
        count, total, squares = (own.arrays[name].array() for name in ("count", "sum", "squares"))
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        return LabelMap(classes=classes, coordinate_mean=mean.tolist(), coordinate_deviation=deviation.tolist())

    def client_data(self, client: str, fitted: BaseModel) -> ClientData:
        """Tokenize the splits of a client, or read their tokens from the cache."""
        return ClientData(*(self._samples(self._study.cells(client, split), fitted) for split in SPLITS))

    def held_out(self, fitted: BaseModel) -> CellSamples | None:
        """Tokenize the held-out cells, where there are some."""
        return None if self._study.held_out is None else self._samples(self._study.held_out, fitted)

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give cells, units and the `disjoint_keys` of each split."""
        return {split: levels for (name, split), levels in self._members.items() if name == client}

    def held_out_identities(self) -> dict[str, list[str]]:
        """Give cells, units and the `disjoint_keys` of the held-out set."""
        return self._members.get(("held_out", "test"), {})

    def data_digest(self, client: str) -> str:
        """Hash all that samples are made of: counts, genes, cells, labels, context, coordinates, and token sources."""
        study = self._study
        parts = [study.held_out] if client == "held_out" else [study.cells(client, split) for split in SPLITS]
        return sha256_json([self._source.digest, *(self._digest(cells) for cells in parts if cells is not None)])

    def _digest(self, cells: Cells) -> list[str]:
        columns = [cells.column(self.label).tolist(), self._context(cells).tolist()]
        if self.include_spatial:
            columns.append(coordinates(cells, self.coordinate_keys).tolist())
        return [cells.digest, *map(sha256_json, columns)]

    def _context(self, cells: Cells) -> npt.NDArray[np.int32]:
        return context_ids(cells, {"specie": self.specie, "assay": self.assay, "modality": self.modality})

    def describe(self, client: str) -> dict[str, Any]:
        """Count cells, labels and matched genes."""
        cells = {split: self._study.cells(client, split) for split in SPLITS}
        labels = np.concatenate([part.column(self.label).astype(np.str_) for part in cells.values()])
        names, counts = np.unique(labels, return_counts=True)
        genes = self._source.match(cells["train"])
        return {
            **{split: len(part) for split, part in cells.items()},
            "labels": dict(zip(names.tolist(), counts.tolist(), strict=True)),
            "genes": {"total": genes.total, "matched": genes.matched, "translated": genes.translated},
            "files": self._study.manifest()["clients"][client],
        }

    # Network

    def network(self, fitted: BaseModel) -> nn.Module:
        """Put a fresh head on the backbone, and freeze what `fine_tune_mode` says."""
        assert isinstance(fitted, LabelMap)
        backbone = NicheFormer.restored(self._stored) if self._stored else NicheFormer(self._hyper_parameters)
        network = NicheFormerClassifier(
            backbone,
            len(fitted.classes),
            extract_layers=self.extract_layers,
            combine=self.combine,
            with_context=self.with_context,
            masked=self.genes_only,
            extractor=self.extractor,
            spatial=self.include_spatial,
            encode_block=self.encode_block,
        )
        network.set_fine_tune_mode(self.fine_tune_mode)
        return network

    def encode(self, network: nn.Module, batch: Batch) -> Batch | None:
        """Run the frozen layers."""
        assert isinstance(network, NicheFormerClassifier)
        features = network.frozen_features(batch["tokens"])
        return None if features is None else {**features, **{key: batch[key] for key in batch if key != "tokens"}}

    def forward(self, network: nn.Module, batch: Batch) -> Batch:
        """Give `logits` [B, C]."""
        features = {key: batch[key] for key in ("pooled", "hidden", "padding") if key in batch}
        return {"logits": network(batch.get("tokens"), coordinates_B2=batch.get("coordinates"), **features)}

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        """Cross-entropy over the classes."""
        return Loss(cross_entropy(outputs["logits"], batch["label"]), len(batch["label"]), {})

    # Measures

    def metrics(self, fitted: BaseModel) -> MetricCollection:
        """Accuracy, macro-F1 over classes that occur in truth or prediction, balanced accuracy, confusion matrix."""
        count = len(self.classes(fitted))
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "f1_macro": MulticlassF1Score(count, average="macro"),
            "balanced_accuracy": BalancedAccuracy(count),
            "f1_per_class": MulticlassF1Score(count, average="none"),
            "confusion_matrix": MulticlassConfusionMatrix(count),
        }
        return MetricCollection(metrics, compute_groups=False)

    def observe(self, metrics: MetricCollection, outputs: Batch, batch: Batch) -> None:
        """Count hits and misses."""
        metrics.update(outputs["logits"], batch["label"])

    def predictions(self, outputs: Batch, batch: Batch) -> Batch:
        """Keep true class, predicted class, and probability of each class."""
        scores = outputs["logits"].softmax(dim=1)
        return {"target": batch["label"], "predicted": scores.argmax(dim=1), "scores": scores}

    def classes(self, fitted: BaseModel) -> list[str]:
        """Give the class names in the order of the label map."""
        assert isinstance(fitted, LabelMap)
        return fitted.classes

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Say what the backbone is."""
        if not self._stored:
            return {"backbone": "random weights"}
        return {"backbone": self._stored.kind, "loaded": self._stored.loaded, "ignored": self._stored.ignored}

    # Opened once per process

    @functools.cached_property
    def _study(self) -> Study:
        study = Study.open(
            self.data,
            client_key=self.client_key,
            split_key=self.split_key,
            unit_key=self.unit_key,
            held_out=self.held_out_client,
            fractions=self.fractions,
            seed=self.split_seed,
            blocks=self.blocks,
            counts_layer=self.counts_layer,
        )
        study.require(self._columns)
        return study

    @property
    def _columns(self) -> dict[str, str]:
        """Give obs column -> option, for all columns that are read."""
        spatial = self.coordinate_keys if self.include_spatial else ()
        return {
            **{kind: f"options.{kind}" for kind in CONTEXT if getattr(self, kind) is None},
            **dict.fromkeys(spatial, "options.coordinate_keys"),
            **dict.fromkeys(self.disjoint_keys, "options.disjoint_keys"),
            self.label: "options.label",
        }

    @functools.cached_property
    def _members(self) -> dict[tuple[str, str], dict[str, list[str]]]:
        members = self._study.members(*self.disjoint_keys)
        return {place: {level: list(ids) for level, ids in levels.items()} for place, levels in members.items()}

    @functools.cached_property
    def _stored(self) -> Checkpoint | None:
        return read(self.checkpoint) if self.checkpoint else None

    @property
    def _hyper_parameters(self) -> HyperParameters:
        if self._stored:
            return HyperParameters.from_checkpoint(self._stored.hyper_parameters)
        assert self.random_backbone is not None
        return HyperParameters(
            n_tokens=len(self._source.vocabulary) + RESERVED_IDS, **self.random_backbone.model_dump()
        )

    @functools.cached_property
    def _source(self) -> TokenSource:
        reference = self.reference or self._folder / "reference"
        beside = reference / "orthologs.csv"
        return TokenSource(
            reference=reference,
            technology=self.technology,
            rounding=self.mean_rounding,
            orthologs=self.orthologs or (beside if beside.exists() else None),
            minimum=self.min_matched_genes,
            length=self._context_length,
            cache=self._folder / ".cache" / "tokens",
        )

    @property
    def _folder(self) -> Path:
        return self.data if self.data.is_dir() else self.data.parent

    @property
    def _context_length(self) -> int:
        if self.random_backbone:
            return self.random_backbone.context_length
        assert self._stored is not None
        return HyperParameters.from_checkpoint(self._stored.hyper_parameters).context_length

    def _samples(self, cells: Cells, fitted: BaseModel) -> CellSamples:
        assert isinstance(fitted, LabelMap)
        self._check_vocabulary()
        scaled = None
        if self.include_spatial:
            mean, deviation = np.asarray(fitted.coordinate_mean), np.asarray(fitted.coordinate_deviation)
            scaled = ((coordinates(cells, self.coordinate_keys) - mean) / deviation).astype(np.float32)
        stored = self._hyper_parameters
        return CellSamples(
            tokens_NL=self._source.tokens(cells),
            context_N3=self._context(cells),
            context_flags={"specie": stored.specie, "assay": stored.assay, "modality": stored.modality},
            context_length=stored.context_length,
            labels_N=class_numbers(cells, self.label, fitted.classes),
            coordinates_N2=scaled,
            names=cells.names,
        )

    def _coordinate_sums(self, cells: Cells) -> dict[str, Values]:
        values = coordinates(cells, self.coordinate_keys)
        sums = {"count": [float(len(values))] * 2, "sum": values.sum(0), "squares": (values**2).sum(0)}
        return {name: Values(rule="sum", values=list(map(float, value))) for name, value in sums.items()}

    def _check_vocabulary(self) -> None:
        genes, known = len(self._source.vocabulary), self._hyper_parameters.n_tokens - RESERVED_IDS
        if genes != known:
            vocabulary = self._source.reference / "model.h5ad"
            raise UserError(
                f"{vocabulary}: {genes} genes, but {self.checkpoint} has tokens for {known}; "
                "let options.reference and options.checkpoint belong together"
            )


TASK = NicheFormerTask
