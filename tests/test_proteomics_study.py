"""A study on two platforms: who holds what, which samples pair, what is left out, and what a network gets."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datasets.leakage import check_disjoint
from datasets.proteomics import Study, missing_share
from datasets.proteomics_features import shared_names
from datasets.proteomics_files import read_matrix
from datasets.proteomics_layout import SamplePlacement
from datasets.proteomics_scaling import Preprocessing
from datasets.proteomics_splits import write_split
from datasets.proteomics_steps import Missing, Steps
from tests.placed_studies import check_whole, places
from tests.refusals import refused

FIXTURES = Path(__file__).parent / "fixtures" / "proteomics"
RECORDED = np.load(FIXTURES / "expected.npz")
SPLITS = ("train", "val", "test")
FOLDERS = SamplePlacement(fractions=(0.6, 0.2, 0.2))
NAMES = {"a": ["x1", "x2", "x3"], "b": ["y1", "y2"]}


def table(platform: str, ids: Sequence[str], **columns: Sequence[str]) -> pd.DataFrame:
    """Values that tell where they come from: the number of the sample and that of the feature."""
    numbers = [float(name[1:]) for name in ids]
    values = {name: [number + at / 10 for number in numbers] for at, name in enumerate(NAMES[platform])}
    return pd.DataFrame({"id": list(ids), **columns, **values})


def numbered(letter: str, numbers: Sequence[int]) -> list[str]:
    return [f"{letter}{number:02d}" for number in numbers]


def written(folder: Path, **tables: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for platform, own in tables.items():
        own.to_csv(folder / f"platform_{platform}.csv", index=False)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clients with pairs, one with platform a only, and one that is held out."""
    for letter, name in (("n", "north"), ("s", "south"), ("h", "held_out")):
        ids = numbered(letter, range(10))
        written(tmp_path / name, a=table("a", ids[::-1]), b=table("b", ids))
    written(tmp_path / "coast", a=table("a", numbered("c", range(6))))
    return tmp_path


def fitted(study: Study, clients: Sequence[str], missing: Missing = "mean") -> Mapping[str, Preprocessing]:
    steps = Steps(missing=missing)
    rows = {
        platform: np.concatenate([study.train_values(name, platform) for name in clients]) for platform in ("a", "b")
    }
    return {platform: Preprocessing.from_rows(study.features[platform], rows[platform], steps) for platform in rows}


def open_quietly(folder: Path, placement: SamplePlacement = FOLDERS, **options: Mapping[str, Sequence[str]]) -> Study:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Study.open(folder, placement, **options)


# Clients and pairs


def test_a_folder_per_client(data: Path) -> None:
    study = Study.open(data, FOLDERS)
    assert study.clients == ["coast", "north", "south"] and study.has_held_out
    assert study.features == {"a": ("x1", "x2", "x3"), "b": ("y1", "y2")}
    assert {split: len(study.rows("north", split)) for split in SPLITS} == {"train": 6, "val": 2, "test": 2}
    assert len(study.rows("held_out", "test")) == 10 and not len(study.rows("held_out", "train"))
    check_whole(study, 36)
    assert study.train_values("coast", "b").shape == (0, 2)


def test_the_recorded_pairs(tmp_path: Path) -> None:
    for platform in ("a", "b"):
        written(tmp_path / "one", **{platform: pd.read_csv(FIXTURES / f"platform_{platform}.csv")})
    with pytest.warns(UserWarning, match="client 'one': samples 8 only on platform a, 14 only on b; left out"):
        study = Study.open(tmp_path, SamplePlacement())
    assert study.ids_N.tolist() == RECORDED["ids"].tolist()
    for platform in ("a", "b"):
        assert study.features[platform] == tuple(RECORDED[f"feature_names_{platform}"].tolist())
        np.testing.assert_array_equal(study.values[platform], RECORDED[f"raw_{platform}"])
    for split in SPLITS:
        assert study.rows("one", split).tolist() == sorted(RECORDED[f"split0_{split}"].tolist())
    assert study.unused("one") == {"only_a": 8, "only_b": 14}


def test_recorded_drop_of_incomplete_samples(tmp_path: Path) -> None:
    for platform in ("a", "b"):
        written(tmp_path / "one", **{platform: pd.read_csv(FIXTURES / f"platform_{platform}.csv")})
    study = open_quietly(tmp_path, SamplePlacement(drop_incomplete=True))
    assert study.ids_N.tolist() == RECORDED["missing_drop_ids"].tolist()
    for platform in ("a", "b"):
        np.testing.assert_array_equal(study.values[platform], RECORDED[f"missing_drop_{platform}"])
    assert study.unused("one")["incomplete"] == 21


