"""Cell-type classification by fine-tuning NicheFormer on spatial single-cell data.

Model and fine-tuning follow theislab/nicheformer (BSD-3-Clause): gene-rank tokens, a transformer encoder, the mean over
positions, a bias-free linear head, cross-entropy.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
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
from datasets.cell_inputs import open_cells
from datasets.cell_samples import CellSamples, class_numbers, coordinates
from datasets.cell_tokens import TokenSource
from datasets.cells import Cells, Study
from datasets.unit_splits import SPLITS
from models.nicheformer import NicheFormer
from models.nicheformer_checkpoint import Checkpoint, read
from models.nicheformer_classifier import NicheFormerClassifier
from models.nicheformer_shape import HyperParameters
from tasks._nicheformer_options import NicheFormerOptions
from training.classification import BalancedAccuracy, class_columns
from training.loading import Pool
from training.statistics import Statistics, Values
from training.task import Batch, ClientData, Loss

RESERVED_IDS = 30
"""Token ids below the first gene."""


class LabelMap(BaseModel):
    """Label map, mean and standard deviation of the coordinates where they are used, and what the tokens stand for."""

    model_config = ConfigDict(frozen=True)

    classes: list[str]
    genes: str = ""
    """SHA-256 of vocabulary and technology mean."""
    shape: HyperParameters = HyperParameters()
    """Of the backbone."""
    coordinate_mean: list[float] = []
    coordinate_deviation: list[float] = []


class CellFiles(Pool):
    """The cells of several files, with their ids."""

    def __init__(self, parts: Sequence[CellSamples]) -> None:
        """Join them in the order given."""
        super().__init__(parts)
        self.names = np.concatenate([part.names for part in parts])


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
        labels = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return Statistics(counts={"labels": labels, "genes": {self._source.fingerprint: 1}}, arrays=arrays)

    def fit(self, own: Statistics, everyone: Statistics) -> LabelMap:
        """Take the label map from everyone, the scaling of coordinates from the own cells.

        Raises:
            UserError: Clients have reference files with other content.
        """
        if len(everyone.counts["genes"]) > 1:
            raise UserError(
                f"options.reference: clients have {len(everyone.counts['genes'])} different vocabularies or "
                f"{self.technology} means; give all the same model.h5ad and {self.technology}_mean_script.npy"
            )
        fitted = LabelMap(
            classes=sorted(everyone.counts["labels"]), genes=next(iter(everyone.counts["genes"])), shape=self._shape
        )
        if not self.include_spatial:
            return fitted
        count, total, squares = (own.arrays[name].array() for name in ("count", "sum", "squares"))
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        scaling = {"coordinate_mean": mean.tolist(), "coordinate_deviation": deviation.tolist()}
        return fitted.model_copy(update=scaling)

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
        columns = [cells.column(self.label).tolist(), self.context_ids(cells).tolist()]
        if self.include_spatial:
            columns.append(coordinates(cells, self.coordinate_keys).tolist())
        return [cells.digest, *map(sha256_json, columns)]

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

    def flip_labels(self, batch: Batch, fitted: BaseModel) -> Batch:
        """Call the first class the last, and so on."""
        return {**batch, "label": len(self.classes(fitted)) - 1 - batch["label"]}

    # Network

    def network(self, fitted: BaseModel) -> nn.Module:
        """Put a fresh head on the backbone, and freeze what `fine_tune_mode` says."""
        assert isinstance(fitted, LabelMap)
        return self._on(NicheFormer.restored(self._stored) if self._stored else NicheFormer(fitted.shape), fitted)

    def bare_network(self, fitted: BaseModel) -> nn.Module:
        """Build the network without the checkpoint."""
        assert isinstance(fitted, LabelMap)
        return self._on(NicheFormer(fitted.shape), fitted)

    def _on(self, backbone: NicheFormer, fitted: LabelMap) -> NicheFormerClassifier:
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
        """Give `logits` [B, C], and as `embedding` [B, D] what the backbone makes of each cell."""
        assert isinstance(network, NicheFormerClassifier)
        features = {key: batch[key] for key in ("pooled", "hidden", "padding") if key in batch}
        embedding = network.representation(batch.get("tokens"), **features)
        return {"logits": network.classify(embedding, batch.get("coordinates")), "embedding": embedding}

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

    # New data

    def inputs(self, path: Path, fitted: BaseModel) -> CellSamples | CellFiles:
        """Open cells without labels: an h5ad file, a parquet table with `genes.txt` beside it, or a folder of such.

        Reference files are those of the training data; where these are gone, those in `reference/` beside the cells.
        """
        assert isinstance(fitted, LabelMap)
        source = self.token_source(fitted.shape.context_length, path if path.is_dir() else path.parent)
        cells = open_cells(path, self.counts_layer, list(self.input_columns))
        parts = [self._unlabelled(one, fitted, source) for one in cells]
        return parts[0] if len(parts) == 1 else CellFiles(parts)

    def columns(self, outputs: Batch, fitted: BaseModel) -> dict[str, np.ndarray]:
        """Give predicted class, and probability of each class."""
        return class_columns(outputs["logits"].softmax(dim=1), self.classes(fitted))

    # Words

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
        disjoint = dict.fromkeys(self.disjoint_keys, "options.disjoint_keys")
        study.require({**self.input_columns, **disjoint, self.label: "options.label"})
        return study

    @functools.cached_property
    def _members(self) -> dict[tuple[str, str], dict[str, list[str]]]:
        members = self._study.members(*self.disjoint_keys)
        return {place: {level: list(ids) for level, ids in levels.items()} for place, levels in members.items()}

    @functools.cached_property
    def _stored(self) -> Checkpoint | None:
        return read(self.checkpoint) if self.checkpoint else None

    @property
    def _shape(self) -> HyperParameters:
        if self._stored:
            return HyperParameters.from_checkpoint(self._stored.hyper_parameters)
        assert self.random_backbone is not None
        return HyperParameters(
            n_tokens=len(self._source.vocabulary) + RESERVED_IDS, **self.random_backbone.model_dump()
        )

    @functools.cached_property
    def _source(self) -> TokenSource:
        if self.random_backbone:
            return self.token_source(self.random_backbone.context_length)
        return self.token_source(self._shape.context_length)

    def _samples(self, cells: Cells, fitted: BaseModel) -> CellSamples:
        assert isinstance(fitted, LabelMap)
        self._check_vocabulary(fitted)
        labels_N = class_numbers(cells, self.label, fitted.classes)
        return dataclasses.replace(self._unlabelled(cells, fitted, self._source), labels_N=labels_N)

    def _unlabelled(self, cells: Cells, fitted: LabelMap, source: TokenSource) -> CellSamples:
        if source.fingerprint != fitted.genes:
            raise UserError(
                f"{source.reference}: not the vocabulary and {self.technology} mean that the network was trained with; "
                "give the same files"
            )
        scaled = None
        if self.include_spatial:
            mean, deviation = np.asarray(fitted.coordinate_mean), np.asarray(fitted.coordinate_deviation)
            scaled = ((coordinates(cells, self.coordinate_keys) - mean) / deviation).astype(np.float32)
        shape = fitted.shape
        return CellSamples(
            tokens_NL=source.tokens(cells),
            context_N3=self.context_ids(cells),
            context_flags={"specie": shape.specie, "assay": shape.assay, "modality": shape.modality},
            context_length=shape.context_length,
            labels_N=None,
            coordinates_N2=scaled,
            names=cells.names,
        )

    def _coordinate_sums(self, cells: Cells) -> dict[str, Values]:
        values = coordinates(cells, self.coordinate_keys)
        sums = {"count": [float(len(values))] * 2, "sum": values.sum(0), "squares": (values**2).sum(0)}
        return {name: Values(rule="sum", values=list(map(float, value))) for name, value in sums.items()}

    def _check_vocabulary(self, fitted: LabelMap) -> None:
        genes, known = len(self._source.vocabulary), fitted.shape.n_tokens - RESERVED_IDS
        if genes != known:
            vocabulary = self._source.reference / "model.h5ad"
            raise UserError(
                f"{vocabulary}: {genes} genes, but {self.checkpoint} has tokens for {known}; "
                "let options.reference and options.checkpoint belong together"
            )


TASK = NicheFormerTask
