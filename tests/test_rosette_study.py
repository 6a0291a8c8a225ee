"""Which image belongs where: ids and tables, clients, animals and splits, and what is recorded of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from datasets.array_cache import process_cache
from datasets.rosette_samples import find_files, read_samples, sample_name
from datasets.rosette_splits import Draw, write_manifest
from datasets.rosettes import RosettePlacement, Study, new_images
from tests.placed_studies import check_whole
from tests.refusals import refused
from tests.rosette_studies import layers, sample_ids, write, write_as, write_study

BY_REPLICATE = RosettePlacement(client_key="replicate", held_out="R3")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three replicates of four animals with two images each."""
    return write_study(tmp_path_factory.mktemp("rosettes") / "study", sample_ids())


@pytest.fixture
def table(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the metadata of the study, changed, as CSV or TSV."""

    def write(change: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows, name: str = "table.csv") -> Path:
        parts = [one.columns for one in read_samples(folder)]
        rows = pd.DataFrame(parts).assign(unique_sample_id=sample_ids())
        rows["treatment"] = ["drug" if animal in "12" else "none" for animal in rows["animal_id"]]
        path = tmp_path / name
        change(rows).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
        return path

    return write


def test_clients_and_animals_come_from_the_ids(folder: Path) -> None:
    study = Study.open(folder, BY_REPLICATE)
    assert study.clients == ["R1", "R2"] and study.has_held_out
    check_whole(study, 24)
    assert [len(study.rows("R1", split)) for split in SPLITS] == [4, 2, 2]
    assert len(study.rows("held_out", "test")) == 8 and not len(study.rows("held_out", "train"))
    held_out = study.identities("held_out")
    assert held_out["test"]["animal"] == ["R3_1", "R3_2", "R3_3", "R3_4"] == study.animals("held_out", "test")
    entry = study.manifest("R2")["val"]
    assert entry["images"] == 2 and entry["units"] == study.animals("R2", "val") and entry["file"] == "study"
    assert not study.borrowed


def test_the_number_of_an_animal_counts_within_its_replicate(tmp_path: Path) -> None:
    ids = ["R1_T1_7_0001", "R1_T4_7_0001", "R2_T1_7_0001"]
    samples = read_samples(write_study(tmp_path, ids))
    assert [one.animal for one in samples] == ["R1_7", "R1_7", "R2_7"]
    assert [one.unit("replicate") for one in samples] == ["R1", "R1", "R2"]
    assert [one.unit("none") for one in samples] == ids
    (tmp_path / "metadata.tsv").write_text(
        "unique_sample_id\tanimal_id\treplicate\n" + "".join(f"{name}\tfly 7\t{name[:2]}\n" for name in ids)
    )
    assert [one.animal for one in read_samples(tmp_path)] == ["fly 7"] * 3


def test_animals_of_ids_need_not_be_numbers(tmp_path: Path) -> None:
    ids = ["R1_T2_m1_0001", "R2_T2_m1_0001"]
    assert [one.animal for one in read_samples(write_study(tmp_path, ids))] == ["R1_m1", "R2_m1"]


def test_the_same_image_at_two_places_is_refused(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    study = Study.open(copied, BY_REPLICATE)
    paths = [copied / name / f"processed_data_{name}.h5" for name in (one.name for one in study.samples)]
    train, test = int(study.rows("R1", "train")[0]), int(study.rows("R2", "test")[0])
    beside = int(study.rows("R1", "train")[1])
    shutil.copy(paths[train], paths[beside])
    study.digest("R1")
    shutil.copy(paths[train], paths[test])
    refused(lambda: study.digest("R2"), f"{paths[test]}: the same image as ", "R2/test", "R1/train; remove one")


def test_layouts_are_counted(folder: Path, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(folder, tmp_path / "mixed"))
    write_as(mixed / "R1_T4_1_0001" / "processed_data_R1_T4_1_0001.h5", "stack", layers())
    study = Study.open(mixed, BY_REPLICATE)
    assert study.layouts("R1") == {"layers": 7, "stack": 1} and study.layouts("R2") == {"layers": 8}


def test_a_replicate_that_is_called_as_nobody_is_refused(folder: Path, table: Callable[..., Path]) -> None:
    source = table(lambda rows: rows.replace({"replicate": {"R2": "held_out"}}))
    refused(
        lambda: Study.open(folder, BY_REPLICATE, metadata=source),
        "replicate: a value is 'held_out', as samples of nobody are called, but held_out_client names 'R3'; rename it",
    )
    assert Study.open(folder, RosettePlacement(client_key="replicate"), metadata=source).clients == ["R1", "R3"]


def test_clients_from_a_table(folder: Path, table: Callable[..., Path]) -> None:
    for name in ("table.csv", "table.tsv"):
        study = Study.open(folder, RosettePlacement(client_key="treatment"), metadata=table(name=name))
        assert study.clients == ["drug", "none"] and not study.has_held_out
        check_whole(study, 24)
        assert {one.columns["animal_id"] for one in study.samples if one.columns["treatment"] == "drug"} == {"1", "2"}
        assert len(study.animals("drug", "train")) == 4


def test_a_blank_behind_an_animal_does_not_take_it_apart(folder: Path, table: Callable[..., Path]) -> None:
    def blank(rows: pd.DataFrame) -> pd.DataFrame:
        rows.loc[0, ["animal_id", "replicate"]] = ["1 ", " R1"]
        return rows

    study = Study.open(folder, BY_REPLICATE, metadata=table(blank))
    assert [one.animal for one in study.samples[:2]] == ["R1_1", "R1_1"] and study.clients == ["R1", "R2"]
    check_whole(study, 24)


def test_a_table_in_the_folder_is_found(folder: Path, table: Callable[..., Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    shutil.copy(table(), moved / "metadata.csv")
    assert Study.open(moved, RosettePlacement(client_key="treatment")).clients == ["drug", "none"]


def test_every_animal_can_be_a_client(tmp_path: Path) -> None:
    folder = write_study(tmp_path, sample_ids(("R1",), animals=2, images=4))
    study = Study.open(folder, RosettePlacement(client_key="animal", group_by="none"))
    assert study.clients == ["R1_1", "R1_2"] and set(study.identities("R1_1")["train"]) == {"sample"}
    check_whole(study, 8)
    assert study.whole_images("R1_2", "test").units == ["R1_2"]


@pytest.mark.parametrize("group_by", ["animal", "none"])
def test_animals_dealt_evenly(folder: Path, group_by: str) -> None:
    placement = RosettePlacement(partition="evenly", clients=4, seed=1, group_by=group_by)
    study = Study.open(folder, placement)
    assert study.clients == [f"client_0{number}" for number in range(1, 5)]
    check_whole(study, 24)
    homes = [
        {one.animal for one, of in zip(study.samples, study.clients_N, strict=True) if of == c} for c in study.clients
    ]
    assert [len(home) for home in homes] == [3] * 4 and len(set.union(*homes)) == 12
    assert (Study.open(folder, placement).splits_N == study.splits_N).all()
    other = RosettePlacement(partition="evenly", clients=4, seed=2, group_by=group_by)
    assert (Study.open(folder, other).clients_N != study.clients_N).any()


def test_whole_replicates_are_dealt(tmp_path: Path) -> None:
    folder = write_study(tmp_path, sample_ids(("R1", "R2", "R3", "R4", "R5", "R6"), animals=1, images=2))
    study = Study.open(folder, RosettePlacement(partition="ranges", clients=2, group_by="replicate"))
    check_whole(study, 12)
    assert study.clients_N.tolist() == ["client_01"] * 6 + ["client_02"] * 6
    assert study.identities("client_01")["val"]["replicate"] == study.manifest("client_01")["val"]["units"]


def test_a_manifest_decides(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "split_manifest_x.json"
    draw = Draw(val_fraction=0.25, test_fraction=0.25)
    content = write_manifest(path, read_samples(folder), draw, client_key="replicate")
    study = Study.open(folder, RosettePlacement(client_key="replicate", held_out="R3", split=path))
    for split in SPLITS:
        for client in ("R1", "R2"):
            listed = [name for name in content[f"{split}_sample_list"] if name.startswith(client)]
            assert study.identities(client)[split]["sample"] == listed and len(listed) == {"train": 4}.get(split, 2)
    assert len(study.rows("held_out", "test")) == 8 and not study.borrowed
    assert study.manifest("R1")["test"]["file"] == "split_manifest_x.json"
    check_whole(study, 24)


def test_without_a_test_list_validation_stands_for_it_and_says_so(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_manifest(path, read_samples(folder), Draw(), client_key="replicate")
    study = Study.open(folder, RosettePlacement(client_key="replicate", held_out="R3", split=path))
    assert study.borrowed and study.manifest("R1")["test"]["borrowed_from"] == "val"
    assert study.rows("R1", "test").tolist() == study.rows("R1", "val").tolist()
    assert set(study.identities("R1")) == {"train", "val"} and len(study.rows("held_out", "test")) == 8


def test_what_a_manifest_leaves_out_is_counted(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    listed = [one for one in read_samples(folder) if one.animal not in ("R1_2", "R2_4", "R3_1")]
    write_manifest(path, listed, Draw(0.3, 0.3), client_key="replicate")
    with pytest.warns(UserWarning, match=f"{path}: does not list 4 samples of {folder}; left out"):
        study = Study.open(folder, RosettePlacement(client_key="replicate", held_out="R3", split=path))
    check_whole(study, 18)


def test_a_manifest_without_a_split_of_a_client_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_manifest(path, read_samples(folder), Draw(0.3, 0.3), group_by="replicate")
    placement = RosettePlacement(client_key="replicate", split=path)
    refused(lambda: Study.open(folder, placement), f"{path}: no ", "sample of client 'R1'; split each client by itself")


def two_homes(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[3, "treatment"] = "none"
    return rows


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            two_homes,
            "animal 'R1_2' is in two places: client 'drug' (R1_T4_2_0001) and 'none' (R1_T4_2_0002); it goes to one",
        ),
        (
            lambda rows: rows.assign(animal_id=["fly", *rows["animal_id"][1:-1], "fly"]),
            "animal 'fly' is in two places: client 'drug' (R1_T4_1_0001) and 'none' (R3_T4_4_0002)",
        ),
        (lambda rows: rows.drop(columns="treatment"), "no column 'treatment'"),
        (lambda rows: rows.drop(columns="animal_id"), "no column 'animal_id'"),
        (lambda rows: rows.assign(treatment=["", *rows["treatment"][1:]]), "row 1, line 2: treatment is missing"),
        (lambda rows: rows.iloc[3:], "no row for sample 'R1_T4_1_0001'"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), "sample 'R1_T4_1_0001' has 2 rows; keep one"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(
    folder: Path, table: Callable[..., Path], change: Callable[[pd.DataFrame], pd.DataFrame], expected: str
) -> None:
    source = table(change)
    refused(lambda: Study.open(folder, RosettePlacement(client_key="treatment"), metadata=source), expected)


def test_rows_without_a_file_are_counted(folder: Path, table: Callable[..., Path]) -> None:
    extra = {"unique_sample_id": "R1_T4_9_0001", "animal_id": "9", "replicate": "R1", "treatment": "drug"}
    source = table(lambda rows: pd.concat([rows, pd.DataFrame([extra])]))
    with pytest.warns(UserWarning, match=f"{source}: 1 rows have no file in {folder}; left out"):
        study = Study.open(folder, RosettePlacement(client_key="treatment"), metadata=source)
    check_whole(study, 24)


def test_files_are_found_under_all_their_names(tmp_path: Path) -> None:
    made = layers()
    for place in (
        "b/processed_data_b.h5",
        "a/a_processed_data.h5",
        "processed_data_d.h5",
        "c_processed_data.h5",
        "e.h5",
    ):
        write_as(tmp_path / place, "layers", made)
    (tmp_path / "b" / "cell_properties_b.csv").write_text("x")
    (tmp_path / "b" / "neighborhood_graph_b.pkl").write_bytes(b"not to be opened")
    write_as(tmp_path / ".cache" / "hidden.h5", "layers", made)
    assert list(find_files(tmp_path)) == ["a", "b", "c", "d", "e"]
    assert find_files(tmp_path / "e.h5") == {"e": tmp_path / "e.h5"}
    assert sample_name(Path("x/processed_data_R2_T4_17_0001.h5")) == "R2_T4_17_0001"
    write_as(tmp_path / "b_processed_data.h5", "layers", made)
    refused(lambda: find_files(tmp_path), "sample 'b' is in", "processed_data_b.h5", "remove one")
    refused(lambda: find_files(tmp_path / "nowhere"), "nowhere: no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(lambda: find_files(tmp_path / "empty"), "empty: holds no HDF5 file; expected <sample>/processed_data_")


def test_studies_that_cannot_be_opened_are_refused(folder: Path, tmp_path: Path) -> None:
    refused(
        lambda: Study.open(folder, RosettePlacement(client_key="treatment")),
        f"{folder}: 'treatment' is no part of the ids (replicate, timepoint, animal_id, image_id)",
    )
    refused(
        lambda: Study.open(folder, RosettePlacement(client_key="replicate", group_by="replicate")),
        "client 'R1' has 1 replicates (R1), three needed",
    )
    refused(
        lambda: Study.open(folder, RosettePlacement(partition="evenly", clients=5)),
        "client 'client_03' has 2 animals",
        "three needed",
    )
    refused(lambda: RosettePlacement(), "client_key, partition: give one of the two")
    odd = write_study(tmp_path / "odd", ["sample-1"])
    refused(lambda: Study.open(odd, BY_REPLICATE), "processed_data_sample-1.h5: the id 'sample-1' is not replicate_")
    spoiled = write_study(tmp_path / "spoiled", sample_ids())
    path = spoiled / "R2_T4_1_0001" / "processed_data_R2_T4_1_0001.h5"
    write(path, {"segmentation_outlines": layers()["labels"]})
    refused(lambda: Study.open(spoiled, BY_REPLICATE), str(path), "no dataset rosettes_binary")
    path.write_bytes(path.read_bytes()[:900])
    refused(lambda: Study.open(spoiled, BY_REPLICATE), str(path), "not a readable HDF5 file")


def test_opening_reads_no_pixels_and_sets_the_limit(folder: Path) -> None:
    cache = process_cache()
    limit = cache.limit
    cache.clear()
    study = Study.open(folder, BY_REPLICATE, cache_bytes=4321)
    assert cache.reads == 0 and cache.limit == 4321
    assert study.whole_images("R1", "train")[0]["channels"].shape == (2, 6, 8) and cache.reads == 2
    cache.limit = limit


def test_images_keep_their_sizes(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    write_as(mixed / "R1_T4_1_0001" / "processed_data_R1_T4_1_0001.h5", "stack", layers(10, 4))
    study = Study.open(mixed, BY_REPLICATE, use_intensity=True)
    shapes = {
        samples[at]["channels"].shape
        for samples in (study.whole_images("R1", split) for split in SPLITS)
        for at in range(len(samples))
    }
    assert shapes == {(3, 10, 4), (3, 6, 8)}
    samples = study.whole_images("R2", "test")
    assert samples[0]["channels"].shape == (3, 6, 8)
    assert samples.names == study.identities("R2")["test"]["sample"]
    assert samples.units == [f"R2_{name.split('_')[2]}" for name in samples.names]


def test_new_images_are_opened_by_file_or_folder(tmp_path: Path) -> None:
    for number, shape in enumerate([(6, 8), (7, 5)]):
        write(tmp_path / f"new-{number}.h5", {"segmentation_outlines": layers(*shape)["labels"]})
    samples = new_images(tmp_path)
    assert samples.names == samples.units == ["new-0", "new-1"]
    assert [set(sample) for sample in (samples[0], samples[1])] == [{"channels", "labels"}] * 2
    assert samples[1]["channels"].shape == (2, 7, 5) and len(new_images(tmp_path / "new-0.h5")) == 1
    refused(lambda: new_images(tmp_path, use_intensity=True), "new-0.h5: no dataset raw_data or raw_image")


def test_the_digest_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    clients = ["R1", "R2", "held_out"]
    digests = [Study.open(folder, BY_REPLICATE).digest(client) for client in clients]
    assert [Study.open(moved, BY_REPLICATE).digest(client) for client in clients] == digests
    path = moved / "R1_T4_1_0001" / "processed_data_R1_T4_1_0001.h5"
    write_as(path, "stack", layers())
    assert Study.open(moved, BY_REPLICATE).digest("R1") == digests[0], "the layout is not the content"
    made = layers()
    made["target"][2, 3] = 1 - made["target"][2, 3].astype(bool)
    write_as(path, "layers", made)
    changed = [Study.open(moved, BY_REPLICATE).digest(client) for client in clients]
    assert [one == other for one, other in zip(changed, digests, strict=True)] == [False, True, True]
    elsewhere = RosettePlacement(client_key="replicate", held_out="R3", seed=4)
    assert Study.open(folder, elsewhere).digest("R1") != digests[0]
