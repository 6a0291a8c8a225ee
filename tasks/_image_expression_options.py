"""The options of the image -> expression task, and what can be said against them before any data is opened."""

from typing import Literal

from pydantic import Field, model_validator

from core.errors import UserError
from datasets.histology import Placement
from models.image_regressor import Backbone
from training.options import DataPath
from training.task import Task


class ImageExpressionOptions(Task):
    """What `options:` of an image -> expression config takes; `data` is a CSV, or a folder with `metadata.csv`."""

    path_key: str = "path"
    """Column of the image file."""
    group_key: str = "group_id"
    """Column of the patient, slide or donor: never in two splits or at two clients."""
    client_key: str | None = None
    """Column that names the client; without it set partition_clients."""
    partition_clients: int | None = Field(None, ge=1)
    """Clients to deal the groups to evenly, where no column names them."""
    held_out_client: str | None = None
    """Value of client_key that belongs to no client."""
    split: DataPath | None = None
    """CSV with path, group_id and split, as `python -m datasets split` writes it; by default splits are drawn here."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test, in groups, where splits are drawn here."""
    split_seed: int = Field(0, ge=0)
    """Seed of clients and splits made here; apart from the experiment's seed, so that seeds share their splits."""
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

    @model_validator(mode="after")
    def _placeable(self) -> "ImageExpressionOptions":
        try:
            self.placement()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def placement(self) -> Placement:
        """Say how tiles are given to clients and splits."""
        return Placement(
            client_key=self.client_key,
            held_out=self.held_out_client,
            clients=self.partition_clients,
            split=self.split,
            fractions=self.fractions,
            seed=self.split_seed,
        )
