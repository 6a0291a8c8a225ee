"""Cell-type classification by fine-tuning NicheFormer on spatial single-cell data.

Model and fine-tuning follow theislab/nicheformer (BSD-3-Clause): gene-rank tokens, a transformer encoder, the mean over
positions, a bias-free linear head, cross-entropy.
"""

import functools
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
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
from datasets.cell_samples import CellSamples, class_numbers, context_ids, coordinates
from datasets.cell_tokens import TokenSource
from datasets.cells import Cells, Study
from models.nicheformer import HyperParameters, NicheFormer
from models.nicheformer_checkpoint import Checkpoint, load_backbone, read
from models.nicheformer_classifier import FineTuneMode, NicheFormerClassifier
from training.options import DataPath, Options
from training.statistics import Statistics, Values
from training.task import Batch, ClientData, Loss, Task

SPLITS = ("train", "val", "test")
RESERVED_IDS = 30
"""Token ids below the first gene."""


class LabelMap(BaseModel):
    """Label map, and mean and standard deviation of the coordinates where they are used."""

    model_config = ConfigDict(frozen=True)

    classes: list[str]
    coordinate_mean: list[float] = []
    coordinate_deviation: list[float] = []


class RandomBackbone(Options):
    """A backbone with fresh weights, for trying things out: it has learned nothing."""

    dim_model: int = Field(64, ge=4)
    """Width of the hidden states."""
    nheads: int = Field(4, ge=1)
    """Attention heads; divide the width."""
    dim_feedforward: int = Field(128, ge=1)
    """Width of the feed-forward layers."""
    nlayers: int = Field(2, ge=1)
    """Encoder layers."""
    context_length: int = Field(64, ge=4)
    """Positions: three context tokens, then genes."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in layers that train."""


class NicheFormerTask(Task):
    """Cell types from gene-rank tokens."""

    Fitted: ClassVar[type[BaseModel]] = LabelMap
    primary: ClassVar[str] = "f1_macro"

    label: str = "cell_type"
    """obs column with the class."""
    client_key: str | None = None
    """obs column that names the client, where the data is one h5ad file."""
    split_key: str = "nicheformer_split"
    """obs column with train, val and test, where the data is one h5ad file."""
    unit_key: str | None = None
    """obs column of the biological unit (section, donor): never in two splits or at two clients."""
    disjoint_keys: tuple[str, ...] = ()
    """Further obs columns whose values must not be in two splits or at two clients."""
    blocks: int | None = Field(None, ge=2)
    """Cut each unit into blocks x blocks regions of x and y, and split by those."""
    held_out_client: str | None = None
    """Value of `client_key` that belongs to no client, where the data is one h5ad file."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test where splits are made here."""
    split_seed: int = Field(0, ge=0)
    """Seed of splits made here; apart from the experiment's seed, so that seeds share their splits."""
    counts_layer: str | None = None
    """AnnData layer with the raw counts; by default `X`."""

    reference: DataPath | None = None
    """Folder with `model.h5ad` (vocabulary) and `<technology>_mean_script.npy`; by default `reference/` in the data."""
    technology: Literal["xenium", "merfish", "cosmx", "iss", "dissociated"] = "xenium"
    """Whose mean expression normalises the counts."""
    mean_rounding: Literal["prepared", "unrounded"] = "prepared"
    """Technology mean rounded as in pre-training, or as it is."""
    orthologs: DataPath | None = None
    """CSV that translates gene ids of another species; by default `orthologs.csv` in the reference, if there."""
    min_matched_genes: int | None = Field(None, ge=1)
    """Fewest genes of a file that must be in the vocabulary; by default half of them."""
    specie: str | int | None = None
    """Species of all cells (name or id); by default the obs column `specie`."""
    assay: str | int | None = None
    """Assay of all cells (name or id); by default the obs column `assay`."""
    modality: str | int | None = None
    """`dissociated` or `spatial` (or id) for all cells; by default the obs column `modality`."""
    include_spatial: bool = False
    """Give the head the coordinates too. Off: sections are not registered to each other."""
    coordinate_keys: tuple[str, str] = ("x", "y")
    """obs columns of the coordinates; read where include_spatial is on."""

    checkpoint: DataPath | None = None
    """Pre-trained NicheFormer file (Lightning, fine-tuned, Hugging Face or our safetensors)."""
    random_backbone: RandomBackbone | None = None
    """Fresh weights instead of a checkpoint."""
    fine_tune_mode: FineTuneMode = "head_only"
    """What trains: the head; the head and the upper half of the layers; everything."""
    extract_layers: tuple[int, ...] | None = None
    """Layers whose means are combined; by default the last."""
    combine: Literal["mean", "sum"] = "mean"
    """How extracted layers are combined."""
    with_context: bool = False
    """Keep the three context positions in the mean over a cell."""
    genes_only: bool = False
    """Average over gene tokens only, instead of over all positions with padding as published; much faster."""
    extractor: bool = False
    """A linear layer and tanh in front of the head."""
    encode_block: int = Field(1, ge=1)
    """Cells that frozen layers encode at once: 1 makes the numbers independent of batches, more suits a GPU."""

    @model_validator(mode="after")
    def _one_backbone(self) -> "NicheFormerTask":
        if (self.checkpoint is None) == (self.random_backbone is None):
            raise ValueError(
                "set exactly one of options.checkpoint (a file) and options.random_backbone ({} for defaults)"
            )
        return self

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
        """Hash counts, genes, cells, labels and what tokens are made with."""
        study = self._study
        parts = [study.held_out] if client == "held_out" else [study.cells(client, split) for split in SPLITS]
        content = [
            [cells.digest, sha256_json(cells.column(self.label).tolist())] for cells in parts if cells is not None
        ]
        return sha256_json([self._source.digest, self.include_spatial, content])

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
        }

    # Network

    def network(self, fitted: BaseModel) -> nn.Module:
        """Put a fresh head on the backbone, and freeze what `fine_tune_mode` says."""
        assert isinstance(fitted, LabelMap)
        backbone = load_backbone(self.checkpoint) if self.checkpoint else NicheFormer(self._hyper_parameters)
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
            "balanced_accuracy": MulticlassAccuracy(count, average="macro"),
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
        return Study.open(
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
            context_N3=context_ids(cells, {"specie": self.specie, "assay": self.assay, "modality": self.modality}),
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
            raise UserError(
                f"{self._source.reference / 'model.h5ad'}: {genes} genes, but the checkpoint has tokens for {known}; "
                "give options.reference the vocabulary that belongs to options.checkpoint"
            )


TASK = NicheFormerTask
