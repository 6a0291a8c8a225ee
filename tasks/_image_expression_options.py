"""The options of the image -> expression task, and what can be said against them before any data is opened."""

from typing import Literal

from pydantic import Field

from datasets.histology import TilePlacement
from models.image_regressor import Backbone
from tasks._placement_options import Partition, PlacementOptions
from training.options import DataPath


class ImageExpressionOptions(PlacementOptions):
    """What `options:` of an image -> expression config takes; `data` is a CSV, or a folder with `metadata.csv`."""

    path_key: str = "path"
    """Column of the image file."""
    group_key: str = "group_id"
    """Column of the patient, slide or donor: never in two splits or at two clients."""
    partition: Partition | None = None
    """How groups are divided where no column names clients: evenly or ranges."""
    split: DataPath | None = None
    """CSV with path, group_id and split, as `python -m datasets split` writes it; by default splits are drawn here."""
    data_root: DataPath | None = None
    """Folder where relative image paths start; by default that of the CSV."""
    target_dim: int | None = Field(None, ge=1)
    """Number of genes that the CSV must have; by default as many as there are columns y0, y1, ..."""
    genes: DataPath | None = None
    """Text file with the gene names, one a line; by default `genes.txt` beside the CSV if there, else y0, y1, ..."""
    normalize_target: bool = True
    """Train on z-scores of each gene, by the train split; predictions are stored in the units of the CSV."""

    image_size: int = Field(224, ge=8)
    """Pixels per side to which tiles are resized; the aspect ratio is not kept."""
    normalize: Literal["none", "imagenet", "train_stats"] | None = None
    """Mean and deviation per colour channel; by default imagenet with weights_path, else none."""
    augment: bool = False
    """Mirror and turn training tiles at random."""
    colour_jitter: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of brightness, contrast and saturation of training tiles."""
    tile_cache_mb: int = Field(512, ge=0)
    """Decoded tiles kept in memory per process, in MiB."""

    backbone: Backbone = "resnet18"
    """Encoder: resnet18, resnet50, or a tiny_cnn for tests."""
    weights_path: DataPath | None = None
    """Pre-trained encoder in torchvision's layout; by default fresh weights."""
    freeze_encoder: bool = False
    """Train the head only."""

    def placement(self) -> TilePlacement:
        """Say how tiles are given to clients and splits."""
        return TilePlacement(**self.placed(), split=self.split)