def test_unpaired_samples_train_and_nothing_else_changes(data: Path) -> None:
    ids = numbered("n", range(14))
    written(data / "north", a=table("a", ids[:12]), b=table("b", [*ids[:10], *ids[12:]]))
    without, kept = (
        open_quietly(data, SamplePlacement(fractions=FOLDERS.fractions, keep_unpaired=keep)) for keep in (False, True)
    )
    assert without.unused("north") == {"only_a": 2, "only_b": 2} and kept.unused("north") == {}
    for split in ("val", "test"):
        assert kept.identities("north")[split] == without.identities("north")[split]
    assert set(kept.identities("north")["train"]["sample"]) - set(without.identities("north")["train"]["sample"]) == {
        *ids[10:]
    }
    pairs = kept.pairs("north", "train", fitted(kept, ["north"]))
    alone = [pairs.names.index(name) for name in ids[10:]]
    assert pairs.has_a[alone].tolist() == [True, True, False, False]
    assert pairs.has_b[alone].tolist() == [False, False, True, True]
    assert not pairs.b[alone[:2]].any() and not pairs.a[alone[2:]].any()
    assert len(kept.train_values("north", "b")) == len(without.train_values("north", "b")) + 2


def pair(folder: Path, **columns: Sequence[str]) -> Path:
    """One pair of files with 12 samples, 11 of them on both platforms."""
    ids = numbered("p", range(12))
    return written(folder, a=table("a", ids, **columns), b=table("b", ids[:11]))


def test_clients_by_a_column(tmp_path: Path) -> None:
    study = open_quietly(
        pair(tmp_path, site=["east", "north", "south"] * 4),
        SamplePlacement(fractions=(0.5, 0.25, 0.25), client_key="site", held_out="east"),
    )
    assert study.clients == ["north", "south"] and study.features["a"] == ("x1", "x2", "x3")
    assert study.identities("held_out")["test"]["sample"] == ["p00", "p03", "p06", "p09"]
    assert study.ids_N[study.clients_N == "south"].tolist() == ["p02", "p05", "p08"]
    assert study.unused("south") == {"only_a": 1}


def test_a_client_of_a_pair_may_hold_one_platform(tmp_path: Path) -> None:
    ids = numbered("p", range(8))
    sites = ["both"] * 4 + ["one"] * 4
    written(tmp_path, a=table("a", ids, site=sites), b=table("b", ids[:4]))
    study = Study.open(tmp_path, SamplePlacement(client_key="site"))
    assert study.has["b"][study.clients_N == "one"].sum() == 0 and study.unused("one") == {}
    assert study.has["b"][study.clients_N == "both"].all()


def test_clients_by_a_list(tmp_path: Path) -> None:
    pair(tmp_path)
    owners = pd.DataFrame({"sample": numbered("p", range(11)), "client": ["east"] * 5 + ["west"] * 6})
    owners.to_csv(tmp_path / "clients.csv", index=False)
    with pytest.warns(UserWarning, match="1 samples on one platform have no client"):
        study = Study.open(tmp_path, FOLDERS)
    assert study.clients == ["east", "west"] and (study.clients_N == "west").sum() == 6


def test_clients_by_a_partition_of_donors(tmp_path: Path) -> None:
    donors = [f"donor {number // 2}" for number in range(12)]
    placement = SamplePlacement(fractions=(0.4, 0.3, 0.3), partition="evenly", clients=2, unit_key="donor")
    study = open_quietly(pair(tmp_path, donor=donors), placement)
    assert study.clients == ["client_01", "client_02"]
    members = {client: set(study.units_N[study.clients_N == client]) for client in study.clients}
    assert sorted(map(len, members.values())) == [3, 3] and not set.intersection(*members.values())
    assert len(study.ids_N) == 11 and sum(study.unused(client).get("only_a", 0) for client in study.clients) == 1
    for client in study.clients:
        assert all(len(set(study.splits_N[study.units_N == donor])) == 1 for donor in members[client])
        assert set(study.identities(client)["val"]) == {"sample", "donor"}


