"""Post-processing against the recorded mask; measures against numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from datasets.rosette_objects import label_rosettes, rosette_mask, rosette_table, sample_report
from tests.refusals import refused

RECORDED = np.load(Path(__file__).resolve().parent / "fixtures" / "rosette_patches" / "objects.npz")


def image(text):
    return np.array([[int(character) for character in line] for line in text.split()])


def only(numbered):
    """Give the one row of a table."""
    table = rosette_table(np.asarray(numbered))
    assert {len(values) for values in table.values()} == {1}
    return {name: values[0] for name, values in table.items()}


def test_mask_and_counts_are_the_recorded_ones():
    probability, threshold = RECORDED["post_pred"], float(RECORDED["post_threshold"])
    mask = rosette_mask(probability, threshold, int(RECORDED["post_min_size"]))
    np.testing.assert_array_equal(mask, RECORDED["post_mask"])
    assert mask.dtype == bool
    assert label_rosettes(probability > threshold).max() == RECORDED["post_before_n"]
    assert label_rosettes(mask).max() == RECORDED["post_after_n"]


def test_parts_are_joined_by_edges_and_stay_from_the_least_area_on():
    # Parts of 3 and 2 pixels which touch at a corner, and of 4.
    mask = image("1100011 1000011 0110000")
    for least, expected in ((3, "1100011 1000011 0000000"), (4, "0000011 0000011 0000000"), (5, "0000000 " * 3)):
        np.testing.assert_array_equal(rosette_mask(mask * 0.9, 0.5, least), image(expected))
    for least in (0, 1, 2):
        np.testing.assert_array_equal(rosette_mask(mask * 0.9, 0.5, least), mask)


def test_the_threshold_must_be_exceeded():
    probability = np.array([[0.5, 0.75, 0.25]])
    np.testing.assert_array_equal(rosette_mask(probability, 0.5, 1), [[False, True, False]])
    np.testing.assert_array_equal(rosette_mask(probability, 0.25, 1), [[True, True, False]])
    assert not rosette_mask(np.zeros((3, 3)), min_size=0).any()
    assert rosette_mask(np.ones((3, 3)), min_size=9).all()


def test_values_that_cannot_be_used_are_refused():
    refused(lambda: rosette_mask(np.zeros((2, 2)), threshold=1.5), "threshold = 1.5", "0 to 1")
    refused(lambda: rosette_mask(np.zeros((2, 2)), threshold=math.nan), "threshold = nan")
    refused(lambda: rosette_mask(np.zeros((2, 2)), min_size=-1), "min_size = -1", "from 0 on")


def test_rosettes_may_touch_at_a_corner_and_are_numbered_from_the_top():
    np.testing.assert_array_equal(label_rosettes(image("1001 0101 0000 1000")), image("1002 0102 0000 3000"))


def test_a_rectangle_is_measured_by_hand():
    numbered = np.zeros((6, 10), int)
    numbered[1:3, 2:8] = 5
    found = only(numbered)
    # n equally spaced centres vary by (n^2 - 1) / 12: here 0.25 down and 35/12 across; an axis is 4 roots of it.
    assert (found["rosette"], found["area"], found["row"], found["column"]) == (5, 12, 1.5, 4.5)
    assert found["major_axis"] == pytest.approx(4 * math.sqrt(35 / 12))
    assert found["minor_axis"] == pytest.approx(2)
    assert found["eccentricity"] == pytest.approx(math.sqrt(1 - 0.25 / (35 / 12)))
    turned = only(numbered.T)
    assert (turned["row"], turned["column"]) == (4.5, 1.5)
    for name in ("major_axis", "minor_axis", "eccentricity"):
        assert turned[name] == pytest.approx(found[name])


def test_lines_and_single_pixels_have_no_extent_across():
    pixel = only([[0, 0], [0, 1]])
    assert [pixel[name] for name in ("area", "row", "column", "eccentricity", "major_axis", "minor_axis")] == [
        1,
        1,
        1,
        0,
        0,
        0,
    ]
    diagonal = only(np.eye(4, dtype=int))
    # Centres at multiples of the root of 2: a variance of 2 * 15 / 12 along the diagonal.
    assert diagonal["major_axis"] == pytest.approx(4 * math.sqrt(2.5))
    assert (diagonal["minor_axis"], diagonal["eccentricity"]) == (pytest.approx(0, abs=1e-7), pytest.approx(1))


def test_axes_of_a_turned_ellipse_are_its_own():
    rows, columns = np.mgrid[-60:61, -60:61]
    along, across = (columns + rows) / math.sqrt(2), (rows - columns) / math.sqrt(2)
    found = only(((along / 50) ** 2 + (across / 20) ** 2 <= 1).astype(int))
    assert found["major_axis"] == pytest.approx(100, rel=0.01)
    assert found["minor_axis"] == pytest.approx(40, rel=0.01)
    assert found["eccentricity"] == pytest.approx(math.sqrt(1 - 0.4**2), rel=0.01)


def test_measures_equal_those_of_each_rosette_alone_by_eigenvalues():
    random = np.random.default_rng(0)
    numbered = label_rosettes(random.random((40, 40)) < 0.3)
    table = rosette_table(numbered)
    assert len(table["area"]) == numbered.max() > 20
    for place, number in enumerate(table["rosette"]):
        pixels = np.argwhere(numbered == number)
        small, large = np.clip(np.linalg.eigvalsh(np.cov(pixels.T, bias=True)), 0, None)
        assert table["area"][place] == len(pixels)
        np.testing.assert_allclose([table["row"][place], table["column"][place]], pixels.mean(0))
        np.testing.assert_allclose(table["major_axis"][place], 4 * math.sqrt(large), atol=1e-6)
        np.testing.assert_allclose(table["minor_axis"][place], 4 * math.sqrt(small), atol=1e-6)
        expected = math.sqrt(1 - small / large) if large else 0
        np.testing.assert_allclose(table["eccentricity"][place], expected, atol=1e-6)


def test_a_sample_is_reported_by_hand():
    labels = image("1122 1122 0033 4033")
    mask = image("0110 0000 0000 0001").astype(bool)
    probability = np.where(mask, 0.9, 0.1)
    probability[0, 1] = 0.6
    report = sample_report(probability, mask, labels)
    assert (report.rosettes, report.area, report.cells, report.cells_in_rosettes) == (2, 3, 4, 3)
    assert report.mean_probability == pytest.approx(0.8)
    assert (report.fraction_in_rosettes, report.rosettes_per_1000_cells) == (0.75, 500)
    assert report.objects["area"].tolist() == [2, 1]
    assert report.objects["column"].tolist() == [1.5, 3]


def test_shares_of_nothing_are_not_numbers():
    nothing = np.zeros((3, 3))
    report = sample_report(nothing, nothing > 0, nothing.astype(int))
    assert (report.rosettes, report.area, report.cells, report.cells_in_rosettes) == (0, 0, 0, 0)
    for value in (report.mean_probability, report.fraction_in_rosettes, report.rosettes_per_1000_cells):
        assert math.isnan(value)
    assert {len(values) for values in report.objects.values()} == {0}
    background = sample_report(nothing + 1, nothing == 0, nothing.astype(int))
    assert (background.rosettes, background.area, background.mean_probability, background.cells) == (1, 9, 1, 0)


def test_arrays_of_different_images_are_an_error():
    with pytest.raises(ValueError, match="one image"):
        sample_report(np.zeros((2, 2)), np.zeros((2, 2), bool), np.zeros((2, 3), int))
