"""Prediction by windows against recorded averages, by hand, and by what every window adds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn.functional import conv2d

from models.sliding_window import sliding_window, window_starts
from tests.refusals import refused

RECORDED = np.load(Path(__file__).parent / "fixtures" / "attention_unet" / "sliding_window.npz")
CASES = dict(zip(RECORDED["sw_names"].tolist(), RECORDED["sw_patch_overlap"].tolist(), strict=True))


def toy(windows: Tensor) -> Tensor:
    weight, bias = torch.from_numpy(RECORDED["conv_weight"]), torch.from_numpy(RECORDED["conv_bias"])
    return conv2d(windows, weight, bias, padding=2).sigmoid()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", CASES)
def test_recorded_averages(name: str, batch: int) -> None:
    patch, overlap = CASES[name]
    found = sliding_window(toy, torch.from_numpy(RECORDED[f"{name}__x"]), patch, overlap, batch)
    np.testing.assert_allclose(found[0], RECORDED[f"{name}__recommended"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_monai_agrees_where_nothing_is_padded(name: str) -> None:
    patch, overlap = CASES[name]
    image = torch.from_numpy(RECORDED[f"{name}__x"])
    theirs = sliding_window_inference(image[None], (patch, patch), 8, toy, overlap / patch, padding_mode="reflect")
    difference = float((sliding_window(toy, image, patch, overlap) - theirs[0]).abs().max())
    assert (difference > 0.1) == (min(image.shape[-2:]) < patch) and (difference > 0.1 or difference < 1e-6)


def test_starts_by_hand() -> None:
    assert window_starts(10, 4, 2) == [0, 2, 4, 6]
    assert window_starts(11, 4, 2) == [0, 2, 4, 6, 7]
    assert window_starts(4, 4, 3) == [0]
    assert window_starts(200, 100, 34) == [0, 66, 100]


@pytest.mark.parametrize(("patch", "overlap"), [(1, 0), (3, 0), (3, 2), (8, 3), (12, 11)])
def test_windows_are_distinct_cover_the_axis_and_overlap_enough(patch: int, overlap: int) -> None:
    for side in range(patch, 40):
        starts = window_starts(side, patch, overlap)
        gaps = np.diff(starts)
        assert starts[0] == 0 and starts[-1] == side - patch and bool((gaps > 0).all())
        assert bool((gaps <= patch - overlap).all()) and bool((gaps[:-1] == patch - overlap).all())


@pytest.mark.parametrize(("height", "width"), [(7, 9), (4, 4), (3, 9), (2, 3), (1, 1)])
def test_what_looks_at_single_pixels_sees_the_image_itself(height: int, width: int) -> None:
    image = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0))
    found = sliding_window(lambda windows: windows[:, :1], image, 4, 2, batch=3)
    torch.testing.assert_close(found, image[:1])


def test_averages_by_hand() -> None:
    """Windows of two pixels at 0, 1, 2 give their number over the windows before: 0, 1, 2."""
    numbers = iter([0.0, 1.0, 2.0])
    found = sliding_window(lambda windows: torch.full_like(windows, next(numbers)), torch.zeros(1, 2, 4), 2, 1, batch=1)
    assert found.tolist() == [[[0, 0.5, 1.5, 2]] * 2]


def test_no_batch_is_larger_than_asked_for_and_half_precision_becomes_float32() -> None:
    sizes: list[int] = []

    def predict(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return windows[:, :1].half()

    found = sliding_window(predict, torch.rand(2, 40, 40), 16, 4, batch=4)
    assert sizes == [4, 4, 1] and found.dtype == torch.float32 and found.shape == (1, 40, 40)


def test_a_short_axis_is_mirrored_and_a_very_short_one_filled_with_zeros() -> None:
    seen: list[Tensor] = []

    def predict(windows: Tensor) -> Tensor:
        seen.append(windows)
        return windows

    image = torch.arange(1.0, 7).reshape(1, 2, 3)
    found = sliding_window(predict, image, 4, 0)
    assert seen[0][0, 0].tolist() == [[1, 2, 3, 2], [4, 5, 6, 5], [0] * 4, [0] * 4]
    assert torch.equal(found, image)


def test_windows_that_cannot_be() -> None:
    image = torch.zeros(1, 8, 8)
    for patch in (0, -3):
        refused(lambda patch=patch: sliding_window(toy, image, patch, 0), f"patch: {patch}", "at least 1")
    for overlap in (4, 5, -1):
        refused(lambda overlap=overlap: sliding_window(toy, image, 4, overlap), f"overlap: {overlap}", "give 0 ... 3")
    with pytest.raises(ValueError, match="batch: 0"):
        sliding_window(toy, image, 4, 2, batch=0)