def test_donors_stay_in_one_split_and_a_shared_one_is_found(data: Path) -> None:
    for letter, name in (("n", "north"), ("s", "south")):
        ids = numbered(letter, range(10))
        donors = [f"{name} {number // 2}" for number in range(10)]
        written(data / name, a=table("a", ids, donor=donors), b=table("b", ids, donor=donors))
    written(data / "coast", a=table("a", numbered("c", range(6)), donor=["north 1", *"abcde"]))
    ids = numbered("h", range(10))
    written(data / "held_out", a=table("a", ids, donor=ids), b=table("b", ids))
    study = Study.open(data, SamplePlacement(fractions=FOLDERS.fractions, unit_key="donor"))
    assert {split: len(study.identities("north")[split]["donor"]) for split in SPLITS} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }
    refused(lambda: check_disjoint(places(study), "study"), "donor 'north 1' is in both coast/", "north/")


def test_the_same_id_at_two_clients_is_a_leak(data: Path) -> None:
    written(data / "coast", a=table("a", ["n03", *numbered("c", range(5))]))
    study = Study.open(data, FOLDERS)
    refused(lambda: check_disjoint(places(study), "study"), "sample 'n03' is in both coast/", "north/")


# Splits


def test_a_split_file_decides(data: Path, tmp_path: Path) -> None:
    drawn = Study.open(data, FOLDERS)
    own = drawn.clients_N != "held_out"
    turned = {"train": "train", "val": "test", "test": "val"}
    splits = [turned[split] for split in drawn.splits_N[own].tolist()]
    path = tmp_path / "split.csv"
    write_split(path, [*drawn.ids_N[own], "gone"], [*drawn.clients_N[own], "north"], [*splits, "val"])
    with pytest.warns(UserWarning, match=r"split.csv: 1 samples have no partner"):
        study = Study.open(data, SamplePlacement(split=path))
    assert study.rows("south", "test").tolist() == drawn.rows("south", "val").tolist()
    assert len(study.rows("held_out", "test")) == 10 and study.manifest("south")["val"]["file"] == "split.csv"
    write_split(path, drawn.ids_N[own].tolist(), ["-"] * own.sum(), ["train"] * own.sum())
    refused(lambda: Study.open(data, SamplePlacement(split=path)), "split.csv: client 'coast' has no val samples")


# Features


def test_features_that_all_have_in_one_order(data: Path) -> None:
    ids = numbered("s", range(10))
    own = table("a", ids)[["id", "x3", "x1"]].assign(x0=1.0)
    written(data / "south", a=own, b=table("b", ids))
    with pytest.warns(UserWarning) as caught:
        study = Study.open(data, FOLDERS)
    said = sorted(str(warning.message).partition(": ")[2] for warning in caught)
    assert said == [
        f"client {name!r}: 1 features of platform a are not among those used; left out"
        for name in ("coast", "north", "south")
    ]
    assert study.features["a"] == ("x1", "x3") and study.unused("south") == {"features_a": ["x0"]}
    row = study.values["a"][study.ids_N == "s07"]
    assert row.tolist() == [[7.0, 7.2]]
    assert shared_names({"q": 2, "p": 2, "r": 1}, 2) == ("p", "q")


def test_the_order_of_clients_and_columns_does_not_matter(data: Path) -> None:
    before = Study.open(data, FOLDERS)
    for platform, columns in (("a", ["id", "x2", "x3", "x1"]), ("b", ["id", "y2", "y1"])):
        path = data / "south" / f"platform_{platform}.csv"
        pd.read_csv(path)[columns].to_csv(path, index=False)
    after = Study.open(data, FOLDERS)
    assert all(before.digest(client) == after.digest(client) for client in before.clients)
    path = data / "south" / "platform_b.csv"
    path.write_text(path.read_text().replace("7.1", "7.3"))
    changed = Study.open(data, FOLDERS)
    assert [client for client in before.clients if changed.digest(client) != before.digest(client)] == ["south"]


def test_stored_features_decide(data: Path) -> None:
    study = Study.open(data, FOLDERS, features={"a": ["x2"], "b": ["y2", "y1"]})
    assert study.values["a"].shape == (36, 1) and study.values["b"][study.ids_N == "n04"].tolist() == [[4.1, 4.0]]
    refused(
        lambda: Study.open(data, FOLDERS, features={"a": ["x2", "x9"], "b": ["y1"]}),
        "coast/platform_a.csv: feature 'x9' of platform a is missing",
    )
    refused(lambda: Study.open(data, FOLDERS, features={"a": ["y1", "y2"], "b": ["x1", "x2", "x3"]}), "swap")


