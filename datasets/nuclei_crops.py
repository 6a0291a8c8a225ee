"""Crops of nuclei as samples: read when asked for, scaled, augmented by draws that depend on seed and crop alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from core.randomness import generator
from datasets.nuclei_blocks import Triple, read_mask, read_raw
from datasets.nuclei_index import Volume
from datasets.nuclei_intensity import Intensity, Scaling
from datasets.nuclei_positions import Counting, Crop
from datasets.nuclei_transforms import Values, augment, cut_margin, margin_voxels, published

MaskMode = Literal["none", "zero_outside", "centre_on_mask", "min_fraction"]


@dataclass(frozen=True)
class CropOptions:
    """How crops are cut and scaled.

    Attributes:
        crop_size: Voxels along z, y, x.
        counting: `exact` takes every crop that fits, `reference` loses the last one as the published code does.
        oversize: What happens where a crop is larger than the volume: `pad` at the far end, or `refuse`.
        missing_mask: What happens to a slice without a mask slice: `refuse`, or `zero` raw and mask.
        mask_mode: `none`; `zero_outside` sets raw to 0 outside the mask; `min_fraction` drops crops of the grid with
            a smaller share of mask than `mask_fraction`; `centre_on_mask` puts crops on the parts of the mask instead
            of on a grid, and sets raw to 0 outside the mask where its share is below `mask_fraction`.
        mask_fraction: Share of the crop's voxels, 0 to 1.
        margin: Voxels cut from every face, at most a quarter of the smallest side.
        cut_mask: Whether the mask is cut as well; the published code leaves it.
        scaling: How raw values come into [0, 1]; see `nuclei_intensity.intensities`.
        signed: Whether [0, 1] is mapped to [-1, 1] at the end.
    """

    crop_size: Triple = (80, 80, 80)
    counting: Counting = "exact"
    oversize: Literal["pad", "refuse"] = "pad"
    missing_mask: Literal["refuse", "zero"] = "refuse"
    mask_mode: MaskMode = "none"
    mask_fraction: float = 0.5
    margin: int = 0
    cut_mask: bool = True
    scaling: Scaling = "dtype"
    signed: bool = False

    @property
    def input_size(self) -> Triple:
        """Depth, height, width of what the network gets."""
        cut = 2 * margin_voxels(self.crop_size, self.margin)
        depth, height, width = self.crop_size
        return depth - cut, height - cut, width - cut


@dataclass(frozen=True)
class CroppedNucleus:
    """A nucleus ready to be cropped.

    Attributes:
        sample: Sample id.
        volume: What is on disk.
        label: Class number from 0, or None where nobody knows it.
        intensity: Scaling of its raw values.
        crops: Where its crops lie.
    """

    sample: str
    volume: Volume
    label: int | None
    intensity: Intensity
    crops: Sequence[Crop]


class NucleiCrops:
    """A map-style dataset over the crops of some nuclei, nucleus after nucleus.

    Attributes:
        names: Crop ids such as `0001/z0y1x0`.
        units: Sample id of each crop's nucleus.
        labels: Class number of each crop, or None.
    """

    def __init__(
        self,
        nuclei: Sequence[CroppedNucleus],
        options: CropOptions,
        *,
        class_weights: Sequence[float] | None = None,
        with_mask: bool = False,
    ) -> None:
        """Take the crops of these nuclei.

        Args:
            nuclei: Nuclei in the order of their samples.
            options: How crops are cut and scaled.
            class_weights: Weight of each class, given with every sample as `weight`.
            with_mask: Whether samples hold `mask`.
        """
        self.nuclei, self.options, self.class_weights, self.with_mask = nuclei, options, class_weights, with_mask
        self._places = [(owner, crop) for owner in nuclei for crop in owner.crops]
        self.names = [f"{owner.sample}/{crop.name}" for owner, crop in self._places]
        self.units = [owner.sample for owner, _ in self._places]
        self.labels = [owner.label for owner, _ in self._places]

    def __len__(self) -> int:
        """Count the crops."""
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give one crop.

        Returns:
            `volume` [1, D, H, W] float32; `nucleus` (a number made of the sample id) and, where known, `label` int64;
            with masks `mask` [1, D, H, W] float32 of 0 and 1; with class weights `weight` float32.

        Raises:
            UserError: A slice cannot be read.
        """
        owner, crop = self._places[index]
        volume, mask = self._read(owner, crop)
        volume, mask = self._changed(volume, mask, index)
        item = {
            "volume": torch.from_numpy(np.ascontiguousarray(owner.intensity.finish(volume))),
            "nucleus": torch.tensor(nucleus_number(owner.sample)),
        }
        if owner.label is not None:
            item["label"] = torch.tensor(owner.label)
        if mask is not None:
            item["mask"] = torch.from_numpy(np.ascontiguousarray(mask))
        if self.class_weights is not None and owner.label is not None:
            item["weight"] = torch.tensor(self.class_weights[owner.label], dtype=torch.float32)
        return item

    def _read(self, owner: CroppedNucleus, crop: Crop) -> tuple[Values, Values | None]:
        """Give volume in [0, 1] and mask, both [1, D, H, W]."""
        options = self.options
        raw = read_raw(owner.volume, crop.start, options.crop_size)
        inside_only = crop.inside_only or options.mask_mode == "zero_outside"
        mask = None
        if self.with_mask or inside_only:
            mask = (read_mask(owner.volume, crop.start, options.crop_size) > 0).astype(np.float32)
        if inside_only and mask is not None:
            raw *= mask
        if options.scaling == "reference":
            volume = published(raw, options.margin)
        else:
            volume = owner.intensity.to_unit(cut_margin(raw, options.margin))[None]
        if not self.with_mask or mask is None:
            return volume, None
        return volume, (cut_margin(mask, options.margin) if options.cut_mask else mask)[None]

    def _changed(self, volume: Values, mask: Values | None, index: int) -> tuple[Values, Values | None]:
        """Change nothing; what augments does."""
        return volume, mask


class AugmentedCrops(NucleiCrops):
    """Crops that are flipped, turned and changed in intensity anew in every epoch; for training alone."""

    seed = 0

    def reseed(self, seed: int) -> None:
        """Take the seed of the epoch; what happens to a crop is a function of it and the crop's name."""
        self.seed = seed

    def _changed(self, volume: Values, mask: Values | None, index: int) -> tuple[Values, Values | None]:
        return augment(volume, mask, generator(self.seed, "augmentation", self.names[index]))


def nucleus_number(sample: str) -> int:
    """Give the 63-bit number that stands for a sample id in tensors: the front of its SHA-256."""
    return int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8], "big") >> 1
