"""Crops against the recorded ones, read lazily, with what the mask asks for."""

import warnings

import numpy as np
import pytest
import tifffile
import torch

from datasets.array_cache import ArrayCache, process_cache
from datasets.nuclei_blocks import read_mask, read_raw
from datasets.nuclei_crops import CropOptions, nucleus_number
from datasets.nuclei_placement import NucleiPlacement
from datasets.nuclei_positions import crop_count, grid, grid_fractions, mask_parts
from tests.refusals import refused
from tests.toy_nuclei import FIXTURES, SMALL, opened, recorded, study_folder, volume, write_nucleus, write_table

SPLITS = ("train", "val", "test")


@pytest.fixture
def published(tmp_path):
    arrays = recorded(tmp_path)
    size = tuple(arrays["crop_size"].tolist())
    options = CropOptions(crop_size=size, counting="reference", missing_mask="zero", scaling="reference")
    with pytest.warns(UserWarning, match="sample 0007 is skipped: no folder") as caught:
        study = opened(tmp_path, options=options)
    assert len(caught) == 1
    return arrays, study


def test_crops_masks_positions_order_and_classes_are_the_recorded_ones(published):
    arrays, study = published
    size = study.options.crop_size
    found = [(one, crop) for one in study.nuclei for crop in grid(one.volume.shape, size, "reference")]
    assert [one.sample for one, _ in found] == arrays["sample_ids"].tolist()
    assert [one.class_id for one, _ in found] == arrays["labels_raw_class_id"].tolist()
    assert [list(crop.start) for _, crop in found] == arrays["positions"].tolist()
    indices = ["z{}y{}x{}".format(*place) for place in arrays["crop_idx"].tolist()]
    assert [crop.name for _, crop in found] == indices
    for place, (one, crop) in enumerate(found):
        np.testing.assert_array_equal(read_raw(one.volume, crop.start, size), arrays["crops"][place])
        np.testing.assert_array_equal(read_mask(one.volume, crop.start, size), arrays["crop_masks"][place])


def test_samples_hold_the_recorded_crops_scaled_their_class_and_nucleus(published):
    arrays, study = published
    expected = {
        f"{sample}/z{z}y{y}x{x}": (crop, mask, class_id)
        for sample, (z, y, x), crop, mask, class_id in zip(
            *(arrays[key] for key in ("sample_ids", "crop_idx", "crops", "crop_masks", "labels_raw_class_id")),
            strict=True,
        )
    }
    seen = {}
    for split in SPLITS:
        samples = study.crops("client_01", split, with_mask=True, class_weights=[1.0, 2.0, 3.0])
        for index, name in enumerate(samples.names):
            seen[name] = (samples[index], samples.units[index])
    assert sorted(seen) == sorted(expected)
    for name, (item, unit) in seen.items():
        crop, mask, class_id = expected[name]
        np.testing.assert_allclose(item["volume"][0], crop / 255, atol=1e-6)
        np.testing.assert_array_equal(item["mask"][0], mask > 0)
        label = [1, 2, 3].index(class_id)
        assert (item["label"].item(), item["weight"].item()) == (label, label + 1)
        assert unit == name.split("/")[0] and item["nucleus"].item() == nucleus_number(unit)
        assert item["volume"].dtype == item["weight"].dtype == torch.float32
        assert item["label"].dtype == item["nucleus"].dtype == torch.int64


def test_crops_per_axis_are_the_recorded_counts():
    arrays = np.load(FIXTURES / "crops.npz")
    assert len(arrays["count_table"]) == 5
    for row in arrays["count_table"].tolist():
        *lengths, size = row[:4]
        counts = [crop_count(length, size, "reference") for length in lengths]
        assert counts + [crop_count(length, size) for length in lengths] == row[4:]


def test_the_exact_grid_covers_all_that_fits_and_nothing_twice():
    crops = grid((9, 16, 3), (4, 4, 4))
    assert len(crops) == 2 * 4 * 1
    seen = np.zeros((9, 16, 4), dtype=int)
    for crop in crops:
        z, y, x = crop.start
        seen[z : z + 4, y : y + 4, x : x + 4] += 1
    assert seen[:8].min() == seen.max() == 1 and seen[8:].max() == 0


def test_only_the_slices_of_a_crop_are_read_and_only_once(tmp_path):
    study = opened(study_folder(tmp_path, shape=(12, 8, 8)), cache_bytes=10**6)
    samples = study.crops("client_01", "train")
    cache = process_cache()
    cache.clear()
    where = samples.names.index(f"{samples.units[0]}/z1y0x0")
    first = samples[where]["volume"]
    assert cache.reads == 4
    assert samples.names[where + 1].endswith("z1y0x1")
    samples[where + 1]
    study.crops("client_01", "train")[where]
    assert cache.reads == 4
    torch.testing.assert_close(samples[where]["volume"], first, rtol=0, atol=0)
    paths = {tifffile.imread(path).tobytes() for path in sorted((tmp_path / samples.units[0] / "raw").iterdir())[4:8]}
    assert {values.tobytes() for values in cache._arrays.values()} == paths


