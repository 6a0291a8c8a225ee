"""Rosettes in segmented tissue: a binary mask per image, by an attention U-Net that sees where cells meet.

Training is on patches; validation and test are on whole images by overlapping windows, never on patches that were
chosen by the truth. Images of one animal look alike, so clients and splits never cut an animal.
"""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torchmetrics import MetricCollection

from datasets.placement import HELD_OUT
from datasets.rosette_channels import WholeImages
from datasets.rosette_objects import rosette_mask
from datasets.rosette_patches import Patches
from datasets.rosette_reports import write_reports
from datasets.rosettes import Study, holds_images, new_images
from datasets.unit_splits import SPLITS
from models.attention_unet import AttentionUNet
from models.attention_unet_checkpoint import load_weights, read
from models.segmentation_loss import BceDice
from models.sliding_window import sliding_window
from tasks._attention_unet_options import AttentionUNetOptions
from training.segmentation import SegmentationScores
from training.statistics import Statistics, Values
from training.task import Answer, Batch, ClientData, Loss
from training.thresholds import ThresholdSweep, thresholds_exceeded

PIXEL = {"fp": 1, "fn": 2, "tp": 3}
"""What `outcome` of the stored predictions says of a pixel; 0 is background that was called so."""


class Channels(BaseModel):
    """What the network is shown. Nothing is fitted: channels are computed image by image."""

    model_config = ConfigDict(frozen=True)

    use_intensity: bool


