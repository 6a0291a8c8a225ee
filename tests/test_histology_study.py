"""Which tile belongs where: clients, splits and held-out tiles, whole groups only, and what is recorded of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.histology import Study, TilePlacement
from datasets.histology_scaling import column_sums, mean_and_deviation
from datasets.histology_splits import Draw, write_splits
from datasets.synthetic import image_expression
from tests.placed_studies import check_whole
from tests.refusals import refused

RECORDED = np.load(Path(__file__).parent / "fixtures" / "image_expression" / "metrics.npz")
BY_SITE = TilePlacement(client_key="site", held_out="hospital_east")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiles") / "study"
    image_expression.make(made, patients=4, tiles_per_patient=3, size=16)
    return made


def groups(study: Study, client: str, split: str) -> set[str]:
    return set(study.table.groups[study.rows(client, split)].tolist())


def test_clients_by_column_and_a_held_out_one(folder: Path) -> None:
    study = Study.open(folder, BY_SITE)
    assert study.clients == ["hospital_north", "hospital_south", "hospital_west"]
    check_whole(study, 48)
    assert len(study.rows("held_out", "test")) == 12 and not len(study.rows("held_out", "train"))
    assert {split: len(groups(study, "hospital_west", split)) for split in SPLITS} == {"train": 2, "val": 1, "test": 1}
    assert groups(study, "hospital_north", "train") < {"000", "001", "002", "003"}


def test_groups_dealt_evenly(folder: Path) -> None:
    study = Study.open(folder / "metadata.csv", TilePlacement(partition="evenly", clients=5, seed=1))
    assert study.clients == [f"client_0{number}" for number in range(1, 6)] and not study.has_held_out
    check_whole(study, 48)
    sizes = [len(set.union(*(groups(study, client, split) for split in SPLITS))) for client in study.clients]
    assert sorted(sizes) == [3, 3, 3, 3, 4]
    again, other = (Study.open(folder, TilePlacement(partition="evenly", clients=5, seed=seed)) for seed in (1, 2))
    assert (again.clients_N == study.clients_N).all() and (other.clients_N != study.clients_N).any()


def test_a_split_file_decides(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.csv"
    draw = Draw(val_ratio=0.25, test_ratio=0.25)
    write_splits(folder / "metadata.csv", out, draw, group_col="group_id", path_col="path", client_col="site")
    study = Study.open(folder, TilePlacement(client_key="site", held_out="hospital_east", split=out))
    written = pd.read_csv(out, dtype=str)
    own = study.clients_N != "held_out"
    assert study.splits_N[own].tolist() == written["split"].to_numpy()[own].tolist()
    assert len(study.rows("held_out", "test")) == 12 and not study.borrowed
    entry = study.manifest("hospital_west")["val"]
    assert (
        entry["file"] == "split.csv"
        and entry["tiles"] == 3
        and entry["units"] == sorted(groups(study, "hospital_west", "val"))
    )


def test_without_a_test_split_validation_stands_for_it_and_says_so(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.csv"
    write_splits(folder / "metadata.csv", out, Draw(), group_col="group_id", path_col="path", client_col="site")
    study = Study.open(folder, TilePlacement(client_key="site", split=out))
    assert study.borrowed and study.manifest("hospital_west")["test"]["borrowed_from"] == "val"
    assert study.rows("hospital_west", "test").tolist() == study.rows("hospital_west", "val").tolist()
    assert set(study.identities("hospital_west")) == {"train", "val"}


@pytest.fixture
def split(folder: Path, tmp_path: Path) -> Callable[[Callable[[pd.DataFrame], pd.DataFrame]], Path]:
    """Write a split of every site, changed."""

    def write(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
        out = tmp_path / "split.csv"
        draw = Draw(test_ratio=0.25)
        write_splits(folder / "metadata.csv", out, draw, group_col="group_id", path_col="path", client_col="site")
        change(pd.read_csv(out, dtype=str)).to_csv(out, index=False)
        return out

    return write


def test_rows_without_a_partner_are_counted_and_left_out(folder: Path, split: Callable[..., Path]) -> None:
    extra = pd.DataFrame([["gone.png", "000", "train"]], columns=["path", "group_id", "split"])

    def change(rows: pd.DataFrame) -> pd.DataFrame:
        extra["split"] = rows["split"][rows["group_id"] == "000"].iloc[0]
        return pd.concat([rows.iloc[2:], extra])

    source = split(change)
    with pytest.warns(UserWarning) as caught:
        study = Study.open(folder, TilePlacement(client_key="site", split=source))
    told = [str(one.message) for one in caught]
    assert told == [
        f"{folder / 'metadata.csv'}: 2 rows have no partner in the other file; left out",
        f"{source}: 1 rows have no partner in the other file; left out",
    ]
    check_whole(study, 46)


def flip_one(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[1, "split"] = "val" if rows.loc[0, "split"] == "train" else "train"
    return rows


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (flip_one, "group '000' is in two places: split"),
        (lambda rows: rows.replace({"split": {"test": "hold"}}), "split = 'hold'; write one of train, val, test"),
        (
            lambda rows: pd.concat([rows, rows.iloc[:1]]),
            "row 49, line 50: path tiles/hospital_north/000_00.png is that",
        ),
        (lambda rows: rows.assign(path="x" + rows["path"]), "no path of it is in"),
        (
            lambda rows: rows.replace({"group_id": {"003": "3"}}),
            "group '3' of tiles/hospital_north/003_00.png is '003'",
        ),
        (lambda rows: rows.assign(split="train"), "no val rows for client 'hospital_east'"),
        (lambda rows: rows.rename(columns={"split": "fold"}), "no column 'split'"),
    ],
)
def test_split_files_that_do_not_fit_are_refused(
    folder: Path, split: Callable[..., Path], change: Callable[[pd.DataFrame], pd.DataFrame], expected: str
) -> None:
    source = split(change)
    refused(lambda: Study.open(folder, TilePlacement(client_key="site", split=source)), str(source), expected)


def test_placements_that_cannot_be_are_refused(folder: Path) -> None:
    refused(lambda: TilePlacement(), "client_key, partition: give one of the two")
    refused(
        lambda: TilePlacement(client_key="site", partition="evenly", clients=3),
        "client_key, partition: give one of the two",
    )
    refused(lambda: TilePlacement(partition="evenly", clients=3, held_out="x"), "held_out_client: 'x' has no effect")
    refused(lambda: TilePlacement(partition="evenly", clients=3, fractions=(0.5, 0.5, 0.5)), "fractions")
    refused(
        lambda: Study.open(folder, TilePlacement(partition="evenly", clients=8)),
        "client 'client_01' has 2 groups",
        "three needed",
    )
    refused(
        lambda: Study.open(folder, TilePlacement(partition="evenly", clients=99)),
        "clients: 99 are more than the 16 units",
    )
    refused(lambda: Study.open(folder / "nowhere", BY_SITE), "nowhere: no such file")


def test_the_digest_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    clients = ["hospital_north", "hospital_south", "held_out"]
    digests = [Study.open(folder, BY_SITE).digest(client) for client in clients]
    assert [Study.open(moved, BY_SITE).digest(client) for client in clients] == digests
    tile = moved / "tiles" / "hospital_north" / "000_00.png"
    shutil.copy(moved / "tiles" / "hospital_north" / "000_01.png", tile)
    changed = [Study.open(moved, BY_SITE).digest(client) for client in clients]
    assert [one == other for one, other in zip(changed, digests, strict=True)] == [False, True, True]
    table = pd.read_csv(moved / "metadata.csv", dtype=str)
    table.loc[table["site"] == "hospital_east", "y3"] = "1.25"
    table.to_csv(moved / "metadata.csv", index=False)
    assert Study.open(moved, BY_SITE).digest("held_out") != digests[2]


def scaled_by(*parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sums = [{name: np.asarray(values) for name, values in column_sums(part).items()} for part in parts]
    rules = {"min": np.minimum, "max": np.maximum}
    names = ("count", "sum", "squares", "min", "max")
    return mean_and_deviation(*(rules.get(name, np.add).reduce([one[name] for one in sums]) for name in names))


def test_merged_sums_give_the_recorded_scaling() -> None:
    train, new = RECORDED["scaler_y_train"], RECORDED["scaler_y_new"]
    for parts in ([train], [train[:7], train[7:9], train[9:]]):
        mean, deviation = scaled_by(*parts)
        np.testing.assert_allclose(mean, RECORDED["scaler_mean"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(deviation, RECORDED["scaler_std"], rtol=0, atol=1e-9)
        np.testing.assert_allclose((new - mean) / deviation, RECORDED["scaler_y_new_scaled"], rtol=0, atol=1e-9)


def test_constant_columns_and_large_means_are_scaled_safely() -> None:
    random = np.random.default_rng(0)
    values = np.column_stack([np.full(90, 3.7), 1e4 + random.normal(size=90), np.r_[np.zeros(89), 1e-9]])
    mean, deviation = scaled_by(values[:30], values[30:])
    np.testing.assert_allclose(deviation, [1, values[:, 1].std(), 1], rtol=1e-6)
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12)
    far = np.r_[np.full(50, 1e9), np.full(50, 1e9 + 1e-3)][:, None]
    assert far.std() / 10 < scaled_by(far)[1][0] <= np.ptp(far) / 2


def test_the_order_of_rows_does_not_matter() -> None:
    values = np.random.default_rng(1).lognormal(size=(200, 3))
    assert column_sums(values) == column_sums(values[::-1])
