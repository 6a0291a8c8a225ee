"""Splits by group: the recorded draws, tests and folds, what is refused, and what is written down."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from core.errors import UserError
from datasets.__main__ import app
from datasets.histology_splits import Draw, draw_splits
from tests.commands import refused

RECORDED = np.load(Path(__file__).parent / "fixtures" / "image_expression" / "splits.npz")
GROUPS = [f"g{number}" for number in range(10) for _ in range(1 + number % 3)]


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    rows = {"path": [f"{number}.png" for number in range(len(GROUPS))], "group_id": GROUPS}
    sites = ["north" if int(group[1]) < 6 else "south" for group in GROUPS]
    pd.DataFrame({**rows, "site": sites, "y0": 0.5}).to_csv(tmp_path / "metadata.csv", index=False)
    return tmp_path / "metadata.csv"


def split(*arguments: str | Path | int | float) -> "object":
    return CliRunner().invoke(app, ["split", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("case", range(int(RECORDED["n_cases"])))
def test_draws_are_the_recorded_ones(case: int) -> None:
    groups, seed, ratio = (RECORDED[f"case{case}_{name}"] for name in ("groups", "seed", "val_ratio"))
    (drawn,) = draw_splits(groups.tolist(), Draw(int(seed), float(ratio)), "table.csv")
    np.testing.assert_array_equal(drawn, RECORDED[f"case{case}_split"])
    assert sorted(set(groups[drawn == "val"])) == sorted(RECORDED[f"case{case}_val_groups"])


def members(drawn: np.ndarray) -> dict[str, set[str]]:
    return {name: {group for group, own in zip(GROUPS, drawn, strict=True) if own == name} for name in set(drawn)}


def test_a_test_set_takes_groups_from_train_only() -> None:
    (without,) = draw_splits(GROUPS, Draw(3, 0.2), "table.csv")
    (drawn,) = draw_splits(GROUPS, Draw(3, 0.2, 0.3), "table.csv")
    sides = members(drawn)
    assert {name: len(groups) for name, groups in sides.items()} == {"train": 5, "val": 2, "test": 3}
    assert set.union(*sides.values()) == set(GROUPS) and sum(map(len, sides.values())) == 10
    assert sides["val"] == members(without)["val"]


@pytest.mark.parametrize("test_ratio", [None, 0.2])
def test_each_group_is_in_validation_once(test_ratio: float | None) -> None:
    folds = [members(drawn) for drawn in draw_splits(GROUPS, Draw(1, test_ratio=test_ratio, folds=4), "table.csv")]
    validated = [group for fold in folds for group in fold["val"]]
    tested = folds[0].get("test", set())
    assert sorted(validated) == sorted(set(GROUPS) - tested)
    assert all(fold.get("test", set()) == tested for fold in folds) and len(tested) == (2 if test_ratio else 0)
    assert all(fold["train"] | fold["val"] | tested == set(GROUPS) for fold in folds)


@pytest.mark.parametrize(
    ("draw", "groups", "expected"),
    [
        (Draw(), ["only", "only"], "1 group (only), too few for 1 for val and one or more for train"),
        (Draw(val_ratio=0.96), GROUPS, "10 groups (g0, g1, g2, g3, ...), too few for 10 for val"),
        (Draw(val_ratio=0.5, test_ratio=0.5), GROUPS, "too few for 5 for val, 5 for test and one or more for train"),
        (Draw(folds=11), GROUPS, "too few for 11 folds"),
        (Draw(folds=1), GROUPS, "folds: 1 is too few"),
        (Draw(folds=3, val_ratio=0.2), GROUPS, "val_ratio: 0.2 has no effect with folds 3"),
        (Draw(val_ratio=0.0), GROUPS, "val_ratio: 0.0 is not between 0 and 1"),
        (Draw(test_ratio=1.0), GROUPS, "test_ratio: 1.0 is not between 0 and 1"),
        (Draw(seed=-1), GROUPS, "seed: -1 is outside"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: Draw, groups: list[str], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        draw_splits(groups, draw, "table.csv")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_writes_the_split_and_its_record(metadata: Path) -> None:
    out = metadata.with_name("split.csv")
    done = split(metadata, out, "--seed", 0, "--val-ratio", 0.3, "--test-ratio", 0.2)
    assert done.exit_code == 0 and "30.0%" in done.stdout
    written = pd.read_csv(out, dtype=str)
    assert list(written) == ["path", "group_id", "split"]
    (drawn,) = draw_splits(GROUPS, Draw(0, 0.3, 0.2), "table.csv")
    assert written["split"].tolist() == drawn.tolist() and written["path"].tolist()[:2] == ["0.png", "1.png"]
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["metadata_sha256"] == hashlib.sha256(metadata.read_bytes()).hexdigest()
    assert (record["seed"], record["val_ratio"], record["test_ratio"], record["folds"]) == (0, 0.3, 0.2, None)
    (entry,) = record["splits"]
    assert entry["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert entry["val"]["groups"] == 3 and entry["val"]["group_share"] == 0.3
    assert entry["val"]["sample_share"] == pytest.approx((drawn == "val").mean())
    assert sum(entry[name]["samples"] for name in ("train", "val", "test")) == len(GROUPS)


def test_folds_are_files_of_their_own(metadata: Path) -> None:
    out = metadata.with_name("split.csv")
    assert split(metadata, out, "--folds", 3).exit_code == 0
    files = [metadata.with_name(f"split_fold{fold}.csv") for fold in (1, 2, 3)]
    assert not out.exists() and all(file.exists() for file in files)
    record = json.loads(out.with_suffix(".json").read_text())
    assert [entry["file"] for entry in record["splits"]] == [file.name for file in files]
    assert record["val_ratio"] is None and record["folds"] == 3


def test_every_client_is_split_by_itself(metadata: Path) -> None:
    out = metadata.with_name("split.csv")
    assert split(metadata, out, "--client-col", "site", "--test-ratio", 0.2).exit_code == 0
    written = pd.read_csv(out).assign(site=pd.read_csv(metadata)["site"])
    assert written.groupby("site")["split"].nunique().tolist() == [3, 3]


def test_the_command_refuses_in_one_line(metadata: Path) -> None:
    out = metadata.with_name("split.csv")
    refused(split(metadata, out, "--group-col", "patient"), "no column 'patient'", "path, group_id")
    refused(split(metadata.with_name("none.csv"), out), "no such file")
    refused(split(metadata, metadata), "is the metadata itself")
    refused(split(metadata, metadata.with_name("split.json")), "must end in .csv")
    refused(split(metadata, out, "--val-ratio", 0.99), "too few for 10 for val")
    table = pd.read_csv(metadata, dtype=str)
    table.loc[3, "group_id"] = ""
    table.to_csv(metadata, index=False)
    refused(split(metadata, out), "row 4, line 5", "group_id is missing")
    table.loc[3, "group_id"] = "g9"
    table.to_csv(metadata, index=False)
    refused(split(metadata, out, "--client-col", "site"), "'g9' is in two places")
    assert not out.exists()


def test_unknown_names_are_refused_in_one_line() -> None:
    result = CliRunner().invoke(app, ["brain", "somewhere"], catch_exceptions=False)
    refused(result, "'brain' is not a synthetic data set", "image_expression", "nicheformer")
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "split" in shown and "image_expression" in shown