def test_a_party_with_one_platform_opens_with_what_it_has(tmp_path: Path) -> None:
    written(tmp_path / "coast", a=table("a", numbered("c", range(6))))
    study = Study.open(tmp_path, FOLDERS)
    assert study.features == {"a": ("x1", "x2", "x3"), "b": ()} and study.own_features["coast"] == {
        "a": ("x1", "x2", "x3")
    }
    agreed = Study.open(tmp_path, FOLDERS, features={"a": ["x1"], "b": ["y1", "y2"]})
    assert agreed.values["b"].shape == (6, 2) and np.isnan(agreed.values["b"]).all()


# What a network gets


def test_samples_are_scaled_by_what_was_fitted_on_train(data: Path) -> None:
    study = Study.open(data, FOLDERS)
    scaling = fitted(study, ["north", "south"])
    train = study.pairs("north", "train", scaling)
    assert (
        train.a.dtype == torch.float32
        and train.has_a.dtype == torch.bool
        and set(train.batch())
        == {
            "a",
            "b",
            "has_a",
            "has_b",
        }
    )
    assert train.names == study.identities("north")["train"]["sample"] == train.units
    both = torch.cat([train.b, study.pairs("south", "train", scaling).b])
    torch.testing.assert_close(both.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(both.std(0, correction=0), torch.ones(2))
    at = train.names[0]
    value = (float(at[1:]) - scaling["a"].centre[0]) / scaling["a"].scale[0]
    assert train.a[0, 0].item() == pytest.approx(value, rel=1e-6)
    coast = study.pairs("coast", "test", scaling)
    assert coast.b.shape == (2, 2) and not coast.b.any() and not coast.has_b.any() and coast.has_a.all()


def test_missing_cells_take_the_training_mean_or_the_clients_nearest_rows(data: Path) -> None:
    own = table("a", numbered("n", range(10)))
    own.loc[4, "x2"] = None
    written(data / "north", a=own)
    study = Study.open(data, FOLDERS)
    split = next(name for name in SPLITS if "n04" in study.identities("north")[name]["sample"])
    assert missing_share(study.values["a"][study.ids_N == "n04"]).tolist() == [1 / 3]
    assert (
        study.missing_share("north", split, "a").max() == 1 / 3 and len(study.missing_share("coast", "val", "b")) == 0
    )
    for missing in ("mean", "knn"):
        scaling = fitted(study, ["north", "south"], missing)
        rows = study.pairs("north", split, scaling)
        value = scaling["a"].inverse(rows.a.numpy().astype(float))[rows.names.index("n04"), 1]
        train = study.train_values("north", "a")
        near = sorted(train[~np.isnan(train[:, 1])].tolist(), key=lambda row: abs(row[0] - 4))[:5]
        expected = scaling["a"].fill[1] if missing == "mean" else np.mean([row[1] for row in near])
        assert value == pytest.approx(expected, rel=1e-5)
    first = study.first_pass("north", "a")
    assert study.second_pass("north", "a", first, Steps(missing="knn")).arrays["cells"].tolist() == [6, 6, 6]
    assert first["missing"].sum() == (split == "train")


# Refusals


def test_layouts_that_are_unclear_are_refused(data: Path, tmp_path: Path) -> None:
    refused(lambda: Study.open(tmp_path / "gone", FOLDERS), "gone: no such folder")
    empty = tmp_path / "empty"
    (empty / ".cache").mkdir(parents=True)
    refused(lambda: Study.open(empty, FOLDERS), "empty: holds no platform_a.csv or platform_b.csv")
    refused(lambda: Study.open(data, SamplePlacement(client_key="site")), "client_key: 'site' has no effect")
    refused(
        lambda: Study.open(data, SamplePlacement(partition="evenly", clients=2)), "partition: 'evenly' has no effect"
    )
    written(data / "north" / "deeper", a=table("a", ["n01"]))
    (data / "north" / "platform_a.tsv").write_text("id\tx\n")
    refused(lambda: Study.open(data, FOLDERS), "north/platform_a.csv: platform_a.tsv stands beside it")
    (data / "north" / "platform_a.tsv").unlink()
    (data / "west").mkdir()
    (data / "west" / "Platform_A.csv").write_text("id,x\n")
    refused(lambda: Study.open(data, FOLDERS), "west/Platform_A.csv: is neither platform_a.csv nor platform_b.csv")
    pair(data)
    (data / "west" / "Platform_A.csv").unlink()
    refused(lambda: Study.open(data, FOLDERS), "holds both client folders and files of its own")


def test_pairs_of_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    ids = numbered("p", range(6))
    written(tmp_path, a=table("a", ids, site=["east", "west"] * 3), b=table("b", ids, site=["east"] * 6))
    by_site = SamplePlacement(client_key="site")
    refused(
        lambda: Study.open(tmp_path, by_site), "platform_b.csv: site of 'p01' is 'east', but 'west' in platform_a.csv"
    )
    refused(lambda: Study.open(tmp_path, SamplePlacement(client_key="place")), "site", "no number")
    written(tmp_path, a=table("a", ids), b=table("b", ids))
    refused(lambda: Study.open(tmp_path, by_site), "platform_a.csv: no column 'site', nor in the other file")
    refused(lambda: Study.open(tmp_path, FOLDERS), "nothing says who holds what", "client_key or partition")
    written(tmp_path, a=table("a", ids, site=["east", ""] * 3))
    refused(lambda: Study.open(tmp_path, by_site), "platform_a.csv: sample 'p01' has no client")
    written(tmp_path, a=table("a", numbered("q", range(6))))
    refused(
        lambda: Study.open(tmp_path, by_site), "platform_a.csv: shares no id with platform_b.csv ('q00' against 'p00')"
    )


def test_lists_of_clients_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pair(tmp_path)
    listed = tmp_path / "clients.csv"
    listed.write_text("id,site\np00,east\n")
    refused(lambda: Study.open(tmp_path, FOLDERS), "clients.csv: no column 'client'")
    listed.write_text("id,client\np00,east\n")
    refused(lambda: Study.open(tmp_path, FOLDERS), "clients.csv: sample 'p01' has no client")
    refused(lambda: Study.open(tmp_path, SamplePlacement(client_key="site")), "clients.csv: tells the clients already")


def test_clients_that_cannot_take_part_are_refused(data: Path) -> None:
    ids = numbered("w", range(10))
    written(data / "west", a=table("a", ids[:2]), b=table("b", ids[:2]))
    refused(lambda: Study.open(data, FOLDERS), "client 'west': 2 samples (donors) are too few")
    written(data / "west", a=table("a", ids).rename(columns=lambda name: name.replace("x", "z")), b=table("b", ids))
    refused(lambda: Study.open(data, FOLDERS), "clients coast, north, south, west share no feature of platform a")
    table("a", ids).to_csv(data / "west" / "platform_b.csv", index=False)
    table("b", ids).to_csv(data / "west" / "platform_a.csv", index=False)
    refused(
        lambda: Study.open(data, FOLDERS), "west/platform_a.csv: holds the features of platform b, not a; swap the two"
    )
    own = table("b", ids)
    own["y1"] = None
    written(data / "west", a=table("a", ids), b=own)
    placement = SamplePlacement(fractions=FOLDERS.fractions, drop_incomplete=True)
    refused(lambda: Study.open(data, placement), "every sample has a missing cell")


def test_donors_that_are_not_named_are_refused(data: Path) -> None:
    placement = SamplePlacement(fractions=FOLDERS.fractions, unit_key="donor")
    refused(lambda: Study.open(data, placement), "platform_a.csv: no column 'donor'")
    for letter, name in (("n", "north"), ("s", "south"), ("h", "held_out"), ("c", "coast")):
        ids = numbered(letter, range(10))
        written(data / name, a=table("a", ids, donor=["", *ids[1:]]))
    refused(lambda: Study.open(data, placement), "coast/platform_a.csv: sample 'c00' has no donor")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"client_key": "site", "partition": "evenly", "clients": 2}, "client_key, partition: give one"),
        ({"clients": 2}, "give one of the two"),
        ({"client_key": "site", "unit_key": "site"}, "unit_key: 'site' is client_key, too"),
    ],
)
def test_placements_that_contradict_themselves_are_refused(options: dict[str, object], said: str) -> None:
    refused(lambda: SamplePlacement(**options), said)  # type: ignore[arg-type]


def test_a_pair_of_swapped_files_at_inference(data: Path) -> None:
    matrix = read_matrix(data / "north" / "platform_b.csv")
    refused(
        lambda: matrix.columns(NAMES["a"], "a", NAMES["b"]), "platform_b.csv: holds the features of platform b, not a"
    )
