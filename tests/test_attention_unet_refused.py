"""Rosette data and options that cannot be used: one line, exit code 2, before training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from datasets.rosette_samples import read_samples
from datasets.rosette_splits import Draw, write_manifest
from tests.commands import refused
from tests.commands import run as command
from tests.rosette_runs import CONFIG, SMALL, tissue

__all__ = ["tissue"]


def edited(change: Callable[[h5py.File], object], place: int = 0) -> Callable[[Path], None]:
    """Change one HDF5 file."""

    def act(folder: Path) -> None:
        with h5py.File(h5_file(folder, place), "r+") as file:
            change(file)

    return act


def h5_file(folder: Path, place: int = 0) -> Path:
    return sorted(folder.glob("R1*/*.h5"))[place]


def without(*names: str) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return edited(change)


def other_shape(file: h5py.File) -> None:
    del file["rosettes_binary"]
    file["rosettes_binary"] = np.zeros((7, 9), np.uint8)


def renamed(file: h5py.File) -> None:
    for name in list(file):
        file.move(name, f"new_{name}")


def cut_short(folder: Path) -> None:
    path = h5_file(folder, 1)
    path.write_bytes(path.read_bytes()[:-3000])


def damaged(folder: Path) -> None:
    """Spoil compressed pixels: the file opens, and cannot be decoded."""
    path = h5_file(folder, 1)
    with h5py.File(path) as file:
        chunk = file["segmentation_outlines"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 5 : chunk.byte_offset + chunk.size] = bytes(chunk.size - 5)
    path.write_bytes(content)


def emptied(folder: Path) -> None:
    for path in folder.rglob("*.h5"):
        path.unlink()


def moved_animal(folder: Path) -> None:
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    table.loc[table["animal_id"] == "R2_1", "animal_id"] = "R1_1"
    table.to_csv(folder / "metadata.csv", index=False)


def split_file(folder: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> None:
    content = write_manifest(folder / "split.json", read_samples(folder), Draw(0.3, 0.3), client_key="replicate")
    change(content)
    (folder / "split.json").write_text(json.dumps(content))


def doubled(content: dict[str, Any]) -> None:
    content["val_sample_list"].append(content["train_sample_list"][0])


def nothing(folder: Path) -> None:
    """Leave the data as it is: an option is wrong."""


DEFAULT_SHARES = "options.fractions=[0.7, 0.15, 0.15]"
FILE = "processed_data_R1_"
SPOILED: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "no labels": (without("segmentation_outlines"), [], [FILE, "no dataset segmentation_outlines", "add them"]),
    "no target": (without("rosettes_binary"), [], [FILE, "no dataset rosettes_binary", "leave the file out"]),
    "no intensity": (
        without("raw_data"), ["options.use_intensity=true"], [FILE, "no dataset raw_data or raw_image; use_intensity"],
    ),
    "other shape": (edited(other_shape), [], [FILE, "rosettes_binary has 7 x 9 pixels but segmentation_outlines"]),
    "cut short": (cut_short, [], [FILE, "not a readable HDF5 file", "restore the file"]),
    "damaged": (damaged, [], [FILE, "not a readable HDF5 file", "restore the file"]),
    "unknown generation": (edited(renamed), [], [FILE, "unknown layout, it holds new_raw_data", "expected"]),
    "no file": (emptied, [], ["holds no HDF5 file"]),
    "animal at two clients": (moved_animal, [], ["animal 'R1_1' is in two places: client 'R1'", "'R2'"]),
    "sample in two splits": (
        lambda folder: split_file(folder, doubled), ["options.split={data}/split.json", DEFAULT_SHARES],
        ["split.json: sample 'R1_", "is in train and val; keep one"],
    ),
    "changed split": (
        lambda folder: split_file(folder, lambda content: content["val_sample_list"].pop()),
        ["options.split={data}/split.json", DEFAULT_SHARES], ["split.json: sample_order_hash is", "make it anew"],
    ),
    "no split": (nothing, ["options.split={data}/absent.json", DEFAULT_SHARES], ["absent.json: no such file"]),
    "client column": (nothing, ["options.client_key=hospital"], ["metadata.csv", "no column 'hospital'"]),
    "held-out client": (nothing, ["options.held_out_client=R9"], ["replicate is nowhere 'R9'", "R1, R2, R3"]),
    "too few animals": (
        nothing, ["options.client_key=treatment", "options.held_out_client=none", "options.group_by=replicate",
                  "options.partition={clients: 3}"], ["client_key, partition: give one of the two"],
    ),
    "augmentation": (
        nothing, ["options.augmentation.rotations=0.5"],
        ["options.augmentation.rotations: unknown key; did you mean rotation?"],
    ),
    "fractions beside a split": (
        nothing, ["options.split={data}/split.json"], ["fractions has no effect here; leave out split, or leave"],
    ),
    "seed beside a split": (
        nothing, ["options.split={data}/split.json", DEFAULT_SHARES, "options.split_seed=3"],
        ["split_seed has no effect here; leave out split"],
    ),
    "bending without bends": (
        nothing, ["options.augmentation.elastic_sigma=3"],
        ["options.augmentation: elastic_sigma has no effect here; set elastic_transform above 0, or leave it out"],
    ),
    "holes without holes": (nothing, ["options.augmentation.holes=[1, 2]"], ["holes has no effect here; set coarse_d"]),
    "a turn without a turn": (
        nothing, ["options.augmentation={affine_transform: 0, turn: 5}"], ["turn has no effect here; set affine"],
    ),
    "interpolation without any": (
        nothing, ["options.augmentation={affine_transform: 0, elastic_transform: 0, rethreshold: true}"],
        ["rethreshold has no effect here; set elastic_transform or affine_transform above 0"],
    ),
    "probability": (nothing, ["options.augmentation.rotation=1.5"], ["options.augmentation.rotation = 1.5"]),
    "holes": (nothing, ["options.augmentation={holes: [5, 1]}"], ["augmentation.holes = (5, 1): cannot be used"]),
    "patch size": (nothing, ["options.patch_size=0"], ["options.patch_size = 0: no patch has that size"]),
    "small patch": (nothing, ["options.patch_size=16"], ["options.patch_size = 16", "32"]),
    "four widths": (nothing, ["options.widths=[2, 2, 2, 2]"], ["widths: [2, 2, 2, 2] must be five positive numbers"]),
    "no width": (nothing, ["options.widths=[2, 0, 2, 2, 2]"], ["widths: [2, 0, 2, 2, 2] must be five positive"]),
    "norm": (nothing, ["options.norm=layer"], ["options.norm = 'layer'", "'batch', 'group' or 'instance'"]),
    "overlap": (nothing, ["options.overlap=32"], ["overlap: 32 pixels with a patch of 32; give 0 ... 31"]),
    "weights": (nothing, ["options.weights_path=none.pth"], ["none.pth: no such file"]),
    "other weights": (
        nothing, ["options.widths=[2, 4, 4, 8, 8]"],
        ["unet_tiny_2ch.pt: enc1.0.weight has shape (4, 2, 3, 3), the network needs (2, 2, 3, 3)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_used_is_refused_in_one_line_before_training(tissue: Path, tmp_path: Path, name: str) -> None:
    spoil, overrides, expected = SPOILED[name]
    folder = Path(shutil.copytree(tissue, tmp_path / "study"))
    spoil(folder)
    overrides = [f"options.data={folder}", *SMALL, *(one.replace("{data}", str(folder)) for one in overrides)]
    answer = command("centralized", CONFIG, *overrides, "--results", tmp_path / "results")
    refused(answer, *expected)
    assert "epoch" not in answer.stdout


def test_a_client_of_a_federation_refuses_its_file_by_name(tissue: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tissue, tmp_path / "study"))
    without("rosettes_binary")(folder)
    answer = command("fl", CONFIG, f"options.data={folder}", *SMALL, "--results", tmp_path / "results")
    refused(answer, h5_file(folder).name, "no dataset rosettes_binary")