def test_the_cache_drops_the_oldest_and_never_passes_its_limit(tmp_path):
    cache = ArrayCache(limit=250)
    paths = [tmp_path / str(number) for number in range(4)]

    def get(number):
        return cache.get(paths[number], lambda path: np.full(100, int(path.name), np.uint8))

    for number in (0, 1, 0, 2):
        assert get(number)[0] == number
        assert cache.size <= 250
    assert cache.reads == 3
    get(0)
    assert cache.reads == 3, "0 was used after 1, so 1 went"
    get(1)
    assert (cache.reads, cache.size) == (4, 200)
    with pytest.raises(ValueError, match="read-only"):
        get(1)[0] = 5
    nothing = ArrayCache(limit=0)
    assert nothing.get(paths[0], lambda path: np.ones(3))[0] == 1 and nothing.size == 0


def test_loader_workers_give_the_same_batches_as_this_process(tmp_path):
    samples = opened(study_folder(tmp_path)).crops("client_01", "train", augment=True)
    samples.reseed(7)

    def batches(workers):
        return list(torch.utils.data.DataLoader(samples, batch_size=3, num_workers=workers))

    for own, other in zip(batches(0), batches(2), strict=True):
        assert own.keys() == other.keys()
        for key in own:
            torch.testing.assert_close(own[key], other[key], rtol=0, atol=0)


def masked_study(root, mask, **options):
    for number in (1, 2, 3):
        write_nucleus(root / f"{number:04d}", volume(number, mask.shape), mask)
    write_table(root / "classes.csv", [f"1,Glia,{number}" for number in (1, 2, 3)])
    return opened(root, options=CropOptions(crop_size=(4, 4, 4), **options))


def test_zero_outside_blanks_what_the_mask_leaves_out(tmp_path):
    mask = np.zeros((4, 4, 8), np.uint8)
    mask[1:3, :, 2:7] = 1
    samples = masked_study(tmp_path, mask, mask_mode="zero_outside").crops("client_01", "train", with_mask=True)
    raw = volume(int(samples.units[0]), mask.shape)
    for index, x in enumerate((0, 4)):
        expected = (raw * mask)[:, :, x : x + 4] / 255
        np.testing.assert_allclose(samples[index]["volume"][0], expected, atol=1e-6)
        np.testing.assert_array_equal(samples[index]["mask"][0], mask[:, :, x : x + 4])


def test_min_fraction_keeps_grid_crops_with_enough_mask(tmp_path):
    mask = np.zeros((4, 4, 12), np.uint8)
    mask[:, :, 0:4] = 9
    mask[:2, :, 4:8] = 9
    study = masked_study(tmp_path, mask, mask_mode="min_fraction", mask_fraction=0.5)
    np.testing.assert_array_equal(grid_fractions(study.nuclei[0].volume, (4, 4, 4), "exact"), [1.0, 0.5, 0.0])
    np.testing.assert_allclose(grid_fractions(study.nuclei[0].volume, (8, 8, 8), "exact"), [96 / 512])
    samples = study.crops("client_01", "train")
    assert [name.split("/")[1] for name in samples.names] == ["z0y0x0", "z0y0x1"]
    cached = masked_study(tmp_path, mask, mask_mode="min_fraction", mask_fraction=0.5)
    assert cached.crops("client_01", "train").names == samples.names
    stricter = masked_study(tmp_path, mask, mask_mode="min_fraction", mask_fraction=0.51)
    assert len(stricter.crops("client_01", "train")) == 1


def test_a_nucleus_without_mask_gives_no_crops_and_a_warning(tmp_path):
    study = masked_study(tmp_path, np.zeros((4, 4, 4), np.uint8), mask_mode="min_fraction")
    with pytest.warns(UserWarning, match="no crop with enough mask") as caught:
        refused(lambda: study.crops("client_01", "train"), "client 'client_01' has no train crops", "mask_fraction")
    assert len(caught) == 3


