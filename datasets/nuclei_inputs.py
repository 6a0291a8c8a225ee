"""New nuclei, of which nobody says what they are: a folder of them, one alone, or those that a table lists."""

from pathlib import Path

from core.errors import UserError
from datasets.array_cache import process_cache
from datasets.nuclei_crops import CropOptions, NucleiCrops
from datasets.nuclei_index import find_folder, index_volumes, nucleus_folders
from datasets.nuclei_table import canonical, read_samples
from datasets.nuclei_volumes import NucleiVolumes


def open_nuclei(path: Path, options: CropOptions, cache_bytes: int) -> NucleiCrops:
    """Open the crops of new nuclei, without labels.

    Args:
        path: A folder with a folder per nucleus, the folder of one nucleus (it holds `raw/`), or a CSV that lists
            nuclei beside it in a column `sample_id`.
        options: How crops are cut and scaled.
        cache_bytes: Limit of decoded slices held in this process.

    Raises:
        UserError: There are no nuclei, or one cannot be used.
    """
    alone = (path / "raw").is_dir()
    data = path if path.is_dir() and not alone else path.absolute().parent
    samples = [path.absolute().name] if alone else nucleus_folders(path) if path.is_dir() else read_samples(path)
    if not samples:
        raise UserError(f"{path}: holds no nucleus; give a folder with SAMPLE/raw/*.tif and SAMPLE/mask/*.tif")
    folders: dict[str, str] = {}
    for sample in sorted({canonical(sample) for sample in samples}):
        folders[sample], fault = find_folder(data, sample)
        if fault:
            raise UserError(f"{path}: sample {sample}: {fault}; add it, or leave this nucleus out")
    found = index_volumes(data, list(folders.values()))
    volumes = NucleiVolumes(data, {sample: found[folder] for sample, folder in folders.items()}, options)
    volumes.check()
    process_cache().limit = cache_bytes
    crops = NucleiCrops([volumes.cropped(sample, None) for sample in folders], options)
    if not len(crops):
        raise UserError(f"{path}: no crop of any nucleus has enough mask; give nuclei that fill more of their volume")
    return crops
