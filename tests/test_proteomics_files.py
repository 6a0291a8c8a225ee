"""Tables of abundances as they come, and those that are refused."""

from pathlib import Path

import numpy as np
import pytest

from datasets.proteomics_files import read_matrix, read_texts
from tests.refusals import refused

FOLDER = Path(__file__).parent / "fixtures" / "proteomics"


def written(folder: Path, text: str, name: str = "platform_a.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_the_recorded_table() -> None:
    matrix = read_matrix(FOLDER / "platform_a.csv")
    assert matrix.features == tuple(f"OLK_{number}" for number in range(6))
    assert matrix.ids[:2].tolist() == ["P1371", "P1737"] and matrix.values[0, 1] == -1.761898
    assert read_matrix(FOLDER / "new_a.csv").values[1, 1] == 1.8286580000000001


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "id,site,x,y\n007, north,1.5,\nNA,south,NA,2\n"),
        ("a.csv", "\ufeffid,site,x,y\r\n007,north,1.5,nan\r\nNA,south,NULL,2\r\n\r\n"),
        ("a.csv", '"id","site","x","y"\n"007","north","1.5",""\n"NA","south","","2e0"'),
        ("a.tsv", "\tsite\tx\ty\n007\tnorth\t1.5\t\nNA\tsouth\t<NA>\t2\n"),
        ("a.txt", "sample\tsite\tx\ty\n007\tnorth\t1.5\tN/A\nNA \tsouth \t\t2.0\n"),
    ],
)
def test_ids_are_text_and_cells_may_be_missing(name: str, text: str, tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, text, name), ["site", "batch"])
    assert matrix.ids.tolist() == ["007", "NA"] and matrix.features == ("x", "y")
    np.testing.assert_array_equal(matrix.values, [[1.5, np.nan], [np.nan, 2.0]])
    assert {key: column.tolist() for key, column in matrix.labels.items()} == {"site": ["north", "south"]}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("99999999999999999999999", 1e23),
        ("18446744073709551615", 2.0**64),
        ("2.5\u00a0", 2.5),
        ("2.5 ", 2.5),
        ("+.5E1", 5),
        ("NA ", np.nan),
        ("na", np.nan),
        (" Null\u00a0", np.nan),
        ("  ", np.nan),
    ],
)
def test_numbers_and_missing_cells_in_all_their_ways(cell: str, value: float, tmp_path: Path) -> None:
    """A large number beside a negative one, blanks of spreadsheets, any case; blank lines above do no harm."""
    values = read_matrix(written(tmp_path, f"\n\nid,x,y\ns,-3,0.1\nt,{cell},1e-3\n")).values
    np.testing.assert_array_equal(values, [[-3, 0.1], [value, 1e-3]])


def test_columns_by_name_whatever_their_order(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, "id,z,x,y\ns,3,1,2\n"))
    assert matrix.values[0, matrix.columns(("x", "y"), "a")].tolist() == [1, 2]
    refused(lambda: matrix.columns(("x", "u", "v"), "a"), "platform_a.csv: feature 'u' of platform a", "and 1 more")
    refused(lambda: matrix.columns(("u", "v"), "a", ("x", "y")), "holds the features of platform b, not a; swap")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,x\ns,1\nt,2\ns,3\n", ("id 's' occurs more than once", "keep one row")),
        ("id,x\ns,1\n s,2\n", ("id 's' occurs more than once",)),
        ("id,x\ns,1\n,2\n", ("row 3: id is empty",)),
        ("id,x,y\ns,1,2\nt,1,low\nu,1,high\n", ("row 't': y = 'low' is no number, and 1 more cells", "unit_key")),
        ("id,x,y\ns,1,2\nt,1,True\nu,1,False\n", ("row 't': y = 'True' is no number",)),
        ("id,x,y\ns,1,True\nt,1,False\n", ("row 's': y = 'True' is no number, and 1 more",)),
        ('id,x,y\ns,1,"2,5"\n', ("row 's': y = '2,5' is no number",)),
        ("id,x\ns,1\nt,inf\nu,-Infinity\n", ("row 't': x = 'inf' is infinite, and 1 more cells",)),
        ("id,x\ns,1\nt,1e400\n", ("row 't': x = '1e400' is infinite",)),
        ("id,x,y\ns,1,2\nt,-1e300,2\n", ("row 't': x = '-1e+300' is too large",)),
        ("id,x\ns,1_000\nt,2\n", ("row 's': x = '1_000' is no number",)),
        ("id,x\ns,1\nt,\u0663\n", ("row 't': x = '\u0663' is no number",)),
        ("id,x\ns,1\nt,\uff11\uff12\n", ("row 't': x = '\uff11\uff12' is no number",)),
        ("id,x\ns,1\nt,0x10\n", ("row 't': x = '0x10' is no number",)),
        ("id,x\ns,1\nt,2\x00\n", ("holds NUL bytes",)),
        ("# exported in May\nid,x\ns,1\n", ("in its first line, '# exported in May'", "nothing above them")),
        ("id,x,x\ns,1,2\n", ("column 'x' occurs twice",)),
        ("id,x,\ns,1,2\n", ("column 3 of the header has no name",)),
        ("x,y\ns,1,2\n", ("row 's' has 3 cells, the header has 2 names", "name the id column")),
        ("id,x,y\ns,1,2\nt,1\n", ("row 't' has 2 cells, the header has 3 names", "mend the row")),
        ('id,x,y\ns,"1",2\nt,1\n', ("row 't' has 2 cells",)),
        ("id,x\n", ("holds no rows",)),
        ("", ("no column beside the ids",)),
        ("id;x\ns;1\n", ("no column beside the ids", "separated by commas")),
        ("id,site\ns,north\n", ("no feature column beside 'id', 'site'",)),
    ],
)
def test_unusable_tables_are_refused(text: str, said: tuple[str, ...], tmp_path: Path) -> None:
    path = written(tmp_path, text)
    refused(lambda: read_matrix(path, ["site"]), "platform_a.csv: ", *said)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    refused(lambda: read_matrix(tmp_path / "a.csv"), "a.csv: no such file")
    refused(lambda: read_matrix(written(tmp_path, "id,x\ns,1\n", "a.xlsx")), "a.xlsx: unknown kind", ".csv")
    (tmp_path / "b.csv").write_bytes(b"id,x\n\xff\xfe,1\n")
    refused(lambda: read_matrix(tmp_path / "b.csv"), "b.csv: not a readable text file")
    (tmp_path / "c.csv").mkdir()
    refused(lambda: read_matrix(tmp_path / "c.csv"), "c.csv: not a readable text file")


def test_texts_stay_as_they_are_written(tmp_path: Path) -> None:
    path = written(tmp_path, "x,sample,note\n1.50,007,NA\n2,b,\n")
    ids, table = read_texts(path, "sample")
    assert ids == ["007", "b"] and table["x"].tolist() == ["1.50", "2"] and table["note"].tolist() == ["NA", ""]
    refused(lambda: read_texts(path, "name"), "no column 'name'")
