"""Gene expression from tissue images: a vector of log-scale values per tile, by regression.

Tiles of one patient, slide or donor look alike, so clients and splits never cut such a group.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.functional import mse_loss
from torchmetrics import MetricCollection

from core.errors import UserError
from core.files import sha256_json
from datasets.histology import Study, metadata_file
from datasets.histology_inputs import open_images
from datasets.histology_scaling import column_sums, mean_and_deviation
from datasets.histology_table import read_gene_names
from datasets.histology_tiles import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    AugmentedTiles,
    Tiles,
    channel_sums,
    tile_cache,
)
from datasets.placement import HELD_OUT
from datasets.unit_splits import SPLITS
from models.image_regressor import ImageRegressor
from tasks._image_expression_options import ImageExpressionOptions
from training.regression import RegressionScores
from training.statistics import Rule, Statistics, Values
from training.task import Batch, ClientData, Loss

BRIGHTEST = 255
MIB = 1024**2


class Scaling(BaseModel):
    """Gene names, scaling of targets and of colour channels, and the training means, all from the train split."""

    model_config = ConfigDict(frozen=True)

    genes: list[str]
    mean: list[float]
    deviation: list[float]
    training_mean: list[float]
    channel_mean: list[float]
    channel_deviation: list[float]


class ImageExpressionTask(ImageExpressionOptions):
    """Expression vectors from image tiles."""

    Fitted: ClassVar[type[BaseModel]] = Scaling
    primary: ClassVar[str] = "spearman"
    axis: ClassVar[str] = "gene"

    # Data

    def clients(self) -> list[str]:
        """Give the names of the data holders."""
        return self._study.clients

    def statistics(self, client: str) -> Statistics:
        """Sum up the targets of the train split, and its pixels where they are normalised by them."""
        rows = self._study.rows(client, "train")
        if len(rows) < 2:
            raise UserError(f"{self.data}: client {client!r} has one tile to train on; give it two or leave it out")
        sums = column_sums(self._study.table.targets[rows])
        rules: dict[str, Rule] = {"min": "min", "max": "max"}
        if self.normalize == "train_stats":
            sums |= channel_sums([self._study.table.files[row] for row in rows], self.image_size)
        arrays = {name: Values(rule=rules.get(name, "sum"), values=values) for name, values in sums.items()}
        genes = {f"{number:06d} {name}": 1 for number, name in enumerate(self._genes)}
        return Statistics(arrays=arrays, counts={"genes": genes})

    def fit(self, own: Statistics, everyone: Statistics) -> Scaling:
        """Take the genes from everyone, the scaling from the own train tiles.

        Raises:
            UserError: Clients name their genes differently.
        """
        genes = [key.partition(" ")[2] for key in sorted(everyone.counts["genes"])]
        arrays = {name: values.array() for name, values in own.arrays.items()}
        mean, deviation = mean_and_deviation(*(arrays[name] for name in ("count", "sum", "squares", "min", "max")))
        if len(genes) != len(mean):
            raise UserError(
                f"{self.data}: clients name their genes differently ({len(genes)} names); give all the same"
            )
        training_mean = mean.tolist()
        if not self.normalize_target:
            mean, deviation = np.zeros_like(mean), np.ones_like(deviation)
        channel_mean, channel_deviation = self._channels(arrays)
        return Scaling(
            genes=genes,
            mean=mean.tolist(),
            deviation=deviation.tolist(),
            training_mean=training_mean,
            channel_mean=list(channel_mean),
            channel_deviation=list(channel_deviation),
        )

    def client_data(self, client: str, fitted: BaseModel) -> ClientData:
        """Open the splits of a client; only training tiles are changed at random."""
        changing = self.augment or self.colour_jitter > 0
        train, val, test = (self._tiles(client, split, fitted, changing and split == "train") for split in SPLITS)
        return ClientData(train, val, test)

    def held_out(self, fitted: BaseModel) -> Tiles | None:
        """Open the tiles that belong to no client, where there are some; the server of a deployment may hold no data.

        Raises:
            UserError: `held_out_client` names a client that is not there.
        """
        if not metadata_file(self.data).exists():
            return None
        if self._study.has_held_out:
            return self._tiles(HELD_OUT, "test", fitted)
        self.refuse_absent(self._study.table.source, self._study.clients)
        return None

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give tiles and groups of each split."""
        return self._study.identities(client)

    def held_out_identities(self) -> dict[str, list[str]]:
        """Give tiles and groups of the held-out set."""
        held_out = metadata_file(self.data).exists() and self._study.has_held_out
        return self._study.identities(HELD_OUT)["test"] if held_out else {}

    def data_digest(self, client: str) -> str:
        """Hash all that samples are made of: images, groups, splits, targets and the names of the genes."""
        return sha256_json([self._study.digest(client), self._genes])

    def describe(self, client: str) -> dict[str, Any]:
        """Count tiles and groups."""
        rows = {split: self._study.rows(client, split) for split in SPLITS}
        groups = {split: len(set(self._study.table.groups[rows[split]].tolist())) for split in SPLITS}
        counts = {split: len(rows[split]) for split in SPLITS}
        return {**counts, "groups": groups, "files": self._study.manifest(client)}

    def flip_labels(self, batch: Batch, fitted: BaseModel) -> Batch:
        """Call high low: mirror every gene at its mean."""
        return {**batch, "scaled": -batch["scaled"]}

    # Network

    def network(self, fitted: BaseModel) -> nn.Module:
        """Build encoder and head; the encoder takes stored weights where there are some."""
        network = self.bare_network(fitted)
        if self.weights_path is not None:
            network.load_encoder(self.weights_path)
        return network

    def bare_network(self, fitted: BaseModel) -> ImageRegressor:
        """Build encoder and head without stored weights."""
        assert isinstance(fitted, Scaling)
        mean, deviation = torch.tensor(fitted.mean), torch.tensor(fitted.deviation)
        network = ImageRegressor(self.backbone, len(fitted.genes), mean=mean, deviation=deviation)
        if self.freeze_encoder:
            network.encoder.requires_grad_(False)
        return network

    def encode(self, network: nn.Module, batch: Batch) -> Batch | None:
        """Run the encoder where it is frozen."""
        assert isinstance(network, ImageRegressor)
        if not self.freeze_encoder:
            return None
        features = {"features": network.encoder(batch["image"])}
        return {**features, **{key: batch[key] for key in batch if key != "image"}}

    def forward(self, network: nn.Module, batch: Batch) -> Batch:
        """Give `scaled` [B, K] as trained on, `predicted` [B, K] in original units, and the encoder's `embedding`."""
        assert isinstance(network, ImageRegressor)
        features = batch["features"] if "features" in batch else network.encoder(batch["image"])
        scaled = network.head(features)
        return {"scaled": scaled, "predicted": network.original_units(scaled.float()), "embedding": features}

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        """Mean squared error of the scaled values, over samples and genes."""
        return Loss(mse_loss(outputs["scaled"], batch["scaled"]), len(batch["scaled"]), {})

    # Measures

    def metrics(self, fitted: BaseModel) -> MetricCollection:
        """Correlations by gene and by sample, errors in original units, and the skill against the training means."""
        assert isinstance(fitted, Scaling)
        return MetricCollection({"scores": RegressionScores(np.asarray(fitted.training_mean))}, compute_groups=False)

    def observe(self, metrics: MetricCollection, outputs: Batch, batch: Batch) -> None:
        """Keep predictions and targets."""
        metrics.update(outputs["predicted"], batch["target"])

    def predictions(self, outputs: Batch, batch: Batch) -> Batch:
        """Keep true and predicted expression, [B, K] in original units."""
        return {"target": batch["target"], "predicted": outputs["predicted"]}

    def classes(self, fitted: BaseModel) -> list[str]:
        """Give the gene names."""
        assert isinstance(fitted, Scaling)
        return fitted.genes

    # New data

    def inputs(self, path: Path, fitted: BaseModel) -> Tiles:
        """Open images: one file, a folder, or a CSV with a column of paths, which start from the CSV."""
        assert isinstance(fitted, Scaling)
        tile_cache(self.image_size).limit = self.tile_cache_mb * MIB
        images = open_images(path, self.path_key)
        mean, deviation = fitted.channel_mean, fitted.channel_deviation
        return Tiles(images.files, images.names, None, self.image_size, mean, deviation)

    def columns(self, outputs: Batch, fitted: BaseModel) -> dict[str, np.ndarray]:
        """Give the expression of each gene, in original units."""
        return {gene: outputs["predicted"][:, at].numpy() for at, gene in enumerate(self.classes(fitted))}

    # Words

    def variant(self) -> str:
        """Give the backbone."""
        return self.backbone

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Say what the encoder is and starts from."""
        start = "fresh weights" if self.weights_path is None else self.weights_path.name
        assert isinstance(network, ImageRegressor)
        return {"backbone": self.backbone, "start": start, "genes": network.head.out_features}

    # Opened once per process

    @functools.cached_property
    def _study(self) -> Study:
        tile_cache(self.image_size).limit = self.tile_cache_mb * MIB
        return Study.open(
            self.data,
            self.placement(),
            path_key=self.path_key,
            group_key=self.group_key,
            target_dim=self.target_dim,
            root=self.data_root,
        )

    @functools.cached_property
    def _genes(self) -> list[str]:
        count = self._study.table.targets.shape[1]
        beside = self._study.table.source.with_name("genes.txt")
        source = self.genes or (beside if beside.exists() else None)
        return [f"y{number}" for number in range(count)] if source is None else read_gene_names(source, count)

    def _channels(self, sums: dict[str, npt.NDArray[np.float64]]) -> tuple[Sequence[float], Sequence[float]]:
        """Give mean and deviation of the colour channels."""
        if self.normalize == "train_stats":
            mean = sums["pixel_sum"] / sums["pixels"]
            deviation = np.sqrt(np.maximum(sums["pixel_squares"] / sums["pixels"] - mean**2, 1.0))
            return (mean / BRIGHTEST).tolist(), (deviation / BRIGHTEST).tolist()
        if self.normalize == "imagenet" or (self.normalize is None and self.weights_path is not None):
            return IMAGENET_MEAN, IMAGENET_DEVIATION
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def _tiles(self, client: str, split: str, fitted: BaseModel, changing: bool = False) -> Tiles:
        assert isinstance(fitted, Scaling)
        table, rows = self._study.table, self._study.rows(client, split)
        targets = table.targets[rows]
        scaled = (targets - np.asarray(fitted.mean)) / np.asarray(fitted.deviation)
        parts: dict[str, Any] = {
            "files": [table.files[row] for row in rows],
            "names": table.paths[rows].tolist(),
            "units": table.groups[rows].tolist(),
            "size": self.image_size,
            "mean": fitted.channel_mean,
            "deviation": fitted.channel_deviation,
            "targets": torch.from_numpy(targets.astype(np.float32)),
            "scaled": torch.from_numpy(scaled.astype(np.float32)),
        }
        return AugmentedTiles(**parts, geometry=self.augment, jitter=self.colour_jitter) if changing else Tiles(**parts)


TASK = ImageExpressionTask
