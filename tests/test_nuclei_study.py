"""Which nuclei are used, and that clients and splits are made of whole nuclei."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from datasets.leakage import check_disjoint
from datasets.nuclei_crops import CropOptions
from datasets.nuclei_placement import NucleiPlacement
from datasets.nuclei_table import Selection, read_table, select
from datasets.placement import HELD_OUT
from datasets.unit_splits import SPLITS, split_by_class
from tests.refusals import refused
from tests.toy_nuclei import opened, study_folder, write_table

IDS = [f"{number:04d}" for number in range(1, 41)]
KINDS = [("a", "b", "c", "c")[number % 4] for number in range(40)]


def split(units=IDS, labels=KINDS, fractions=(0.7, 0.15, 0.15), seed=1, client="north"):
    splits = split_by_class(np.asarray(units), np.asarray(labels), fractions, seed=seed, client=client, source="t.csv")
    return dict(zip(units, splits.tolist(), strict=True))


def test_splits_have_their_shares_in_every_class():
    found = split()
    assert Counter(found.values()) == {"train": 28, "val": 6, "test": 6}
    for kind, size in (("a", 10), ("b", 10), ("c", 20)):
        counts = Counter(found[unit] for unit, own in zip(IDS, KINDS, strict=True) if own == kind)
        assert abs(counts["train"] - 0.7 * size) <= 1
        assert abs(counts["val"] - 0.15 * size) <= 1 and abs(counts["test"] - 0.15 * size) <= 1


def test_splits_depend_on_units_seed_and_client_not_on_order():
    assert split(IDS[::-1], KINDS[::-1]) == split()
    assert split(seed=2) != split() != split(client="south")


@pytest.mark.parametrize("labels", ["aaa", "abc", "aab", "aaaab", "abcdefgh", "aaaaaabbc"])
def test_each_split_has_a_unit_and_train_and_test_have_every_class_where_they_can(labels):
    for seed in range(20):
        found = split(IDS[: len(labels)], list(labels), seed=seed)
        assert set(found.values()) == set(SPLITS)
        for name in ("train", "test"):
            there = {kind for kind, own in zip(labels, found.values(), strict=True) if own == name}
            assert there >= {kind for kind in labels if labels.count(kind) > 2}


def test_two_units_cannot_be_split():
    refused(lambda: split(IDS[:2], ["a", "b"]), "t.csv: client 'north' has 2 units (0001, 0002)")


def test_a_percentage_of_each_class_is_drawn_as_pandas_does(tmp_path):
    sizes = {1: 7, 2: 20, 4: 1}
    rows = [f"{kind},k{kind},{kind * 100 + number}" for kind, size in sizes.items() for number in range(size)]
    order = np.random.default_rng(0).permutation(len(rows))
    path = write_table(tmp_path / "t.csv", [rows[place] for place in order])
    table = pd.read_csv(path, dtype=str)
    for percent in (1, 30, 50, 100):
        kept = select(path, read_table(path), Selection(sample_percent=percent))
        expected = []
        for kind, size in sizes.items():
            own = table[table.class_id == str(kind)]
            expected += own.sample(max(1, int(size * percent / 100)), random_state=42).sample_id.tolist()
        assert sorted(row.sample for row in kept) == sorted(sample.zfill(4) for sample in expected)


def test_filters_keep_what_they_name(tmp_path):
    study_folder(tmp_path)
    assert [one.sample for one in opened(tmp_path, selection=Selection(classes=[2])).nuclei] == ["0001", "0003", "0005"]
    kept = opened(tmp_path, selection=Selection(samples=["1", "0004", "5"]))
    assert [one.sample for one in kept.nuclei] == ["0001", "0004", "0005"]
    assert kept.classes == {1: "Glia", 2: "Other"}


def test_columns_of_the_table_give_client_and_split(tmp_path):
    study = opened(study_folder(tmp_path), placement=NucleiPlacement(client_key="site", split_key="part"))
    assert study.clients == ["north"] and not study.has_held_out
    found = {name: [one.sample for one in study.members("north", name)] for name in SPLITS}
    assert found == {"train": ["0001", "0002"], "val": ["0003", "0004"], "test": ["0005", "0006"]}


def test_held_out_nuclei_belong_to_nobody(tmp_path):
    study_folder(tmp_path)
    text = (tmp_path / "classes.csv").read_text().replace("0006,north", "0006,elsewhere")
    (tmp_path / "classes.csv").write_text(text)
    study = opened(tmp_path, placement=NucleiPlacement(client_key="site", held_out="elsewhere"))
    assert study.clients == ["north"] and study.has_held_out
    assert [(one.sample, one.split) for one in study.members(HELD_OUT)] == [("0006", "test")]
    assert len(study.crops(HELD_OUT, "test")) == 4
    assert study.manifest()["held_out"]["units"] == ["0006"]
    assert list(study.identities(HELD_OUT)) == ["test"]


@pytest.mark.parametrize(
    "placement",
    [
        NucleiPlacement(partition="evenly", clients=3),
        NucleiPlacement(partition="ranges", clients=3),
        NucleiPlacement(partition="dirichlet", clients=3, alpha=1.0),
    ],
)
def test_no_nucleus_is_in_two_places_and_none_is_lost(tmp_path, placement):
    study = opened(study_folder(tmp_path, samples=14), placement=placement)
    assert study.clients == ["client_01", "client_02", "client_03"]
    places = {(client, name): levels for client in study.clients for name, levels in study.identities(client).items()}
    check_disjoint(places, "study")
    assert sorted(one for levels in places.values() for one in levels["nucleus"]) == IDS[:14]
    units = {place: set(study.crops(*place).units) for place in places}
    assert units == {place: set(levels["nucleus"]) for place, levels in places.items()}
    entries = study.manifest()["clients"]
    assert {(c, s): set(entry["units"]) for c, own in entries.items() for s, entry in own.items()} == units


def test_labels_follow_the_class_ids_and_crops_are_counted_by_class(tmp_path):
    study = opened(study_folder(tmp_path))
    samples = study.crops("client_01", "train")
    kinds = {one.sample: one.class_id - 1 for one in study.nuclei}
    assert samples.labels == [kinds[unit] for unit in samples.units]
    counts = Counter(study.classes[label + 1] for label in samples.labels)
    assert study.class_counts("client_01", "train") == dict(counts)
    assert sum(study.class_counts("client_01").values()) == 6 * 4
    other = study.crops("client_01", "train", class_ids=[2, 1])
    assert other.labels == [1 - label for label in samples.labels]


def test_the_digest_sees_content_classes_splits_and_the_way_of_cutting(tmp_path):
    study_folder(tmp_path)
    placement = NucleiPlacement(client_key="site", split_key="part")

    def digest(**changes):
        return opened(tmp_path, placement=placement, **changes).digest("north")

    digests = [digest(), digest(options=CropOptions(crop_size=(4, 4, 4), margin=1))]
    assert digest() == digests[0]
    table = (tmp_path / "classes.csv").read_text()
    (tmp_path / "classes.csv").write_text(table.replace("2,Other,0001", "1,Glia,0001"))
    digests.append(digest())
    moved = table.replace("0001,north,train", "0001,north,val").replace("0003,north,val", "0003,north,train")
    (tmp_path / "classes.csv").write_text(moved)
    digests.append(digest())
    (tmp_path / "classes.csv").write_text(table)
    path = tmp_path / "0001" / "raw" / "0000.tif"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    digests.append(digest())
    assert len(set(digests)) == 5
