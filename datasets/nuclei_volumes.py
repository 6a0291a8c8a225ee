"""The volumes of some nuclei, ready to be cropped, whatever is known of the nuclei besides."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import sha256_json
from datasets.nuclei_crops import CropOptions, CroppedNucleus
from datasets.nuclei_index import Volume
from datasets.nuclei_intensity import Intensity, intensities
from datasets.nuclei_positions import Crop, grid, grid_fractions, mask_parts
from datasets.nuclei_sidecar import remember


@dataclass(frozen=True, eq=False)
class NucleiVolumes:
    """Volumes, with the places and the scaling of their crops; what is measured is kept beside the data.

    Attributes:
        data: The folder.
        volumes: Sample id -> what is on disk.
        options: How crops are cut and scaled.
    """

    data: Path
    volumes: Mapping[str, Volume]
    options: CropOptions

    def check(self) -> None:
        """Refuse what the policies refuse, and warn of values that will be replaced.

        Raises:
            UserError: A mask slice is missing, or a volume is smaller than a crop, where that is not allowed.
        """
        for volume in self.volumes.values():
            if volume.missing_masks and self.options.missing_mask == "refuse":
                raise UserError(
                    f"{volume.root / 'mask'}: no mask slice for {volume.missing_masks[0]} "
                    f"({len(volume.missing_masks)} missing); add it, or set missing_mask to zero"
                )
            pairs = list(zip(volume.shape, self.options.crop_size, strict=True))
            if self.options.oversize == "refuse" and any(length < size for length, size in pairs):
                raise UserError(
                    f"{volume.root}: {volume.shape} voxels are smaller than crop_size {self.options.crop_size}; "
                    "choose a smaller crop or set oversize to pad"
                )
            if volume.non_finite:
                warnings.warn(f"{volume.root}: {volume.non_finite} voxels are NaN or infinite; read as 0", stacklevel=4)

    def cropped(self, sample: str, label: int | None) -> CroppedNucleus:
        """Give a nucleus ready to be cropped; `label` is None where nobody knows it."""
        return CroppedNucleus(
            sample=sample,
            volume=self.volumes[sample],
            label=label,
            intensity=self._intensities[sample],
            crops=self.positions[sample],
        )

    @functools.cached_property
    def positions(self) -> dict[str, list[Crop]]:
        """Where the crops of each nucleus lie; nowhere where too little of it is inside the mask."""
        options, size, volumes = self.options, self.options.crop_size, self.volumes
        if options.mask_mode not in ("centre_on_mask", "min_fraction"):
            return {sample: grid(volume.shape, size, options.counting) for sample, volume in volumes.items()}
        rule = repr((options.mask_mode, size, options.counting, options.mask_fraction))
        stamps = {sample: sha256_json([volume.sha256, rule]) for sample, volume in volumes.items()}
        path = self.data / ".cache" / "nuclei_crops.json"
        found = remember(path, stamps, lambda sample: _masked_crops(volumes[sample], options), "finding crops")
        for sample, crops in found.items():
            if not crops:
                warnings.warn(f"{volumes[sample].root}: no crop with enough mask; left out", stacklevel=2)
        return {sample: [_crop(entry) for entry in crops] for sample, crops in found.items()}

    @functools.cached_property
    def _intensities(self) -> dict[str, Intensity]:
        return intensities(self.data, self.volumes, self.options.scaling, signed=self.options.signed)


def _masked_crops(volume: Volume, options: CropOptions) -> list[dict[str, Any]]:
    size = options.crop_size
    if options.mask_mode == "centre_on_mask":
        return [asdict(crop) for crop in mask_parts(volume, size, options.mask_fraction)]
    fractions = grid_fractions(volume, size, options.counting)
    crops = grid(volume.shape, size, options.counting)
    return [asdict(crop) for crop, share in zip(crops, fractions, strict=True) if share >= options.mask_fraction]


def _crop(entry: Mapping[str, Any]) -> Crop:
    z, y, x = entry["start"]
    return Crop(entry["name"], (z, y, x), entry["inside_only"])
