"""Rosette files and what a network sees of them: recorded channels, three layouts, and what is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy import ndimage

from datasets.array_cache import process_cache
from datasets.rosette_channels import RosetteImage, WholeImages, boundaries, geometry, scaled_intensity
from datasets.rosette_files import RosetteFile
from tests.refusals import refused
from tests.rosette_studies import layers, write, write_as
from training.loading import ordered_batches

RECORDED = np.load(Path(__file__).parent / "fixtures" / "rosettes" / "preprocess.npz")
GENERATIONS = ("layers", "stack", "patches")


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    process_cache().clear()


@pytest.mark.parametrize("number", range(int(RECORDED["n_label_images"])))
def test_boundaries_and_cells_are_the_recorded_ones(number: int) -> None:
    thick, mask = geometry(RECORDED[f"lab{number}"])
    assert (thick == RECORDED[f"lab{number}_thick"]).all() and (mask == RECORDED[f"lab{number}_mask"]).all()


def test_boundaries_are_where_grey_dilation_differs_from_erosion() -> None:
    cross = ndimage.generate_binary_structure(2, 1)
    for seed, shape in enumerate([(1, 1), (1, 9), (9, 1), (2, 2), (17, 23)]):
        labels = np.random.default_rng(seed).integers(0, 3, shape)
        dilated, eroded = (
            change(labels, footprint=cross, mode="mirror") for change in (ndimage.grey_dilation, ndimage.grey_erosion)
        )
        assert (boundaries(labels) == (dilated != eroded)).all()


@pytest.mark.parametrize("raw", ["raw16", "raw01"])
@pytest.mark.parametrize("intensity_name", ["raw_data", "raw_image"])
def test_items_are_the_recorded_ones(tmp_path: Path, raw: str, intensity_name: str) -> None:
    stored = {name: RECORDED[f"item_{name}"] for name in ("segmentation_outlines", "rosettes_binary")}
    path = write(tmp_path / "item.h5", {**stored, intensity_name: RECORDED[f"item_{raw}_raw"]})
    for use_intensity, channels in ((True, "X3"), (False, "X2")):
        image = RosetteImage.open(path, use_intensity=use_intensity)
        assert image.n_channels == len(image.channels) and image.channels.dtype == np.float32
        np.testing.assert_array_equal(image.channels, RECORDED[f"item_{raw}_{channels}"])
        np.testing.assert_array_equal(image.target, RECORDED[f"item_{raw}_y"])
        assert (image.labels == RECORDED["item_segmentation_outlines"]).all() and image.instances is None


@pytest.mark.parametrize("generation", GENERATIONS)
def test_all_layouts_hold_the_same_image(tmp_path: Path, generation: str) -> None:
    made = layers()
    file = RosetteFile.open(write_as(tmp_path / "x.h5", generation, made), use_intensity=True)
    assert file.generation == generation and file.shape == (6, 8)
    assert (file.read("labels") == made["labels"]).all() and file.read("labels").dtype == np.int32
    assert (file.read("target") == (made["target"] > 0)).all()
    assert (file.read("intensity") == made["intensity"]).all()
    if generation == "patches":
        assert RosetteImage(file).instances is None
    else:
        assert (RosetteImage(file).instances == made["instances"]).all()


def test_the_first_layout_that_holds_labels_is_read(tmp_path: Path) -> None:
    one, two, three = ({name: values[None] for name, values in layers(seed=seed).items()} for seed in range(3))
    mixed = {
        "data": np.concatenate(list(two.values())),
        "mask": three["labels"],
        "rosette_mask": three["target"],
        "rosettes_binary": one["target"],
    }
    file = RosetteFile.open(write(tmp_path / "mixed.h5", mixed))
    assert file.generation == "stack" and (file.read("labels") == two["labels"][0]).all()
    file = RosetteFile.open(write(tmp_path / "more.h5", {**mixed, "segmentation_outlines": one["labels"]}))
    assert file.generation == "layers" and (file.read("labels") == one["labels"][0]).all()


def test_leading_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    made = layers()
    deeper = {
        "segmentation_outlines": made["labels"][None, None],
        "rosettes_binary": made["target"][None],
        "raw_data": made["intensity"].astype(">f8"),
    }
    one = RosetteImage.open(write(tmp_path / "a.h5", deeper), use_intensity=True)
    stack = RosetteImage.open(
        write(tmp_path / "b.h5", {"data": np.stack(list(made.values()))[None]}), use_intensity=True
    )
    for image in (one, stack):
        np.testing.assert_array_equal(image.channels[0], boundaries(made["labels"]))
        np.testing.assert_array_equal(image.target, made["target"][None] > 0)
    np.testing.assert_array_equal(one.channels, stack.channels)


def test_a_window_is_a_window_of_the_whole_image(tmp_path: Path) -> None:
    image = RosetteImage.open(write_as(tmp_path / "x.h5", "layers", layers(9, 11)), use_intensity=True)
    rows, columns = slice(2, 6), slice(3, 11)
    np.testing.assert_array_equal(image.crop_channels(rows, columns), image.channels[:, rows, columns])
    np.testing.assert_array_equal(image.crop_target(rows, columns), image.target[:, rows, columns])
    assert image.channels[2].max() == 1 and image.crop_channels(rows, columns)[2].max() < 1


def test_intensity_is_scaled_only_above_one() -> None:
    low = np.asarray([[0.0, 0.25, 1.0]], np.float32)
    assert (scaled_intensity(low) == low).all()
    np.testing.assert_array_equal(scaled_intensity(4 * low), low)


def test_layers_are_decoded_once_and_within_the_limit(tmp_path: Path) -> None:
    image = RosetteImage.open(write_as(tmp_path / "x.h5", "layers", layers()), use_intensity=True)
    cache = process_cache()
    assert cache.reads == 0
    for _ in range(3):
        _ = (image.channels, image.target)
        _ = RosetteImage.open(image.file.path, use_intensity=True).channels
    assert cache.reads == 3 and cache.size == 2 * 48 + 4 * 48 + 48
    _ = (image.labels, image.instances)
    assert cache.reads == 5
    first = image.channels
    first[:] = 7
    assert image.channels.max() == 1, "what is given belongs to the caller"


def test_whole_images_keep_their_sizes_and_go_one_by_one(tmp_path: Path) -> None:
    shapes = [(6, 8), (9, 5), (6, 8)]
    files = [
        write_as(tmp_path / f"{number}.h5", "layers", layers(*shape, seed=number))
        for number, shape in enumerate(shapes)
    ]
    images = [RosetteImage.open(path) for path in files]
    samples = WholeImages(images, names=["a", "b", "c"], units=["x", "y", "y"])
    for number, (image, shape) in enumerate(zip(images, shapes, strict=True)):
        assert samples[number]["channels"].shape == (2, *shape) and samples[number]["target"].shape == (1, *shape)
        np.testing.assert_array_equal(samples[number]["channels"], image.channels)
        np.testing.assert_array_equal(samples[number]["target"], image.target)
    assert ordered_batches(samples, 256) == [[0], [1], [2]]


def test_new_images_need_no_target(tmp_path: Path) -> None:
    path = write(tmp_path / "new.h5", {"mask": layers()["labels"]})
    image = RosetteImage.open(path, require_target=False)
    assert image.target is None and image.channels.shape == (2, 6, 8)
    sample = WholeImages([image], ["new"], ["new"], with_target=False)[0]
    assert set(sample) == {"channels", "labels"} and sample["labels"].dtype == torch.int32
    np.testing.assert_array_equal(sample["labels"], image.labels)
    refused(lambda: RosetteImage.open(path), str(path), "no dataset rosette_mask", "add them or leave the file out")


def test_the_digest_is_that_of_the_layers_in_use(tmp_path: Path) -> None:
    made = layers()
    one, two = (write_as(tmp_path / f"{generation}.h5", generation, made) for generation in ("layers", "stack"))
    assert RosetteImage.open(one).digest() == RosetteImage.open(two).digest()
    brighter = write_as(tmp_path / "brighter.h5", "layers", {**made, "intensity": made["intensity"] + 1})
    for use_intensity in (False, True):
        same = [RosetteImage.open(path, use_intensity=use_intensity).digest() for path in (one, brighter)]
        assert (same[0] == same[1]) != use_intensity


def stored(**changes: Any) -> dict[str, Any]:
    made = layers()
    whole = {
        "segmentation_outlines": made["labels"],
        "rosettes_binary": made["target"],
        "raw_data": made["intensity"],
        **changes,
    }
    return {name: values for name, values in whole.items() if values is not None}


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        (stored(segmentation_outlines=None), ("no dataset segmentation_outlines", "labels of the cells are needed")),
        (stored(rosettes_binary=None), ("no dataset rosettes_binary", "annotated rosettes are needed")),
        (stored(raw_data=None), ("no dataset raw_data or raw_image", "set use_intensity to false")),
        (
            stored(rosettes_binary=np.ones((6, 7))),
            ("rosettes_binary has 6 x 7 pixels but segmentation_outlines 6 x 8", "one shape"),
        ),
        (stored(raw_data=np.ones((5, 8))), ("raw_data has 5 x 8 pixels but segmentation_outlines 6 x 8",)),
        (stored(segmentation_outlines=np.ones((2, 6, 8))), ("segmentation_outlines has shape (2, 6, 8)", "expected")),
        (stored(segmentation_outlines=np.ones(8)), ("has shape (8,); expected (height, width)",)),
        (stored(segmentation_outlines=np.ones((0, 8))), ("has shape (0, 8)",)),
        (stored(segmentation_outlines=b"text"), ("segmentation_outlines is no array of numbers",)),
        ({"data": np.ones((3, 6, 8))}, ("data has shape (3, 6, 8); expected (4, height, width)",)),
        ({"data": np.ones((2, 4, 6, 8))}, ("data has shape (2, 4, 6, 8)",)),
        ({"cells": np.ones((6, 8)), "image": np.ones((6, 8))}, ("unknown layout, it holds cells, image; expected",)),
        ({}, ("unknown layout, it holds nothing; expected segmentation_outlines and rosettes_binary, or data of",)),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    tmp_path: Path, datasets: dict[str, Any], expected: tuple[str, ...]
) -> None:
    path = write(tmp_path / "spoiled.h5", datasets)
    refused(lambda: RosetteFile.open(path, use_intensity=True), str(path), *expected)


@pytest.mark.parametrize(
    ("layer", "datasets", "expected"),
    [
        ("labels", stored(segmentation_outlines=np.full((6, 8), 1.5)), "labels in segmentation_outlines are no whole"),
        ("labels", stored(segmentation_outlines=np.full((6, 8), 2**40)), "no whole numbers of 32 bits"),
        ("intensity", stored(raw_data=np.full((6, 8), np.nan)), "intensity in raw_data holds NaN or infinite"),
    ],
)
def test_values_that_cannot_be_used_are_refused(
    tmp_path: Path, layer: Any, datasets: dict[str, Any], expected: str
) -> None:
    path = write(tmp_path / "spoiled.h5", datasets)
    file = RosetteFile.open(path, use_intensity=True)
    refused(lambda: file.read(layer), str(path), expected)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.h5", stored(), compression="gzip", chunks=(6, 8))
    content = path.read_bytes()
    for number, part in enumerate([content[: len(content) // 2], content[:-1], b"no HDF5 at all", b""]):
        damaged = tmp_path / f"{number}.h5"
        damaged.write_bytes(part)
        refused(
            lambda path=damaged: RosetteFile.open(path), str(damaged), "not a readable HDF5 file", "restore the file"
        )
    with h5py.File(path) as file:
        chunk = file["rosettes_binary"].id.get_chunk_info(0)
    bad = bytearray(content)
    bad[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(bad)
    image = RosetteImage.open(path)
    assert image.channels.shape == (2, 6, 8)
    refused(image.digest, str(path), "not a readable HDF5 file")
    refused(lambda: RosetteFile.open(tmp_path / "nowhere.h5"), "nowhere.h5: no such file")


def test_a_file_that_changes_under_way_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", stored())
    image = RosetteImage.open(path)
    write_as(path, "layers", layers(4, 4))
    refused(lambda: image.channels, str(path), "segmentation_outlines has changed")