class AttentionUNetTask(AttentionUNetOptions):
    """Rosette masks from the outlines of cells."""

    Fitted: ClassVar[type[BaseModel]] = Channels
    primary: ClassVar[str] = "f1"

    # Data

    def clients(self) -> list[str]:
        """Give the names of the data holders."""
        return self._study.clients

    def statistics(self, client: str) -> Statistics:
        """Count training images."""
        images = [float(len(self._study.rows(client, "train")))]
        return Statistics(arrays={"images": Values(rule="sum", values=images)})

    def fit(self, own: Statistics, everyone: Statistics) -> Channels:
        """Give the channels."""
        return Channels(use_intensity=self.use_intensity)

    def client_data(self, client: str, fitted: BaseModel) -> ClientData:
        """Open the splits of a client: patches to train on, whole images to score."""
        rows = self._study.rows(client, "train").tolist()
        patches = Patches(
            images=[self._study.images[row] for row in rows],
            names=[self._study.samples[row].name for row in rows],
            units=[self._study.samples[row].animal for row in rows],
            size=self.patch_size,
            anywhere=self.anywhere,
            augmentation=self.augmentation.build(),
        )
        return ClientData(patches, *(self._study.whole_images(client, split) for split in SPLITS[1:]))

    def held_out(self, fitted: BaseModel) -> WholeImages | None:
        """Open the images that belong to no client, where there are some; a server may hold no data.

        Raises:
            UserError: `held_out_client` names a client that is not there.
        """
        if not holds_images(self.data):
            return None
        if self._study.has_held_out:
            return self._study.whole_images(HELD_OUT, "test")
        self.refuse_absent(self.data, self._study.clients)
        return None

    def identities(self, client: str) -> dict[str, dict[str, list[str]]]:
        """Give images and animals of each split."""
        return self._study.identities(client)

    def held_out_identities(self) -> dict[str, list[str]]:
        """Give images and animals of the held-out set."""
        held_out = holds_images(self.data) and self._study.has_held_out
        return self._study.identities(HELD_OUT)["test"] if held_out else {}

    def data_digest(self, client: str) -> str:
        """Hash ids, animals, splits and decoded layers."""
        return self._study.digest(client)

    def describe(self, client: str) -> dict[str, Any]:
        """Count images, animals and the layouts of files."""
        counts = {split: len(self._study.rows(client, split)) for split in SPLITS}
        animals = {split: len(self._study.animals(client, split)) for split in SPLITS}
        layouts = self._study.layouts(client)
        return {**counts, "animals": animals, "layouts": layouts, "files": self._study.manifest(client)}

    def flip_labels(self, batch: Batch, fitted: BaseModel) -> Batch:
        """Call rosettes what is none, and the other way round."""
        return {**batch, "target": 1 - batch["target"]}

    # Network

    def network(self, fitted: BaseModel) -> nn.Module:
        """Build the network, with stored weights where there are some."""
        network = self.bare_network(fitted)
        if self.weights_path is not None:
            load_weights(network, read(self.weights_path))
        return network

    def bare_network(self, fitted: BaseModel) -> AttentionUNet:
        """Build the network with fresh weights."""
        return self.build_network()

    def forward(self, network: nn.Module, batch: Batch) -> Batch:
        """Give `logits` [B, 1, P, P] of patches, or `probability` [B, 1, H, W] of whole images."""
        assert isinstance(network, AttentionUNet)
        if "valid" in batch:
            return {"logits": network(batch["channels"])}
        windows = (self.patch_size, self.shared, self.window_batch)
        found = [sliding_window(network.predict_proba, image, *windows) for image in batch["channels"]]
        return {"probability": torch.stack(found), **{key: batch[key] for key in ("labels",) if key in batch}}

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        """Cross-entropy and Dice of the pixels that are there."""
        given = outputs.get("logits", outputs.get("probability"))
        assert given is not None
        compute = self._loss.from_logits if "logits" in outputs else self._loss.from_probabilities
        total, parts = compute(given, batch["target"], batch.get("valid"))
        return Loss(total, len(batch["target"]), parts)

    # Measures

    def metrics(self, fitted: BaseModel) -> MetricCollection:
        """Scores by pixel, image and object at the threshold, and precision and recall at every other one."""
        tidy = functools.partial(rosette_mask, min_size=self.min_size)
        metrics = {"scores": SegmentationScores(self.threshold, tidy=tidy), "sweep": ThresholdSweep()}
        return MetricCollection(metrics, compute_groups=False)  # type: ignore[arg-type]

    def observe(self, metrics: MetricCollection, outputs: Batch, batch: Batch) -> None:
        """Count pixels, images and objects."""
        metrics.update(outputs["probability"], batch["target"])

    def predictions(self, outputs: Batch, batch: Batch) -> Batch:
        """Keep a byte or two per pixel, and of each image `tp`, `fp` and `fn`.

        `outcome` says what became of a pixel (see `PIXEL`), `exceeded` how many thresholds of the sweep its probability
        exceeds: enough to compute all scores but the loss again. Both hold the pixels row by row, one image after
        another; `size` [B, 2] says how many rows and columns each image has.
        """
        probability, target = outputs["probability"][:, 0], batch["target"][:, 0] > 0
        outcome = ((probability > self.threshold) + 2 * target).to(torch.uint8)
        counts = {name: (outcome == code).flatten(1).sum(1) for name, code in PIXEL.items()}
        exceeded = torch.from_numpy(thresholds_exceeded(probability.numpy()).astype(np.uint8))
        size = torch.tensor(outcome.shape[1:]).expand(len(outcome), 2)
        return {"outcome": outcome.flatten(), "exceeded": exceeded.flatten(), "size": size, **counts}

    # New data

    def inputs(self, path: Path, fitted: BaseModel) -> WholeImages:
        """Open images, a file or a folder of them, annotated or not."""
        assert isinstance(fitted, Channels)
        return new_images(path, use_intensity=fitted.use_intensity)

    def write_answers(
        self, answers: Iterable[Answer], folder: Path, fitted: BaseModel, scores: Mapping[str, float | None]
    ) -> list[Path]:
        """Write a probability map and numbered rosettes per image, and tables of images and of rosettes."""
        images = (
            (name, probability[0].numpy(), labels.numpy())
            for one in answers
            for name, probability, labels in zip(
                one.names, one.outputs["probability"], one.outputs["labels"], strict=True
            )
        )
        return write_reports(images, folder, threshold=self.threshold, min_size=self.min_size)

    # Words

    def variant(self) -> str:
        """Give what the network sees."""
        return "intensity" if self.use_intensity else "geometric"

    def facts(self, network: nn.Module) -> dict[str, Any]:
        """Say what the network is and starts from."""
        start = "fresh weights" if self.weights_path is None else self.weights_path.name
        return {"widths": list(self.widths), "norm": self.norm, "start": start}

    # Opened once per process

    @functools.cached_property
    def _study(self) -> Study:
        return Study.open(
            self.data,
            self.placement(),
            metadata=self.metadata,
            use_intensity=self.use_intensity,
            cache_bytes=self.image_cache_mb * 1024**2,
        )

    @functools.cached_property
    def _loss(self) -> BceDice:
        return BceDice(self.dice_weight)


TASK = AttentionUNetTask
