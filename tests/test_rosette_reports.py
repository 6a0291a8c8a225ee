"""What is written of predicted rosettes, worked out by hand: images, tables of samples and of rosettes, and JSON."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import datasets.rosette_reports
from datasets.rosette_reports import write_reports

SOME = np.zeros((4, 6), np.float32)
SOME[0, :3] = [0.6, 0.7, 0.8]
SOME[2:, 4:] = 0.9
SOME[3, 0] = 0.99
"""Parts of three pixels, four and one; only the first two are large enough."""
CELLS = np.zeros((4, 6), np.int32)
CELLS[0, :2], CELLS[1, :2], CELLS[2:, 5] = 1, 2, 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    samples = [("some", SOME, CELLS), ("none", SOME[:1, 3:], CELLS[:1, 3:])]
    return write_reports(samples, tmp_path_factory.mktemp("reports") / "new", threshold=0.5, min_size=2)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_files_are_tables_then_two_images_per_sample(written: list[Path]) -> None:
    assert [path.name for path in written] == [
        *("samples.csv", "rosettes.csv", "summary.json"),
        *("some_probability.tif", "some_rosettes.tif", "none_probability.tif", "none_rosettes.tif"),
    ]
    assert sorted(written) == sorted(written[0].parent.iterdir())


def test_images_are_the_probability_and_the_numbered_rosettes(written: list[Path]) -> None:
    probability, numbered = (tifffile.imread(path) for path in written[3:5])
    np.testing.assert_array_equal(probability, SOME)
    assert (probability.dtype, numbered.dtype) == (np.float32, np.uint16)
    np.testing.assert_array_equal(numbered, [[1, 1, 1, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 2, 2], [0, 0, 0, 0, 2, 2]])
    assert not tifffile.imread(written[6]).any()


def test_a_row_per_sample(written: list[Path]) -> None:
    some, none = rows(written[0])
    assert some["sample"] == "some"
    assert [int(some[key]) for key in ("rosettes", "area", "cells", "cells_in_rosettes")] == [2, 7, 3, 2]
    assert float(some["mean_probability"]) == pytest.approx((0.6 + 0.7 + 0.8 + 4 * 0.9) / 7)
    assert float(some["fraction_in_rosettes"]) == pytest.approx(2 / 3)
    assert float(some["rosettes_per_1000_cells"]) == pytest.approx(2000 / 3)
    assert list(none.values()) == ["none", "0", "0", "", "0", "0", "", ""]


def test_a_row_per_rosette(written: list[Path]) -> None:
    line, square = rows(written[1])
    assert [line[key] for key in ("sample", "rosette", "area", "row", "column")] == ["some", "1", "3", "0.0", "1.0"]
    assert [square[key] for key in ("sample", "rosette", "area", "row", "column")] == ["some", "2", "4", "2.5", "4.5"]
    assert float(line["eccentricity"]) == 1 and float(line["major_axis"]) == pytest.approx(4 * (2 / 3) ** 0.5)
    assert float(square["eccentricity"]) == 0 and float(square["minor_axis"]) == pytest.approx(2)


def test_the_summary_says_the_same_as_the_tables(written: list[Path]) -> None:
    summary = json.loads(written[2].read_text())
    assert (summary["threshold"], summary["min_size"], list(summary["samples"])) == (0.5, 2, ["some", "none"])
    for row in rows(written[0]):
        one = summary["samples"][row["sample"]]
        assert {key: "" if value is None else str(value) for key, value in one.items() if key != "objects"} == {
            key: value for key, value in row.items() if key != "sample"
        }
    found = [{"sample": name, **each} for name, one in summary["samples"].items() for each in one["objects"]]
    assert [{key: str(value) for key, value in each.items()} for each in found] == rows(written[1])


def test_tables_without_a_rosette_keep_their_columns(written: list[Path], tmp_path: Path) -> None:
    write_reports([("none", SOME[:1, 3:], CELLS[:1, 3:])], tmp_path, threshold=0.5, min_size=2)
    assert (tmp_path / "rosettes.csv").read_text().splitlines() == [written[1].read_text().splitlines()[0]]


def test_more_rosettes_than_16_bits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.rosette_reports, "label_rosettes", lambda mask: np.full(mask.shape, 2**16, np.int32))
    write_reports([("many", SOME, CELLS)], tmp_path, threshold=0.5, min_size=2)
    assert tifffile.imread(tmp_path / "many_rosettes.tif").max() == 2**16
