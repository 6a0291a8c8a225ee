"""The metadata table: text stays text, and whatever cannot be used is refused in one line that names the row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.histology_table import read_gene_names, read_table, row_name
from tests.refusals import refused

ROWS = [
    ["a.png", "007", "north", "1.5", "0", "note"],
    ["b.png", "007", "north", "-2", "1e-3", ""],
    ["sub/c.png", "8", "south", "0.25", "3", "x"],
]
HEADER = ["path", "group_id", "site", "y0", "y1", "remark"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, rows: Sequence[Sequence[str]] = ROWS, header: Sequence[str] = HEADER) -> Path:
    path = folder / "metadata.csv"
    path.write_text("\n".join(",".join(row) for row in (header, *rows)) + "\n")
    return path


def read(path: Path, **changes: Any) -> Any:
    options = {"path_col": "path", "group_col": "group_id", "client_col": "site", "target_dim": None, "root": None}
    return read_table(path, **{**options, **changes})


def changed(row: int, column: str, value: str) -> list[list[str]]:
    rows = [list(one) for one in ROWS]
    rows[row][HEADER.index(column)] = value
    return rows


def test_text_stays_text_and_further_columns_are_ignored(folder: Path) -> None:
    table = read(write(folder))
    assert table.groups.tolist() == ["007", "007", "8"]
    assert table.paths.tolist() == ["a.png", "b.png", "sub/c.png"]
    assert table.clients.tolist() == ["north", "north", "south"]
    assert table.files == tuple(folder / name for name in table.paths)
    np.testing.assert_array_equal(table.targets, [[1.5, 0], [-2, 1e-3], [0.25, 3]])


def test_blanks_around_a_name_do_not_make_another(folder: Path) -> None:
    rows = [[f" {cell}\u00a0" for cell in row] if at == 1 else row for at, row in enumerate(ROWS)]
    table = read(write(folder, rows))
    assert table.groups.tolist() == ["007", "007", "8"] and table.clients.tolist() == ["north", "north", "south"]
    assert table.files[1] == folder / "b.png" and table.targets[1].tolist() == [-2, 1e-3]


def test_relative_paths_start_at_the_root_given(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    source = write(elsewhere)
    refused(lambda: read(source), "row 1, line 2", "no such image file", "data_root", "2 more rows")
    assert read(source, root=folder).files[0] == folder / "a.png"


def test_rows_are_named_as_editors_count(folder: Path) -> None:
    assert row_name(0) == "row 1, line 2"


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("y1", "", "y1 = '' is no finite number"),
        ("y1", "NaN", "y1 = 'NaN' is no finite number"),
        ("y0", "high", "y0 = 'high' is no finite number"),
        ("y0", "inf", "y0 = 'inf' is no finite number"),
        ("group_id", " ", "group_id is missing"),
        ("path", "", "path is missing"),
        ("path", "nowhere.png", "no such image file: "),
        ("path", "a.png", "'a.png' is that of row 1, line 2 again"),
        ("path", "sub/../a.png", "is that of row 1, line 2 again"),
        ("site", "", "site is missing"),
        ("site", "south", "group_id '007' is in two places: site 'north' (row 1, line 2) and 'south'"),
    ],
)
def test_bad_values_are_refused_with_their_row(folder: Path, column: str, value: str, expected: str) -> None:
    source = write(folder, changed(1, column, value))
    refused(lambda: read(source), str(source), "row 2, line 3", expected)


def test_missing_columns_and_rows_are_refused(folder: Path) -> None:
    for column in ("path", "group_id", "site"):
        header = ["other" if name == column else name for name in HEADER]
        refused(lambda header=header: read(write(folder, header=header)), f"no column '{column}'")
    gap = [name.replace("y1", "y2") for name in HEADER]
    refused(lambda: read(write(folder, header=gap)), "no column 'y1' although y2 is there", "without a gap")
    refused(lambda: read(write(folder, header=["path", "group_id", "site", "u", "v", "w"])), "no column 'y0'")
    refused(lambda: read(write(folder, rows=[])), "holds no rows")
    refused(lambda: read(folder / "none.csv"), "no such file")
    (folder / "binary.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    refused(lambda: read(folder / "binary.csv"), "not a readable CSV")
    (folder / "empty.csv").write_text("")
    refused(lambda: read(folder / "empty.csv"), "not a readable CSV")


def test_rows_too_long_are_refused_and_too_short_ones_miss_values(folder: Path) -> None:
    refused(lambda: read(write(folder, [*ROWS, [*ROWS[0], "more"]])), "not a readable CSV", "line 5")
    refused(lambda: read(write(folder, [ROWS[0], ["b.png", "007", "north"]])), "row 2, line 3", "y0 = ''")


def test_another_number_of_targets_is_refused(folder: Path) -> None:
    assert read(write(folder), target_dim=2).targets.shape == (3, 2)
    refused(lambda: read(write(folder), target_dim=50), "has 2 targets (y0 ... y1)", "target_dim is 50")


def test_gene_names(folder: Path) -> None:
    (folder / "genes.txt").write_text("EPCAM\nMKI67\n\n")
    assert read_gene_names(folder / "genes.txt", 2) == ["EPCAM", "MKI67"]
    refused(lambda: read_gene_names(folder / "genes.txt", 3), "2 different gene names for 3 targets")
    refused(lambda: read_gene_names(folder / "none.txt", 3), "cannot read gene names")
