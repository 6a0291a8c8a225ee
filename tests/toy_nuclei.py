"""Small nuclei studies in the real format, and the recorded one."""

from pathlib import Path

import numpy as np
import tifffile

from datasets.nuclei import NucleiStudy
from datasets.nuclei_crops import CropOptions
from datasets.nuclei_placement import NucleiPlacement

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "vgg3d"
ALONE = NucleiPlacement(partition="evenly", clients=1)
SMALL = CropOptions(crop_size=(4, 4, 4))


def write_slices(folder, values, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(values):
        name = names[number] if names else f"{number:04d}.tif"
        if name is not None:
            tifffile.imwrite(folder / name, one)


def write_nucleus(root, values, mask=None):
    write_slices(root / "raw", values)
    write_slices(root / "mask", np.full(values.shape, 255, np.uint8) if mask is None else mask)


def write_table(path, rows, header="class_id,class_name,sample_id"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def volume(number, shape=(4, 8, 8), dtype=np.uint8):
    return np.random.default_rng(number).integers(1, 255, shape).astype(dtype)


def study_folder(root, samples=6, shape=(4, 8, 8), dtype=np.uint8):
    """Write nuclei 0001, 0002, ... of two classes in turn, and `classes.csv` with a site and a split."""
    rows = []
    for number in range(1, samples + 1):
        write_nucleus(root / f"{number:04d}", volume(number, shape, dtype))
        split = ("train", "val", "test")[(number - 1) // 2 % 3]
        rows.append(f"{1 + number % 2},{'Glia' if number % 2 == 0 else 'Other'},{number:04d},north,{split}")
    write_table(root / "classes.csv", rows, "class_id,class_name,sample_id,site,part")
    return root


def opened(root, **changes):
    given = {"placement": ALONE, "options": SMALL, **changes}
    return NucleiStudy.open(root, given.pop("class_table", root / "classes.csv"), **given)


def recorded(root):
    """Write the recorded study as its notes say, and give the arrays recorded for it."""
    arrays = np.load(FIXTURES / "crops.npz")
    for key in arrays:
        if key.startswith("vol_"):
            sample = key.removeprefix("vol_")
            names = [f"{number:04d}.tif" for number in range(len(arrays[key]))]
            write_slices(root / sample / "raw", arrays[key], names)
            if sample == str(arrays["missing_mask_sample"]):
                names[int(arrays["missing_mask_slice"])] = None
            write_slices(root / sample / "mask", arrays[f"mask_{sample}"], names)
    columns = (arrays["csv_class_id"], arrays["csv_class_name"], arrays["csv_sample_id"])
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    write_table(root / "classes.csv", rows)
    return arrays
