"""Split manifests: the recorded draw, whole groups, what is written, and what is refused when read."""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from datasets.rosette_samples import Sample, read_samples
from datasets.rosette_splits import Draw, draw_splits, manifest_path, read_manifest, write_manifest
from tests.refusals import refused
from tests.rosette_studies import sample_ids, write_study

RECORDED = np.load(Path(__file__).parent / "fixtures" / "rosettes" / "splits.npz")


def reference_split(names: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Split sample by sample, whatever the animals, as the published code does; give train and validation, sorted."""
    split_of = draw_splits({name: name for name in names}, Draw(val_fraction=fraction, seed=seed), "samples")
    train, val = (sorted(name for name in names if split_of[name] == split) for split in ("train", "val"))
    return train, val


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Three replicates of six animals with two images each."""
    return read_samples(write_study(tmp_path_factory.mktemp("study"), sample_ids(animals=6)))


@pytest.mark.parametrize("name", [name.removesuffix("_val") for name in RECORDED.files if name.endswith("_val")])
def test_the_reference_split_is_the_recorded_one(name: str) -> None:
    pool, seed, fraction = name.split("_")
    train, val = reference_split(RECORDED[pool].tolist(), float(fraction[1:]), int(seed.removeprefix("seed")))
    assert train == RECORDED[f"{name}_train"].tolist() and val == RECORDED[f"{name}_val"].tolist()


def test_the_draw_is_that_of_scikit_learn() -> None:
    ids = [f"S{number:03d}" for number in range(41)]
    for seed, fraction in ((0, 0.07), (1, 0.2), (2, 0.3), (2**32 - 1, 0.9)):
        train, val = train_test_split(ids, test_size=fraction, random_state=seed)
        assert reference_split(ids[::-1], fraction, seed) == (sorted(train), sorted(val))
        group_of = {name: f"g{number % 13:02d}" for number, name in enumerate(ids)}
        shuffle = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
        _, expected = next(shuffle.split(ids, groups=list(group_of.values())))
        drawn = draw_splits(group_of, Draw(val_fraction=fraction, seed=seed), "ids")
        assert sorted(name for name in ids if drawn[name] == "val") == sorted(ids[at] for at in expected)


def test_a_test_set_is_drawn_after_validation_and_changes_nothing_else() -> None:
    group_of = {f"S{number:02d}": f"g{number // 3}" for number in range(30)}
    two = draw_splits(group_of, Draw(val_fraction=0.2), "ids")
    three = draw_splits(group_of, Draw(val_fraction=0.2, test_fraction=0.25), "ids")
    assert {name for name in two if two[name] == "val"} == {name for name in three if three[name] == "val"}
    groups = {split: {group_of[name] for name in three if three[name] == split} for split in ("train", "val", "test")}
    assert [len(part) for part in groups.values()] == [5, 2, 3]
    assert set.union(*groups.values()) == set(group_of.values())


def test_the_manifest_says_what_was_drawn(samples: list[Sample], tmp_path: Path) -> None:
    path = manifest_path(tmp_path, "champion")
    assert path.name == "split_manifest_champion.json"
    draw = Draw(val_fraction=0.2, test_fraction=0.2, seed=7)
    written = write_manifest(path, samples, draw, group_by="animal", client_key="replicate")
    content = json.loads(path.read_text())
    assert content == written
    assert datetime.fromisoformat(content["split_created"]).tzinfo is not None
    ids = sorted(one.name for one in samples)
    assert content["sample_order_hash"] == hashlib.sha256("\n".join(ids).encode()).hexdigest()
    counts = [content[key] for key in ("total_samples", "train_samples", "val_samples", "test_samples")]
    assert counts == [36, 12, 12, 12]  # Of six animals two, 1.2 rounded up, in val and as many in test.
    assert (content["test_size"], content["test_fraction"], content["random_state"]) == (0.2, 0.2, 7)
    assert (content["group_by"], content["client_key"]) == ("animal", "replicate")
    lists = [content[f"{split}_sample_list"] for split in ("train", "val", "test")]
    assert all(names == sorted(names) for names in lists) and sorted(itertools.chain(*lists)) == ids
    assert len(content["groups"]) == 18
    assert content["groups"]["R2_5"] == ["R2_T4_5_0001", "R2_T4_5_0002"]
    for names in lists:
        assert {len([name for name in names if name.startswith(site)]) for site in ("R1", "R2", "R3")} == {4}
    split_of = read_manifest(path, samples, "animal")
    assert [sorted(name for name in ids if split_of[name] == split) for split in ("train", "val", "test")] == lists


def test_without_groups_or_test_the_manifest_is_the_published_one(samples: list[Sample], tmp_path: Path) -> None:
    content = write_manifest(tmp_path / "m.json", samples, Draw(), group_by="none")
    train, val = reference_split([one.name for one in samples], 0.2, 42)
    assert content["train_sample_list"] == train and content["val_sample_list"] == val
    assert content["test_sample_list"] == [] and content["groups"] == {}


def test_replicates_stay_whole(samples: list[Sample], tmp_path: Path) -> None:
    content = write_manifest(tmp_path / "m.json", samples, Draw(0.3, 0.3), group_by="replicate")
    for split in ("train", "val", "test"):
        assert len({name[:2] for name in content[f"{split}_sample_list"]}) == 1


Change = Callable[[dict[str, Any]], object]


def move(content: dict[str, Any]) -> None:
    content["train_sample_list"].append(content["val_sample_list"].pop(0))


def move_animal(content: dict[str, Any]) -> None:
    """Train on both images of an animal that was kept for the test."""
    content["train_sample_list"] += [content["test_sample_list"].pop(0) for _ in range(2)]


def published(change: Change) -> Change:
    """Change a manifest of the form that was published, which has no hash of the splits."""

    def changed(content: dict[str, Any]) -> None:
        del content["split_hash"]
        change(content)

    return changed


def swapped(content: dict[str, Any]) -> None:
    content["train_sample_list"][0] = "R9_T4_1_0001"


def repeated(source: str, target: str) -> Change:
    return lambda content: content[f"{target}_sample_list"].append(content[f"{source}_sample_list"][0])


def ungrouped(content: dict[str, Any]) -> None:
    """Move one image, in a manifest that says of nothing but the lists."""
    move(content)
    keys = ("sample_order_hash", *(key for key in content if key.endswith("_sample_list")))
    for key in set(content) - set(keys):
        del content[key]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (repeated("train", "val"), ("sample 'R1_T4_", "is in train and val; keep one")),
        (repeated("train", "test"), ("sample 'R1_T4_", "is in train and test; keep one")),
        (repeated("train", "train"), ("sample 'R1_T4_", "is twice in train; keep one")),
        (swapped, ("sample_order_hash is", "restore the file or make it anew")),
        (lambda content: content["val_sample_list"].pop(), ("sample_order_hash is",)),
        (lambda content: content.update(sample_order_hash=-834512), ("sample_order_hash is -834512 but",)),
        (lambda content: content.pop("sample_order_hash"), ("sample_order_hash is None but",)),
        (move_animal, ("split_hash is", "restore the file or make it anew")),
        (published(move_animal), ("train_samples is 20 but the lists give 22; restore the file or make it anew",)),
        (lambda content: content.update(test_samples=9), ("test_samples is 9 but the lists give 8",)),
        (move, ("animal", "is in two places: split 'train'", "and 'val'", "as a whole")),
        (ungrouped, ("animal", "is in two places: split 'train'", "and 'val'")),
        (lambda content: content.pop("val_sample_list"), ("val_sample_list is no list of sample ids",)),
        (lambda content: content.update(train_sample_list=[1, 2]), ("train_sample_list is no list",)),
        (lambda content: content.update(groups=["R1_1"]), ("groups is no mapping",)),
    ],
)
def test_manifests_that_have_changed_are_refused(
    samples: list[Sample], tmp_path: Path, change: Change, expected: tuple[str, ...]
) -> None:
    path = tmp_path / "m.json"
    content = write_manifest(path, samples, Draw(test_fraction=0.2))
    change(content)
    path.write_text(json.dumps(content))
    refused(lambda: read_manifest(path, samples, "animal"), str(path), *expected)


