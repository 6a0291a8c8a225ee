"""The options of the rosette task, and what can be said against them before any data is opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, field_validator, model_validator

from core.errors import UserError
from datasets.rosette_augmentation import Augmentation
from datasets.rosette_samples import GroupBy
from datasets.rosettes import RosettePlacement
from models.attention_unet import WIDTHS, AttentionUNet, Norm
from models.sliding_window import check_windows
from tasks._placement_options import Partition, PlacementOptions
from training.options import DataPath, Options, refuse_useless

Share = Annotated[float, Field(ge=0, le=1)]
DEFAULT = Augmentation()


def _explained(act: Callable[[], object]) -> None:
    """Do something, and let pydantic say what is wrong with the options."""
    try:
        act()
    except UserError as error:
        raise ValueError(str(error)) from None


class AugmentationOptions(Options):
    """Random changes of training patches, in this order; a probability of 0 removes a change."""

    horizontal_flip: Share = DEFAULT.horizontal_flip
    """Probability of mirroring left and right."""
    vertical_flip: Share = DEFAULT.vertical_flip
    """Probability of mirroring top and bottom."""
    rotation: Share = DEFAULT.rotation
    """Probability of a turn by 0, 90, 180 or 270 degrees, each as likely."""
    elastic_transform: Share = DEFAULT.elastic_transform
    """Probability of bending."""
    affine_transform: Share = DEFAULT.affine_transform
    """Probability of scaling, turning and shifting."""
    coarse_dropout: Share = DEFAULT.coarse_dropout
    """Probability of holes in the channels."""
    elastic_sigma: float = Field(DEFAULT.elastic_sigma, gt=0)
    """Blur of the noise that bends, in pixels."""
    elastic_scale: float = Field(DEFAULT.elastic_scale, ge=0)
    """Factor on the blurred noise, which gives the displacement in pixels."""
    elastic_jitter: float = Field(DEFAULT.elastic_jitter, ge=0)
    """Pixels by which three corners move at most."""
    scale: tuple[float, float] = DEFAULT.scale
    """Least and greatest factor along each axis."""
    shift: float = Field(DEFAULT.shift, ge=0)
    """Largest shift along each axis, as a share of the side."""
    turn: float = Field(DEFAULT.turn, ge=0)
    """Largest turn, in degrees."""
    holes: tuple[int, int] = DEFAULT.holes
    """Least and greatest number of holes."""
    hole_size: tuple[int, int] = DEFAULT.hole_size
    """Least and greatest side of a hole, in pixels."""
    rethreshold: bool = DEFAULT.rethreshold
    """Make the binary channels binary again after interpolation."""

    @model_validator(mode="after")
    def _can_be_used(self) -> "AugmentationOptions":
        _explained(self.build)
        return self

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "AugmentationOptions":
        changes = {
            "elastic_transform": ("elastic_sigma", "elastic_scale", "elastic_jitter"),
            "affine_transform": ("scale", "shift", "turn"),
            "coarse_dropout": ("holes", "hole_size"),
        }
        useless = {
            name: (getattr(self, change) == 0, f"set {change} above 0")
            for change, names in changes.items()
            for name in names
        }
        moved = self.elastic_transform or self.affine_transform
        useless["rethreshold"] = (not moved, "set elastic_transform or affine_transform above 0")
        refuse_useless(self, useless)
        return self

    def build(self) -> Augmentation:
        """Give the augmentation."""
        return Augmentation(**self.model_dump())


class AttentionUNetOptions(PlacementOptions):
    """What `options:` of a rosette config takes; `data` is a folder of HDF5 files, one per image or folder of one."""

    metadata: DataPath | None = None
    """CSV or TSV with unique_sample_id and animal_id; by default `metadata.csv` in the data, else the ids tell."""
    group_by: GroupBy = "animal"
    """What is never in two splits: animal, replicate, or none (each image by itself)."""
    partition: Partition | None = None
    """How animals are divided where no column names clients: evenly or ranges."""
    split: DataPath | None = None
    """Manifest as `python -m datasets rosette-split` writes it; by default splits are drawn here, by `fractions`."""
    use_intensity: bool = False
    """Show the network the raw intensity as a third channel; by default it sees the geometry of the cells alone."""
    image_cache_mb: int = Field(512, ge=0)
    """Decoded images kept in memory per process, in MiB."""

    patch_size: int = Field(512, ge=32)
    """Pixels per side of training patches, and of the windows over whole images."""
    anywhere: Share = 0.3
    """Probability of a training patch anywhere in the image instead of about a rosette."""
    augmentation: AugmentationOptions = AugmentationOptions()
    """Random changes of training patches."""

    widths: tuple[int, ...] = WIDTHS
    """Channels of the four encoder blocks and the bridge."""
    norm: Norm = "batch"
    """batch, group or instance; the last two have no running statistics that averaging could spoil."""
    weights_path: DataPath | None = None
    """Published or own checkpoint to start from; by default fresh weights."""

    dice_weight: Share = 0.5
    """Share of the Dice loss; the rest is cross-entropy."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability above which a pixel counts as rosette."""
    min_size: int = Field(10, ge=0)
    """Pixels below which a predicted part is dropped before objects are counted."""
    overlap: int | None = Field(None, ge=0)
    """Pixels that neighbouring windows over an image share; by default half the patch."""
    window_batch: int = Field(8, ge=1)
    """Windows predicted at once."""

    @field_validator("patch_size", mode="before")
    @classmethod
    def _patch_is_positive(cls, size: object) -> object:
        if isinstance(size, int) and size < 1:
            raise ValueError("no patch has that size; give a number of pixels from 32 on")
        return size

    @model_validator(mode="after")
    def _network_and_windows_fit(self) -> "AttentionUNetOptions":
        _explained(lambda: check_windows(self.patch_size, self.shared))
        with torch.device("meta"):
            _explained(self.build_network)
        return self

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "AttentionUNetOptions":
        given = (self.split is not None, "leave out split")
        refuse_useless(self, {"fractions": given, **({} if self.partition else {"split_seed": given})})
        return self

    @property
    def shared(self) -> int:
        """Pixels that neighbouring windows share."""
        return self.patch_size // 2 if self.overlap is None else self.overlap

    def build_network(self) -> AttentionUNet:
        """Give a network with fresh weights."""
        return AttentionUNet(3 if self.use_intensity else 2, self.widths, self.norm)

    def placement(self) -> RosettePlacement:
        """Say how images are given to clients and splits."""
        split: Path | None = self.split
        return RosettePlacement(**self.placed(), group_by=self.group_by, split=split)
