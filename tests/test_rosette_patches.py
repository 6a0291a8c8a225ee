"""Where patches are cut, against the recorded windows; what is drawn depends on seed and name alone."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datasets.rosette_augmentation import Augmentation
from datasets.rosette_channels import RosetteImage
from datasets.rosette_patches import CentrePatches, Patches, centre_corner, corner_about, cut, draw_corner
from tests.refusals import refused
from training.loading import Pool, load_batches

RECORDED = np.load(Path(__file__).resolve().parent / "fixtures" / "rosette_patches" / "windows.npz")
COLUMNS = ["h", "w", "crop", "centre_y", "centre_x", "top", "left", "pad_bottom", "pad_right"]
ROWS = RECORDED["crop_rows"].tolist()


@dataclass(frozen=True)
class Toy:
    """An image whose first channel says where each pixel is, and the second where rosettes are."""

    rosette: np.ndarray

    @property
    def shape(self):
        return self.rosette.shape

    def crop_channels(self, rows, columns):
        places = np.arange(1, self.rosette.size + 1, dtype=np.float32).reshape(self.shape)
        return np.stack([places, self.rosette.astype(np.float32)])[:, rows, columns]

    def crop_target(self, rows, columns):
        return self.rosette[None, rows, columns].astype(np.float32)


def toy(height, width, *pixels):
    rosette = np.zeros((height, width), bool)
    for pixel in pixels:
        rosette[pixel] = True
    return Toy(rosette)


def patches(count, prefix="a", **options):
    random = np.random.default_rng(0)
    images = [Toy(random.random((40, 50)) < 0.1) for _ in range(count)]
    return Patches(images, [f"{prefix}{number}" for number in range(count)], ["animal"] * count, 16, **options)


def draws(image, size, anywhere, count):
    random = torch.Generator().manual_seed(0)
    return [draw_corner(image, size, anywhere, random) for _ in range(count)]


def where(patch, width):
    """Read the corner of a patch off its first channel."""
    return divmod(int(patch["channels"][0, 0, 0]) - 1, width)


def equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_the_recorded_table_is_the_expected_one():
    assert RECORDED["crop_cols"].tolist() == COLUMNS and len(ROWS) == 24


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_windows_about_a_pixel_are_the_recorded_ones(row):
    height, width, size, *pixel, top, left, below, beside = row
    assert corner_about(*pixel, (height, width), size) == (top, left)
    image = toy(height, width, tuple(pixel))
    assert draws(image, size, 0.0, 1) == [(top, left)]
    patch = cut(image, (top, left), size)
    inside = patch["valid"][0, : size - below, : size - beside]
    assert {key: tuple(value.shape) for key, value in patch.items()} == {
        "channels": (2, size, size),
        "target": (1, size, size),
        "valid": (1, size, size),
    }
    assert inside.min() == 1 and patch["valid"].sum() == inside.numel()
    assert patch["target"][0, pixel[0] - top, pixel[1] - left] == patch["target"].sum() == 1


def test_short_sides_are_filled_with_zeros_at_the_bottom_and_the_right():
    image = toy(2, 3, (1, 2))
    patch = CentrePatches([image], ["a"], ["u"], 4)[0]
    assert patch["channels"][0].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [0] * 4, [0] * 4]
    assert patch["valid"][0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]
    assert patch["target"][0].tolist() == [[0] * 4, [0, 0, 1, 0], [0] * 4, [0] * 4]
    assert {value.dtype for value in patch.values()} == {torch.float32}
    equal(Patches([image], ["a"], ["u"], 4)[0], patch)


def test_the_centre_is_cut_and_nothing_is_drawn():
    assert centre_corner((10, 7), 4) == (3, 1) and centre_corner((4, 3), 4) == (0, 0)
    samples = CentrePatches([toy(10, 7), toy(4, 9)], ["a", "b"], ["u", "v"], 4)
    assert [where(samples[index], width) for index, width in ((0, 7), (1, 9))] == [(3, 1), (0, 2)]
    assert len(samples) == 2 and not hasattr(samples, "reseed")


def test_three_of_ten_patches_are_anywhere_and_the_others_about_the_rosette():
    image = toy(100, 100, (50, 50))
    found = draws(image, 10, 0.3, 3000)
    elsewhere = [corner for corner in found if corner != (45, 45)]
    # Binomial: 900 expected, 25 the standard deviation; one window in 8281 anywhere is that of the rosette, too.
    assert abs(len(elsewhere) - 900) < 100
    assert np.mean(elsewhere, axis=0) == pytest.approx([45, 45], abs=4)


def test_every_pixel_of_a_rosette_is_as_likely():
    pixels = [(20, 30), (21, 30), (60, 10), (70, 80)]
    found = draws(toy(100, 100, *pixels), 10, 0.0, 4000)
    counts = {corner: found.count(corner) for corner in set(found)}
    assert sorted(counts) == [(15, 25), (16, 25), (55, 5), (65, 75)]
    assert all(abs(count - 1000) < 110 for count in counts.values())


def test_without_a_rosette_every_window_is_as_likely():
    found = draws(toy(6, 5), 4, 0.0, 6000)
    counts = {corner: found.count(corner) for corner in set(found)}
    assert sorted(counts) == [(top, left) for top in range(3) for left in range(2)]
    assert all(abs(count - 1000) < 120 for count in counts.values())


def test_rosettes_are_not_looked_up_for_a_patch_anywhere():
    class Unread(Toy):
        shape = (20, 20)
        rosette = property(lambda self: pytest.fail("looked up"))

    assert draw_corner(Unread.__new__(Unread), 4, 1.0, torch.Generator().manual_seed(0)) < (17, 17)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_a_patch_depends_on_seed_and_name_alone(augmentation):
    samples = patches(6, augmentation=augmentation)
    samples.reseed(7)
    forward = [samples[index] for index in range(6)]
    backward = [samples[index] for index in reversed(range(6))][::-1]
    moved = Patches(samples.images[::-1], samples.names[::-1], samples.units, 16, augmentation=augmentation)
    moved.reseed(7)
    for index in range(6):
        equal(forward[index], backward[index])
        equal(forward[index], moved[5 - index])
    samples.reseed(8)
    assert any(not torch.equal(samples[index]["channels"], forward[index]["channels"]) for index in range(6))
    samples.reseed(7)
    equal(samples[3], forward[3])
    renamed = Patches(samples.images, [f"b{number}" for number in range(6)], samples.units, 16)
    renamed.reseed(7)
    assert any(not torch.equal(renamed[index]["channels"], forward[index]["channels"]) for index in range(6))


def test_augmentation_leaves_the_windows_where_they_are():
    plain = patches(6)
    mirrored = patches(6, augmentation=Augmentation(1, 0, 0, 0, 0, 0))
    for index in range(6):
        equal({key: value.flip(-1) for key, value in plain[index].items()}, mirrored[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pool_and_loader_workers_draw_what_a_client_draws(workers):
    parts = [patches(3, "a", augmentation=Augmentation()), patches(4, "b", augmentation=Augmentation())]
    pool = Pool(parts)
    pool.reseed(11)
    order = [5, 0, 3, 6, 1, 2, 4]
    batches = load_batches(pool, [order[:4], order[4:]], workers, 0)
    seen = [
        {key: value[row] for key, value in batch.items()} for batch in batches for row in range(len(batch["valid"]))
    ]
    for index, found in zip(order, seen, strict=True):
        equal(found, parts[0][index] if index < 3 else parts[1][index - 3])


def test_patches_of_a_file_are_parts_of_its_image(tmp_path):
    labels, rosette = np.zeros((30, 20), np.int32), np.zeros((30, 20), np.uint8)
    labels[3:9, 4:12], labels[12:28, 2:18], rosette[14:17, 6:9] = 1, 2, 1
    path = tmp_path / "processed_data_R1_T1_1_0001.h5"
    with h5py.File(path, "w") as file:
        file["segmentation_outlines"], file["rosettes_binary"] = labels, rosette
        file["raw_data"] = np.arange(600, dtype=np.uint16).reshape(30, 20)
    image = RosetteImage.open(path, use_intensity=True)
    samples = Patches([image], ["a"], ["u"], 24, anywhere=0.0)
    whole, corners = image.channels, set()
    for seed in range(20):
        samples.reseed(seed)
        patch = samples[0]
        top = round(patch["channels"][2, 0, 0].item() * 599) // 20
        np.testing.assert_array_equal(patch["channels"][:, :, :20], whole[:, top : top + 24])
        np.testing.assert_array_equal(patch["target"][0, :, :20], rosette[top : top + 24])
        assert patch["valid"].sum() == 24 * 20 and not patch["channels"][:, :, 20:].any()
        corners.add(top)
    # The rosette's rows less half a patch, 12.
    assert corners == {2, 3, 4}


def test_no_global_generator_is_used():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    samples = patches(4, augmentation=Augmentation(1, 1, 1, 1, 1, 1))
    for index in range(4):
        samples[index]
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("size", [0, -16])
def test_a_patch_without_pixels_is_refused(size):
    refused(lambda: CentrePatches([], [], [], size), f"patch_size = {size}", "above 0")
    refused(lambda: Patches([], [], [], size), f"patch_size = {size}")


def test_what_is_no_probability_is_refused():
    refused(lambda: Patches([], [], [], anywhere=1.5), "anywhere = 1.5", "0 to 1")