def test_manifests_of_another_study_or_grouping_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_manifest(path, samples, Draw(), group_by="animal")
    missing = [one for one in samples if one.animal != "R1_3"]
    refused(lambda: read_manifest(path, missing, "animal"), str(path), "'R1_T4_3_0001' is not in the study, nor are 1")
    refused(lambda: read_manifest(path, samples, "replicate"), str(path), "replicate 'R", "is in two places: split")
    path.unlink()
    write_manifest(path, samples, Draw(), group_by="none")
    refused(lambda: read_manifest(path, samples, "animal"), str(path), "animal 'R", "is in two places: split")
    path.write_text("[]")
    refused(lambda: read_manifest(path, samples, "animal"), str(path), "train_sample_list is no list")
    path.write_text("{")
    refused(lambda: read_manifest(path, samples, "animal"), str(path), "not valid JSON")


def test_a_manifest_with_what_is_published_alone_can_be_read(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    content = write_manifest(path, samples, Draw())
    keys = ("sample_order_hash", "train_sample_list", "val_sample_list")
    path.write_text(json.dumps({key: content[key] for key in keys}))
    split_of = read_manifest(path, samples, "animal")
    assert sorted(split_of) == sorted(one.name for one in samples) and set(split_of.values()) == {"train", "val"}


def test_a_manifest_is_never_replaced(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_manifest(path, samples, Draw())
    written = path.read_bytes()
    refused(lambda: write_manifest(path, samples, Draw(seed=1)), f"{path}: exists already", "choose another name")
    assert path.read_bytes() == written


def test_draws_that_cannot_be_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    refused(lambda: Draw(val_fraction=0), "val_fraction: 0 is not between 0 and 1")
    refused(lambda: Draw(test_fraction=1.5), "test_fraction: 1.5")
    refused(lambda: Draw(seed=-1), "seed: -1")
    refused(lambda: reference_split(["a"], 0.2, 0), "1 groups (a) are too few")
    path = tmp_path / "m.json"
    refused(
        lambda: write_manifest(path, samples, Draw(0.5, 0.5), group_by="replicate"),
        f"{path}: 3 groups (R1, R2, R3) are too few for 2 in val, 2 in test",
    )
    refused(
        lambda: write_manifest(path, samples, Draw(), group_by="replicate", client_key="animal"),
        f"{path}: replicate 'R1' is in two places: client 'R1_1'",
    )
    assert not path.exists()
