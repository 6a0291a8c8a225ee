"""Nuclei that cannot be used are refused in one line that names the file."""

import numpy as np
import pytest
import tifffile

from datasets.leakage import check_disjoint
from datasets.nuclei_crops import CropOptions
from datasets.nuclei_placement import NucleiPlacement
from datasets.nuclei_table import Selection
from tests.refusals import refused
from tests.toy_nuclei import opened, study_folder, volume, write_slices, write_table

RAW = "0002/raw/0001.tif"
COMPRESSED = "0002/mask/0002.tif"


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def cut_header(path):
    path.write_bytes(path.read_bytes()[:6])


def compressed_damage(path):
    tifffile.imwrite(path, volume(0)[0], compression="zlib")
    content = bytearray(path.read_bytes())
    content[-20:] = bytes(20)
    path.write_bytes(content)


SPOILED = {
    "shape": (
        RAW,
        lambda path: tifffile.imwrite(path, np.zeros((8, 9), np.uint8)),
        "shape (8, 9), other slices (8, 8)",
    ),
    "dtype": (
        RAW,
        lambda path: tifffile.imwrite(path, np.zeros((8, 8), np.uint16)),
        "dtype uint16, other slices uint8",
    ),
    "mask shape": (COMPRESSED, lambda path: tifffile.imwrite(path, np.zeros((7, 8), np.uint8)), "shape (7, 8)"),
    "mask dtype": (COMPRESSED, lambda path: tifffile.imwrite(path, np.zeros((8, 8), bool)), "dtype bool"),
    "cut short": (RAW, cut, "cut short"),
    "cut header": (RAW, cut_header, "not a readable TIFF"),
    "text": (RAW, lambda path: path.write_text("not an image"), "not a readable TIFF"),
    "empty": (RAW, lambda path: path.write_bytes(b""), "not a readable TIFF"),
    "damaged": (COMPRESSED, compressed_damage, "not a readable TIFF"),
    "colour": (
        RAW,
        lambda path: tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8), photometric="rgb"),
        "1 pages of",
    ),
    "pages": (
        RAW,
        lambda path: tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint8), photometric="minisblack"),
        "2 pages",
    ),
    "no number": (
        RAW,
        lambda path: path.rename(path.with_name("slice1.tif")),
        "slice1.tif: the name is no slice number",
    ),
    "twice": (RAW, lambda path: path.with_name("1.tiff").write_bytes(path.read_bytes()), "are the same slice"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_spoiled_slices(tmp_path, what):
    name, spoil, message = SPOILED[what]
    study_folder(tmp_path)
    spoil(tmp_path / name)
    named = name.rsplit("/", 1)[0] if what in ("no number", "twice") else name
    refused(lambda: opened(tmp_path), named, message)


def test_a_slice_spoiled_after_indexing_is_named_too(tmp_path):
    samples = opened(study_folder(tmp_path), cache_bytes=0).crops("client_01", "train")
    path = tmp_path / samples.units[0] / "raw" / "0003.tif"
    tifffile.imwrite(path, np.zeros((5, 5), np.uint8))
    refused(lambda: samples[0], f"{path}: has changed since the index was made")
    path.unlink()
    refused(lambda: samples[0], f"{path}: no such slice")


def test_dtypes_without_a_rule(tmp_path):
    study_folder(tmp_path)
    write_slices(tmp_path / "0004" / "raw", volume(4).astype(np.int32))
    refused(lambda: opened(tmp_path), "0004/raw: slices of dtype int32", "uint16")


def test_missing_folders_slices_and_masks(tmp_path):
    refused(lambda: opened(tmp_path / "nowhere"), "nowhere: no such folder", "python -m datasets")
    study_folder(tmp_path)
    (tmp_path / "0003" / "mask" / "0002.tif").unlink()
    refused(lambda: opened(tmp_path), "0003/mask: no mask slice for 0002.tif (1 missing)", "missing_mask")
    opened(tmp_path, options=CropOptions(crop_size=(4, 4, 4), missing_mask="zero"))
    for path in (tmp_path / "0005" / "raw").iterdir():
        path.unlink()
    refused(lambda: opened(tmp_path), "0005/raw: holds no slices")


def test_no_folder_for_any_row(tmp_path):
    write_table(tmp_path / "classes.csv", ["1,Glia,1", "1,Glia,2"])
    with pytest.warns(UserWarning) as caught:
        refused(lambda: opened(tmp_path), "no folder for any sample of", "classes.csv")
    assert [str(one.message).split(": ", 1)[1] for one in caught] == [
        "sample 0001 is skipped: no folder",
        "sample 0002 is skipped: no folder",
    ]


def test_a_folder_with_leading_zeros_and_one_without(tmp_path):
    study_folder(tmp_path)
    write_slices(tmp_path / "1" / "raw", volume(1))
    refused(lambda: opened(tmp_path), "folders 0001 and 1 are both sample 0001")


def test_a_crop_larger_than_the_volume_is_padded_or_refused(tmp_path):
    study_folder(tmp_path)
    options = CropOptions(crop_size=(5, 8, 8))
    assert opened(tmp_path, options=options).crops("client_01", "val")[0]["volume"].shape == (1, 5, 8, 8)
    strict = CropOptions(crop_size=(5, 8, 8), oversize="refuse")
    refused(lambda: opened(tmp_path, options=strict), "0001: (4, 8, 8) voxels are smaller than crop_size (5, 8, 8)")


HEADER = "class_id,class_name,sample_id,site,part"
TABLES = {
    "missing column": ("class_id,class_name,sample", ["1,Glia,1"], "no column 'sample_id', only class_id"),
    "missing client": ("class_id,class_name,sample_id", ["1,Glia,1"], "no column 'site'"),
    "no rows": (HEADER, [], "holds no rows"),
    "ragged": (HEADER, ["1,Glia,1,n,train", "1,Glia,2,n"], "line 3: 4 values for 5 columns"),
    "quotes": (HEADER, ['1,"Glia'], "not a CSV file"),
    "id": (HEADER, ["one,Glia,1,n,train"], "line 2: class_id 'one' is not a whole number"),
    "name": (HEADER, ["1,,1,n,train"], "line 2: class_name is empty"),
    "path": (HEADER, ["1,Glia,../1,n,train"], "line 2: sample_id '../1' is not a folder name"),
    "two classes": (
        HEADER,
        ["1,Glia,1,n,train", "2,Other,0001,n,train"],
        "'0001' has class_id '1' and '2' (lines 2 and",
    ),
    "two clients": (HEADER, ["1,Glia,1,n,train", "1,Glia,1,s,train"], "'0001' has site 'n' and 's' (lines 2 and 3)"),
    "two splits": (HEADER, ["1,Glia,1,n,train", "1,Glia,1,n,val"], "'0001' has part 'train' and 'val'"),
    "twice": (HEADER, ["1,Glia,1,n,train", "1,Glia,1,n,train"], "'0001' is listed twice (lines 2 and 3)"),
    "two names": (HEADER, ["1,Glia,1,n,train", "1,glia,2,n,train"], "line 3: class 1 is called 'Glia' and 'glia'"),
    "two ids": (HEADER, ["1,Glia,1,n,train", "3,Glia,2,n,train"], "class name 'Glia' stands for the ids 1, 3"),
    "unclassified": (HEADER, ["19,x,1,n,train", "3,Unclassified,2,n,train"], "no sample is left after the filters"),
    "empty client": (HEADER, ["1,Glia,1,,train"], "line 2: site is empty"),
    "strange split": (HEADER, ["1,Glia,1,n,dev"], "line 2: part 'dev' is none of train, val, test"),
    "no test": (HEADER, ["1,Glia,1,n,train", "1,Glia,2,n,val"], "part: client 'n' has no test nucleus"),
}


@pytest.mark.parametrize("what", TABLES)
def test_class_tables(tmp_path, what):
    header, rows, message = TABLES[what]
    study_folder(tmp_path)
    write_table(tmp_path / "table.csv", rows, header)
    placement = NucleiPlacement(client_key="site", split_key="part")
    table = tmp_path / "table.csv"
    refused(lambda: opened(tmp_path, class_table=table, placement=placement, unlisted="ignore"), "table.csv", message)


def test_a_folder_without_a_row_is_refused_or_ignored(tmp_path):
    study_folder(tmp_path)
    refused(lambda: opened(tmp_path, class_table=tmp_path / "none.csv"), "none.csv: no such class table")
    rows = [f"1,Glia,{number}" for number in (1, 2, 3, 4, 6)]
    write_table(tmp_path / "classes.csv", rows)
    refused(lambda: opened(tmp_path), "classes.csv: no row for the folder", "0005", "unlisted")
    assert len(opened(tmp_path, unlisted="ignore").nuclei) == 5


@pytest.mark.parametrize(
    ("selection", "parts"),
    [
        (Selection(classes=[1, 7]), ("class 7 is not in the table, which has 1, 2",)),
        (Selection(samples=["1", "99"]), ("sample '0099' is not in the table",)),
        (Selection(classes=[1], samples=["1"]), ("no sample is left after the filters",)),
        (Selection(sample_percent=0), ("sample_percent: 0 must be above 0",)),
        (Selection(sample_percent=101), ("sample_percent: 101 must be above 0 and at most 100",)),
    ],
)
def test_filters_that_leave_nothing_or_name_nothing(tmp_path, selection, parts):
    refused(lambda: opened(study_folder(tmp_path), selection=selection), *parts)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "client_key, partition: give one of the two"),
        ({"client_key": "site", "partition": "evenly", "clients": 2}, "client_key, partition"),
        ({"partition": "evenly"}, "partition, clients: belong together"),
        ({"client_key": "site", "clients": 3}, "partition, clients: belong together"),
        ({"partition": "dirichlet", "clients": 2}, "alpha: belongs to partition: dirichlet"),
        ({"partition": "evenly", "clients": 2, "alpha": 1.0}, "alpha"),
        (
            {"partition": "evenly", "clients": 2, "held_out": "x"},
            "held_out_client: 'x' has no effect without client_key",
        ),
        ({"client_key": "site", "fractions": (0.9, 0.1, 0.0)}, "fractions"),
    ],
)
def test_placements_that_contradict_themselves(changes, part):
    refused(lambda: NucleiPlacement(**changes), part)


def test_too_few_nuclei_for_three_splits(tmp_path):
    placement = NucleiPlacement(partition="ranges", clients=3)
    refused(lambda: opened(study_folder(tmp_path), placement=placement), "'client_01' has 2 units (0001, 0002), three")


def test_a_copied_nucleus_is_a_leak(tmp_path):
    study_folder(tmp_path, samples=6)
    for path in (tmp_path / "0005" / "raw").iterdir():
        path.write_bytes((tmp_path / "0001" / "raw" / path.name).read_bytes())
    study = opened(tmp_path, placement=NucleiPlacement(client_key="site", split_key="part"))
    members = {("north", split): levels for split, levels in study.identities("north").items()}
    refused(lambda: check_disjoint(members, "study"), "content", "north/train and north/test")


def test_a_class_that_is_not_trained_on(tmp_path):
    study = opened(study_folder(tmp_path))
    refused(lambda: study.crops("client_01", "train", class_ids=[1]), "class 2 (Other) is not", "classes")
