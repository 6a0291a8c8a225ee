"""Train, val and test of samples: the recorded draws, whole donors, files, and the split of a pair of tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.proteomics_splits import draw_splits, read_split, split_files, split_rows, write_split
from tests.refusals import refused

FOLDER = Path(__file__).parent / "fixtures" / "proteomics"
RECORDED = np.load(FOLDER / "expected.npz")
A, B = FOLDER / "platform_a.csv", FOLDER / "platform_b.csv"
SPLITS = ("train", "val", "test")


@pytest.mark.parametrize("number", [0, 1])
def test_recorded_draws(number: int) -> None:
    *fractions, seed = RECORDED[f"split{number}_config"].tolist()
    parts = split_rows(len(RECORDED["ids"]), fractions, int(seed), "study")
    for name, rows in zip(SPLITS, parts, strict=True):
        assert rows.tolist() == RECORDED[f"split{number}_{name}"].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_donors_stay_whole_and_all_are_drawn(seed: int) -> None:
    random = np.random.default_rng(seed)
    units = np.asarray([f"donor {number}" for number in random.integers(0, 12, 40)])
    everyone = np.ones(40, dtype=bool)
    splits = draw_splits(units, everyone, (0.6, 0.2, 0.2), seed, "study")
    assert set(splits) == set(SPLITS)
    assert all(len(set(splits[units == unit])) == 1 for unit in units)
    order = random.permutation(40)
    assert (draw_splits(units[order], everyone, (0.6, 0.2, 0.2), seed, "study") == splits[order]).all()


def test_samples_that_are_not_drawn_follow_their_donor_or_train() -> None:
    units = np.asarray([*"abcdefghij", "a", "b", "c", "k", "l"])
    drawn = np.arange(15) < 10
    splits = draw_splits(units, drawn, (0.6, 0.2, 0.2), 1, "study")
    alone = draw_splits(units[:10], drawn[:10], (0.6, 0.2, 0.2), 1, "study")
    assert (splits[:10] == alone).all() and splits[10:].tolist() == [*alone[:3], "train", "train"]


def test_draws_that_cannot_be_are_refused() -> None:
    refused(lambda: split_rows(2, (0.8, 0.1, 0.1), 0, "study: client 'x'"), "study: client 'x': 2 samples", "too few")
    refused(lambda: split_rows(3, (0.1, 0.1, 0.8), 0, "study"), "too few")
    refused(lambda: split_rows(9, (0.8, 0.1, 0.2), 0, "study"), "with sum 1")
    refused(lambda: split_rows(9, (0.8, 0.1, 0.1), -1, "study"), "seed: -1")
    assert [len(part) for part in split_rows(3, (0.8, 0.1, 0.1), 0, "study")] == [1, 1, 1]
    assert len(split_rows(1000, (0.8, 0.1, 0.1 + 9e-7), 0, "study")[0]) > 790


def test_a_split_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "out" / "split.csv"
    write_split(path, ["007", "b", "c"], ["north", "north", "south"], SPLITS)
    assert path.read_text() == "id,client,split\n007,north,train\nb,north,val\nc,south,test\n"
    assert read_split(path) == {"007": "train", "b": "val", "c": "test"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,part\na,train\n", "no column 'split'"),
        ("id,split\na,train\nb,valid\n", "row 'b': split = 'valid'"),
        ("id,split\na,train\na,val\n", "id 'a' occurs more than once"),
    ],
)
def test_unusable_split_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    refused(lambda: read_split(path), "split.csv: ", said)


# The command


def ids(path: Path) -> list[str]:
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]]


def test_a_pair_of_tables_is_split_alike(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="are not on the other platform; left out") as caught:
        records = split_files(A, B, tmp_path)
    assert [str(one.message).split(": ")[1].split()[0] for one in caught] == ["8", "14"]
    assert {record["file"]: record["samples"] for record in records} == {
        "platform_a_train.csv": 41,
        "platform_b_train.csv": 41,
        "platform_a_test.csv": 11,
        "platform_b_test.csv": 11,
    }
    train, test = (ids(tmp_path / f"platform_a_{part}.csv") for part in ("train", "test"))
    assert sorted(train + test) == RECORDED["ids"].tolist() and train == sorted(train)
    assert ids(tmp_path / "platform_b_train.csv") == train and ids(tmp_path / "platform_b_test.csv") == test
    lines = A.read_text().splitlines()
    kept = (tmp_path / "platform_a_test.csv").read_text().splitlines()
    assert kept[0] == lines[0] and set(kept) < set(lines)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "platform_b_test.csv").touch()
    refused(lambda: split_files(A, B, tmp_path / "other"), "platform_b_test.csv: is there already")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["platform_b_test.csv"], "nothing is half done"


def test_a_named_id_column_and_whole_donors(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": range(12), "sample": [f"s{n:02d}" for n in range(12)], "donor": ["p", "q", "r"] * 4})
    one, two = tmp_path / "one.txt", tmp_path / "two.csv"
    table.to_csv(one, index=False, sep="\t")
    table[["sample", "x"]].to_csv(two, index=False)
    split_files(one, two, tmp_path / "out", test_size=0.3, seed=1, id_column="sample", unit_column="donor")
    train, test = (pd.read_csv(tmp_path / "out" / f"one_{part}.txt", sep="\t") for part in ("train", "test"))
    assert len(test) == 4 and test["donor"].nunique() == 1 and set(test["donor"]).isdisjoint(train["donor"])
    assert pd.read_csv(tmp_path / "out" / "two_test.csv")["sample"].tolist() == test["sample"].tolist()
    table.assign(donor=["p", "p ", " "] * 4).to_csv(one, index=False, sep="\t")
    settings = {"id_column": "sample", "unit_column": "donor"}
    refused(
        lambda: split_files(one, two, tmp_path / "new", **settings), "one.txt: sample 's02' has no donor in 'donor'"
    )
    table.assign(donor=["p", "p ", " q"] * 4).to_csv(one, index=False, sep="\t")
    split_files(one, two, tmp_path / "new", test_size=0.5, **settings)
    donors = pd.read_csv(tmp_path / "new" / "one_test.txt", sep="\t")["donor"].str.strip()
    assert donors.nunique() == 1 and len(donors) in (4, 8), "blanks make no other donor"


def test_pairs_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("id,x\nq,1\n")
    few = tmp_path / "few.csv"
    few.write_text("id,x\nP61,1\n")
    refused(lambda: split_files(A, B, tmp_path, test_size=1.0), "test_size: 1.0")
    refused(lambda: split_files(A, B, tmp_path, seed=2**32), "seed: 4294967296")
    refused(lambda: split_files(A, A, tmp_path), "has the name of the other file")
    refused(lambda: split_files(A, other, tmp_path), "platform_a.csv: shares no id with", "other.csv")
    refused(lambda: split_files(A, few, tmp_path), "1 samples are too few to split")
    refused(lambda: split_files(A, B, tmp_path, id_column="name"), "platform_a.csv: no column 'name'")
    refused(lambda: split_files(A, B, tmp_path, unit_column="donor"), "platform_a.csv: no column 'donor'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.csv", "other.csv"]