def test_crops_are_centred_on_the_parts_of_the_mask(tmp_path):
    mask = np.zeros((8, 8, 140), np.uint8)
    mask[2:6, 1:7, 10:20] = 1
    mask[3:5, 4:6, 130:138] = 1
    study = masked_study(tmp_path, mask, mask_mode="centre_on_mask", mask_fraction=0.5)
    volume_ = study.nuclei[0].volume
    parts = mask_parts(volume_, (4, 4, 4), 0.5)
    # Centres are (3.5, 3.5, 14.5) and (3.5, 4.5, 133.5); a crop of 4 begins 1.5 before its centre.
    assert [part.start for part in parts] == [(2, 2, 13), (2, 3, 132)]
    # The first lies inside the mask; of the second, 2 x 2 x 4 of 4 x 4 x 4 voxels do.
    assert [part.inside_only for part in parts] == [False, True]
    samples = study.crops("client_01", "train")
    assert [name.split("/")[1] for name in samples.names] == ["part0", "part1"]
    raw = volume(int(samples.units[0]), mask.shape)
    np.testing.assert_allclose(samples[0]["volume"][0], raw[2:6, 2:6, 13:17] / 255, atol=1e-6)
    np.testing.assert_allclose(samples[1]["volume"][0], (raw * mask)[2:6, 3:7, 132:136] / 255, atol=1e-6)


def test_a_centred_crop_stays_in_the_volume_or_starts_at_its_origin(tmp_path):
    mask = np.zeros((6, 9, 9), np.uint8)
    mask[0, 0, 8] = 1
    volume_ = masked_study(tmp_path, mask).nuclei[0].volume
    assert [part.start for part in mask_parts(volume_, (8, 4, 4), 0.5)] == [(0, 0, 5)]


def test_nan_and_inf_become_zero_and_are_warned_of_once_per_nucleus(tmp_path):
    for number in (1, 2, 3):
        values = volume(number).astype(np.float32) / 255
        values[0, 0, 0], values[1, 2, 3], values[2, 2, 2] = np.nan, np.inf, -np.inf
        write_nucleus(tmp_path / f"{number:04d}", values)
    write_table(tmp_path / "classes.csv", [f"1,Glia,{number}" for number in (1, 2, 3)])
    for _ in ("made", "read again"):
        with pytest.warns(UserWarning, match="3 voxels are NaN or infinite; read as 0") as caught:
            study = opened(tmp_path)
        assert len(caught) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        item = study.crops("client_01", "train")[0]["volume"][0]
    assert item[0, 0, 0] == item[1, 2, 3] == item[2, 2, 2] == 0 and torch.isfinite(item).all() and item.sum() > 0


def test_margin_is_cut_from_volume_and_mask(tmp_path):
    root = study_folder(tmp_path, shape=(8, 8, 8))
    place = NucleiPlacement(partition="evenly", clients=1, seed=1)
    options = CropOptions(crop_size=(8, 8, 8), margin=1)
    assert options.input_size == (6, 6, 6)
    whole = opened(root, placement=place, options=CropOptions(crop_size=(8, 8, 8)))
    cut = opened(root, placement=place, options=options).crops("client_01", "train", with_mask=True)[0]
    inner = whole.crops("client_01", "train")[0]["volume"][:, 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(cut["volume"], inner, rtol=0, atol=0)
    assert cut["mask"].shape == (1, 6, 6, 6)
    kept = opened(root, placement=place, options=CropOptions(crop_size=(8, 8, 8), margin=1, cut_mask=False))
    assert kept.crops("client_01", "train", with_mask=True)[0]["mask"].shape == (1, 8, 8, 8)
    assert CropOptions(margin=10).input_size == (60, 60, 60)
    assert CropOptions(crop_size=(16, 20, 20), margin=10).input_size == (8, 12, 12)


def test_nucleus_numbers_are_stable_positive_and_distinct():
    numbers = {nucleus_number(f"{number:04d}") for number in range(2000)}
    assert len(numbers) == 2000 and all(0 <= number < 2**63 for number in numbers)
    # The first eight bytes of SHA-256("0001") are 888b19a43b151683.
    assert nucleus_number("0001") == 0x888B19A43B151683 >> 1


def test_an_augmented_crop_depends_on_seed_and_crop_alone(tmp_path):
    study = opened(study_folder(tmp_path, shape=(8, 8, 8)), options=SMALL)
    plain, samples = study.crops("client_01", "train"), study.crops("client_01", "train", augment=True, with_mask=True)
    assert not hasattr(plain, "reseed")

    def epoch(seed, order):
        samples.reseed(seed)
        return {index: samples[index]["volume"] for index in order}

    one, again, other = epoch(1, range(8)), epoch(1, reversed(range(8))), epoch(2, range(8))
    assert all(torch.equal(one[index], again[index]) for index in range(8))
    assert sum(not torch.equal(one[index], other[index]) for index in range(8)) >= 7
    assert sum(not torch.equal(one[index], plain[index]["volume"]) for index in range(8)) >= 7
