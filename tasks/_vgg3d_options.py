"""The options of the VGG3D task, and what can be said against them before any data is opened."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from datasets.nuclei_crops import CropOptions, MaskMode
from datasets.nuclei_intensity import Scaling
from datasets.nuclei_placement import NucleiPlacement
from datasets.nuclei_positions import Counting
from datasets.nuclei_table import Selection
from models.vgg3d_shape import CHROMATIN, VGG3DShape
from tasks._placement_options import PlacementOptions
from training.options import DataPath, Options, refuse_useless

MIB = 1024**2
MASK_FRACTION = 0.5

Voxels = Annotated[int, Field(ge=1)]
Size = tuple[Voxels, Voxels, Voxels]
Count = Annotated[int, Field(ge=1)]


class Backbone(Options):
    """The convolutional part; by default that of the published chromatin variant."""

    fmaps: Count = CHROMATIN.fmaps
    """Feature maps of the first stage."""
    downsample_factors: tuple[Size, ...] = CHROMATIN.downsample_factors
    """Pooling factors (depth, height, width) of each stage."""
    fmap_inc: tuple[Count, ...] = CHROMATIN.fmap_inc
    """What the number of feature maps is multiplied by after each stage."""
    n_convolutions: tuple[Count, ...] = CHROMATIN.n_convolutions
    """Convolutions of each stage."""

    @model_validator(mode="after")
    def _one_entry_per_stage(self) -> "Backbone":
        self.shape()
        return self

    def shape(self) -> VGG3DShape:
        """Give the shape of the network."""
        return VGG3DShape(**self.model_dump())


class VGG3DOptions(PlacementOptions):
    """What `options:` of a VGG3D config takes."""

    class_table: DataPath | None = None
    """CSV with class_id, class_name, sample_id and further columns; by default `classes.csv` in the data."""
    split_key: str | None = None
    """Column of the class table with train, val and test; by default splits are made here, by nucleus and class."""
    unlisted: Literal["refuse", "ignore"] = "refuse"
    """What happens to a nucleus folder without a row in the class table."""

    class_ids: tuple[int, ...] | None = Field(None, min_length=2)
    """Class ids to keep; by default all, without the unclassified."""
    sample_ids: tuple[str, ...] | None = Field(None, min_length=1)
    """Sample ids to keep, as text in quotes; by default all."""
    sample_percent: float = Field(100.0, gt=0, le=100)
    """Percentage of the nuclei of each class to keep, at least one."""

    crop_size: Size = (80, 80, 80)
    """Voxels of a crop: depth, height, width."""
    margin: int = Field(10, ge=0)
    """Voxels cut from every face of a crop, at most a quarter of its smallest side."""
    counting: Counting = "exact"
    """Crops per axis: all that fit, or by the published formula, which loses one that ends with the volume."""
    oversize: Literal["pad", "refuse"] = "pad"
    """What happens where a crop is larger than the volume: zeros at the far end, or refused."""
    missing_mask: Literal["refuse", "zero"] = "refuse"
    """What happens to a slice without a mask slice: refused, or zero."""
    mask_mode: MaskMode = "none"
    """none; zero_outside blanks what is outside the nucleus; min_fraction keeps crops with enough of it;
    centre_on_mask puts crops on the parts of the mask instead of on a grid."""
    mask_fraction: float | None = Field(None, ge=0, le=1)
    """Share of mask voxels that min_fraction and centre_on_mask ask for; by default 0.5."""
    scaling: Scaling = "dtype"
    """How raw values come into [0, 1]: by dtype, per volume by percentile or zscore, or by the published rule."""
    signed: bool = False
    """Map [0, 1] to [-1, 1], as published pre-training feeds this network."""
    augment: bool = False
    """Flip, turn, and change the intensity of training crops at random."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weigh the loss of a crop by the inverse frequency of its class in training; the mean weight is 1."""
    cache_mb: int = Field(256, ge=0)
    """Decoded slices held per process, in MiB."""

    backbone: Backbone = Backbone()
    """Architecture of the features."""
    checkpoint: DataPath | None = None
    """Pre-trained 3-D VGG; by default the features start from fresh weights."""
    allow_partial: bool = False
    """Take from the checkpoint what fits, and leave the rest fresh."""
    adapt_first_conv: bool = False
    """Sum up the first convolution of a checkpoint trained on several channels."""
    classifier_size: Count = 512
    """Width of the two hidden layers of the classifier."""
    freeze_features: bool = True
    """Keep the features as they are, or with `progressive_unfreezing` as long as their time has not come."""
    progressive_unfreezing: Count | None = None
    """Epochs after which the next stage of the features starts to train, from the output end."""
    stage_rate_factor: float = Field(1.0, gt=0, le=1)
    """Factor on the learning rate of the last stage; the one before it gets its square, and so on."""
    freeze_classifier_layers: int = Field(0, ge=0, le=5)
    """Modules at the front of the classifier that do not train: linear, ReLU, dropout, linear, ReLU."""
    encode_block: Count = 1
    """Crops that frozen features see at once: 1 makes the numbers independent of batches, more suits a GPU."""

    @property
    def never_unfrozen(self) -> bool:
        """Whether no part of the features ever trains."""
        return self.freeze_features and self.progressive_unfreezing is None

    @property
    def table(self) -> Path:
        """The class table."""
        return self.class_table or self.data / "classes.csv"

    def placement(self) -> NucleiPlacement:
        """Say how nuclei are given to clients and splits."""
        return NucleiPlacement(**self.placed(), split_key=self.split_key)

    def selection(self) -> Selection:
        """Give the filters as the data floor takes them."""
        return Selection(self.class_ids, self.sample_ids, self.sample_percent)

    def crop_options(self) -> CropOptions:
        """Give the crops as the data floor takes them."""
        return CropOptions(
            crop_size=self.crop_size,
            counting=self.counting,
            oversize=self.oversize,
            missing_mask=self.missing_mask,
            mask_mode=self.mask_mode,
            mask_fraction=MASK_FRACTION if self.mask_fraction is None else self.mask_fraction,
            margin=self.margin,
            scaling=self.scaling,
            signed=self.signed,
        )

    @model_validator(mode="after")
    def _network_takes_the_crops(self) -> "VGG3DOptions":
        size = self.crop_options().input_size
        try:
            self.backbone.shape().output_size(size)
        except ValueError as error:
            raise ValueError(f"crop_size {self.crop_size}, margin {self.margin}: {error}; cut larger crops") from None
        return self

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "VGG3DOptions":
        refuse_useless(self, self._useless())
        return self

    @model_validator(mode="after")
    def _features_have_learned_or_will(self) -> "VGG3DOptions":
        if self.checkpoint is None and self.never_unfrozen:
            raise ValueError(
                "checkpoint is missing while freeze_features is true: random features would never train; give a "
                "checkpoint, or set freeze_features to false"
            )
        return self

    def _useless(self) -> dict[str, tuple[bool, str]]:
        """Give option -> whether others leave it without effect, and what would give it one."""
        plain_mask = self.mask_mode not in ("min_fraction", "centre_on_mask")
        return {
            "fractions": (self.split_key is not None, "leave out split_key"),
            "mask_fraction": (plain_mask, "set mask_mode to min_fraction or centre_on_mask"),
            "signed": (self.scaling == "zscore", "choose another scaling"),
            "allow_partial": (self.checkpoint is None, "give a checkpoint"),
            "adapt_first_conv": (self.checkpoint is None, "give a checkpoint"),
            "progressive_unfreezing": (not self.freeze_features, "set freeze_features to true"),
            "stage_rate_factor": (self.never_unfrozen, "set freeze_features to false or progressive_unfreezing"),
            "encode_block": (not self.never_unfrozen, "freeze all features"),
        }
