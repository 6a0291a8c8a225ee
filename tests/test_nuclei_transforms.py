"""Transforms against the recorded ones; intensity scaling against numpy."""

import numpy as np
import pytest

from datasets.nuclei_crops import CropOptions
from datasets.nuclei_intensity import measure
from datasets.nuclei_transforms import add_noise, augment, contrast, cut_margin, flip, gamma, published, rotate
from tests.refusals import refused
from tests.toy_nuclei import FIXTURES, opened, study_folder, volume, write_nucleus, write_table

RECORDED = np.load(FIXTURES / "transforms.npz")
CASES = sorted(key for key in RECORDED if "__margin" in key)


def test_every_recorded_array_is_looked_at():
    tested = {*CASES, *(f"{case.split('__')[0]}__in" for case in CASES), "mask__in", "mask__out", "base", *CHANGES}
    assert set(RECORDED) == tested and len(CASES) == 18


@pytest.mark.parametrize("case", CASES)
def test_margin_and_scaling_of_a_crop_as_published(case):
    name, margin = case.split("__margin")
    np.testing.assert_allclose(published(RECORDED[f"{name}__in"], int(margin))[None], RECORDED[case], atol=1e-5)


def test_the_published_mask_is_neither_cut_nor_scaled():
    np.testing.assert_array_equal(RECORDED["mask__in"][None, None].astype(np.float32), RECORDED["mask__out"])
    for margin in (2, 10):
        assert cut_margin(RECORDED["mask__in"], margin).shape == RECORDED[f"u8__margin{margin}"].shape[2:]


CHANGES = {
    "flip_z": lambda values: flip(values, -3),
    "flip_y": lambda values: flip(values, -2),
    "flip_x": lambda values: flip(values, -1),
    "rot90_k1": lambda values: rotate(values, 1),
    "rot90_k2": lambda values: rotate(values, 2),
    "rot90_k3": lambda values: rotate(values, 3),
    "gamma_0.8": lambda values: gamma(values, 0.8),
    "gamma_1.2": lambda values: gamma(values, 1.2),
    "contrast_0.8": lambda values: contrast(values, 0.8),
    "contrast_1.2": lambda values: contrast(values, 1.2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_elementary_changes_are_the_recorded_ones(name):
    changed = CHANGES[name](RECORDED["base"])
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed, RECORDED[name], atol=1e-5)


class Draws:
    """A source of random numbers that says what it is told, in the order asked for."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def random(self):
        return self.answers.pop(0)

    def integers(self, low, high):
        assert low <= self.answers[0] < high
        return self.answers.pop(0)

    def uniform(self, low, high):
        assert low <= self.answers[0] <= high
        return self.answers.pop(0)

    def standard_normal(self, shape, dtype):
        return np.full(shape, self.answers.pop(0), dtype)


def test_all_changes_come_in_the_published_order():
    values = volume(0, (4, 6, 6)).astype(np.float32)[None] / 255
    mask = (values > 0.5).astype(np.float32)
    random = Draws(*[0.499] * 4, 3, 0.499, 1.2, 0.499, 0.8, 0.299, 0.05, 2.0)
    changed, changed_mask = augment(values, mask, random)
    assert not random.answers
    turned = rotate(flip(flip(flip(values, -3), -2), -1), 3)
    expected = np.clip(contrast(gamma(turned, 1.2), 0.8) + 0.1, 0, 1)
    np.testing.assert_allclose(changed, expected, atol=1e-6)
    np.testing.assert_array_equal(changed_mask, (turned > 0.5).astype(np.float32))


def test_draws_that_reach_the_probabilities_change_nothing():
    values = volume(0, (4, 6, 6)).astype(np.float32)[None] / 255
    changed, mask = augment(values, None, Draws(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.3))
    np.testing.assert_array_equal(changed, values)
    assert mask is None


def test_unequal_sides_are_turned_by_half_only():
    values = volume(0, (4, 6, 8)).astype(np.float32)[None] / 255
    changed, _ = augment(values, None, Draws(0.9, 0.9, 0.9, 0.0, 0.9, 0.9, 0.9))
    np.testing.assert_array_equal(changed, rotate(values, 2))


def test_noise_has_the_deviation_asked_for_and_is_clamped():
    random = np.random.default_rng(0)
    noisy = add_noise(np.full((1, 40, 40, 40), 0.5, np.float32), 0.05, random)
    assert abs(noisy.std() - 0.05) < 0.001 and abs(noisy.mean() - 0.5) < 0.001
    assert add_noise(np.ones((1, 9, 9, 9), np.float32), 0.05, random).max() == 1


def first(root, **options):
    study = opened(root, options=CropOptions(crop_size=(4, 8, 8), **options))
    samples = study.crops("client_01", "train")
    return volume(int(samples.units[0])), samples[0]["volume"][0].numpy(), study


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_scaling_by_dtype_and_to_minus_one_to_one(tmp_path, dtype, full):
    study_folder(tmp_path, dtype=dtype)
    raw, scaled, _ = first(tmp_path)
    np.testing.assert_allclose(scaled, raw / full, atol=1e-6)
    np.testing.assert_allclose(first(tmp_path, signed=True)[1], 2.0 * raw / full - 1, atol=1e-6)


def test_published_scaling_divides_any_crop_above_one_by_255(tmp_path):
    study_folder(tmp_path, dtype=np.uint16)
    raw, scaled, _ = first(tmp_path, scaling="reference")
    np.testing.assert_allclose(scaled, raw / 255, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_percentile_and_zscore_are_those_of_the_whole_volume(tmp_path, dtype):
    study_folder(tmp_path, dtype=dtype)
    raw, scaled, study = first(tmp_path, scaling="percentile")
    low, high = np.percentile(raw, [0.5, 99.5], method="inverted_cdf")
    np.testing.assert_allclose(scaled, np.clip((raw - low) / (high - low), 0, 1), atol=1e-4)
    measured = measure(study.nuclei[0].volume)
    assert measured.mean == pytest.approx(volume(1).mean()) and measured.deviation == pytest.approx(volume(1).std())
    standard = first(tmp_path, scaling="zscore")[1]
    np.testing.assert_allclose(standard, (raw - raw.mean()) / raw.std(), atol=1e-4)
    assert abs(standard.mean()) < 1e-5 and abs(standard.std() - 1) < 1e-5
    assert (tmp_path / ".cache" / "nuclei_intensity.json").exists()


def test_floats_are_taken_as_they_are_or_refused(tmp_path):
    for number in (1, 2, 3):
        write_nucleus(tmp_path / f"{number:04d}", volume(number).astype(np.float32) / 255)
    write_table(tmp_path / "classes.csv", [f"1,Glia,{number}" for number in (1, 2, 3)])
    raw, scaled, _ = first(tmp_path)
    np.testing.assert_allclose(scaled, raw / 255, atol=1e-6)
    write_nucleus(tmp_path / "0002", volume(2).astype(np.float32))
    refused(lambda: first(tmp_path), "0002/raw: float values from 1 to 254", "percentile")


def test_scaling_that_contradicts_itself_or_the_data(tmp_path):
    study_folder(tmp_path)
    refused(lambda: first(tmp_path, scaling="zscore", signed=True), "signed", "zscore")
    write_nucleus(tmp_path / "0003", np.full((4, 8, 8), 7, np.uint8))
    refused(lambda: first(tmp_path, scaling="percentile"), "0003: all voxels are about 7")
