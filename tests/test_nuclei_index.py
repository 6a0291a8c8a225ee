"""The index: made once, made anew where something changed, and never needed to be writable."""

import json
import os

import numpy as np
import pytest
import tifffile

import datasets.nuclei_index as nuclei_index
from datasets.nuclei_index import find_folders, index_volumes
from datasets.nuclei_slices import list_slices
from tests.toy_nuclei import opened, study_folder, volume, write_nucleus, write_slices, write_table

FOLDERS = [f"{number:04d}" for number in range(1, 7)]


@pytest.fixture
def scanned(monkeypatch):
    """The folders that are scanned, as it happens."""
    seen = []
    scan = nuclei_index._scan
    monkeypatch.setattr(nuclei_index, "_scan", lambda root, *rest: seen.append(root.name) or scan(root, *rest))
    return seen


def later(path, seconds=5):
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + seconds * 10**9))


def test_slices_are_ordered_by_number_padded_or_not(tmp_path):
    names = ["10.tif", "9.tif", "0.tiff", "0002.TIF"]
    write_slices(tmp_path, volume(0), names)
    (tmp_path / "notes.txt").write_text("no slice")
    (tmp_path / ".9.tif").write_text("hidden")
    assert list(list_slices(tmp_path).names.items()) == [(0, "0.tiff"), (2, "0002.TIF"), (9, "9.tif"), (10, "10.tif")]


def test_depth_follows_the_numbers_and_masks_are_matched_by_number(tmp_path):
    values = volume(1, (11, 4, 4))
    write_slices(tmp_path / "a" / "raw", values, [f"{number}.tif" for number in range(11)])
    mask = (values > 100).astype(np.uint8)
    write_slices(tmp_path / "a" / "mask", mask, [f"{number:03d}.tiff" for number in range(11)])
    found = index_volumes(tmp_path, ["a"])["a"]
    assert found.raw[1:3] == ("1.tif", "2.tif") and found.mask[10] == "010.tiff" and found.missing_masks == []
    stacked = np.stack([tifffile.imread(found.root / "raw" / name) for name in found.raw])
    np.testing.assert_array_equal(stacked, values)
    assert (found.shape, found.dtype, found.low, found.high) == ((11, 4, 4), "uint8", values.min(), values.max())


def test_missing_numbers_are_warned_of(tmp_path):
    write_slices(tmp_path / "a" / "raw", volume(1), ["1.tif", "2.tif", "5.tif", "6.tif"])
    write_slices(tmp_path / "a" / "mask", volume(1), ["1.tif", "2.tif", "5.tif", "6.tif"])
    with pytest.warns(UserWarning, match="a/raw: 2 slice numbers are missing"):
        index_volumes(tmp_path, ["a"])


def test_an_unchanged_study_is_not_read_again(tmp_path, scanned):
    study_folder(tmp_path)
    first = index_volumes(tmp_path, FOLDERS)
    assert scanned == FOLDERS
    assert index_volumes(tmp_path, FOLDERS) == first
    assert scanned == FOLDERS
    stored = json.loads((tmp_path / ".cache" / "nuclei_index.json").read_text())
    assert sorted(stored["entries"]) == FOLDERS and str(tmp_path) not in json.dumps(stored)


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "mask", "renamed"])
def test_only_what_changed_is_read_again(tmp_path, scanned, change):
    study_folder(tmp_path)
    before = index_volumes(tmp_path, FOLDERS)
    scanned.clear()
    path = tmp_path / "0003" / "raw" / "0003.tif"
    if change == "content":
        tifffile.imwrite(path, volume(99)[0])
        later(path)
    elif change == "time":
        later(path)
    elif change == "added":
        for part in ("raw", "mask"):
            tifffile.imwrite(tmp_path / "0003" / part / "0004.tif", volume(99)[0])
    elif change == "removed":
        path.unlink()
    elif change == "mask":
        tifffile.imwrite(tmp_path / "0003" / "mask" / "0003.tif", np.zeros((8, 8), np.uint8))
        later(tmp_path / "0003" / "mask" / "0003.tif")
    elif change == "renamed":
        path.rename(path.with_name("3.tif"))
    after = index_volumes(tmp_path, FOLDERS)
    assert scanned == ["0003"]
    same = change in ("time", "renamed")
    assert (after["0003"].sha256 == before["0003"].sha256) is same
    assert all(after[name] == before[name] for name in FOLDERS if name != "0003")


def test_the_hash_is_of_content_not_of_files(tmp_path):
    values, mask = volume(1), (volume(2) > 128).astype(np.uint8)
    write_nucleus(tmp_path / "a", values, mask)
    for part, content in (("raw", values), ("mask", mask * 200)):
        (tmp_path / "b" / part).mkdir(parents=True)
        for number, one in enumerate(content):
            tifffile.imwrite(tmp_path / "b" / part / f"{number}.tiff", one, compression="lzw")
    write_nucleus(tmp_path / "c", values, 1 - mask)
    write_nucleus(tmp_path / "d", values.reshape(8, 4, 8), mask.reshape(8, 4, 8))
    found = index_volumes(tmp_path, ["a", "b", "c", "d"])
    assert found["a"].sha256 == found["b"].sha256
    assert len({found[name].sha256 for name in "acd"}) == 3


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"version": 0, "entries": {}}', '{"version": 1, "entries": 3}'])
def test_a_damaged_index_is_made_anew(tmp_path, scanned, content):
    study_folder(tmp_path)
    first = index_volumes(tmp_path, FOLDERS)
    (tmp_path / ".cache" / "nuclei_index.json").write_text(content)
    assert index_volumes(tmp_path, FOLDERS) == first
    assert scanned == FOLDERS * 2


def test_data_that_cannot_be_written_to_costs_time_only(tmp_path, scanned):
    study_folder(tmp_path)
    (tmp_path / ".cache").write_text("a file where the folder should be")
    first = index_volumes(tmp_path, FOLDERS)
    assert index_volumes(tmp_path, FOLDERS) == first
    assert scanned == FOLDERS * 2


def test_what_was_indexed_before_an_error_is_kept(tmp_path, scanned):
    study_folder(tmp_path)
    path = tmp_path / "0004" / "raw" / "0001.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(Exception, match="cut short"):
        index_volumes(tmp_path, FOLDERS)
    path.write_bytes(whole)
    scanned.clear()
    index_volumes(tmp_path, FOLDERS)
    assert scanned == ["0004", "0005", "0006"]


def test_two_selections_of_one_study_share_the_index(tmp_path, scanned):
    study_folder(tmp_path)
    index_volumes(tmp_path, FOLDERS[:3])
    index_volumes(tmp_path, FOLDERS[2:])
    index_volumes(tmp_path, FOLDERS)
    assert scanned == FOLDERS


def test_folders_padded_or_not_and_those_that_are_not_there(tmp_path):
    for name in ("0001", "2", "x7"):
        write_nucleus(tmp_path / name, volume(1))
    (tmp_path / "0003" / "raw").mkdir(parents=True)
    with pytest.warns(UserWarning) as caught:
        found = find_folders(tmp_path, ["0001", "0002", "0003", "0004", "x7"])
    assert found == {"0001": "0001", "0002": "2", "x7": "x7"}
    said = [str(one.message).split(": ", 1)[1] for one in caught]
    assert said == ["sample 0003 is skipped: no folder mask/ in 0003", "sample 0004 is skipped: no folder"]


def test_ids_are_text_and_spaces_after_commas_do_not_count(tmp_path):
    for number in (1, 2, 11):
        write_nucleus(tmp_path / f"{number:04d}", volume(number))
    write_table(tmp_path / "classes.csv", ["1, Glia, 0011", "1, Glia, 2", "1, Glia, 01"])
    assert [one.sample for one in opened(tmp_path).nuclei] == ["0001", "0002", "0011"]


def test_the_byte_order_of_a_file_does_not_matter(tmp_path):
    values = volume(1, dtype=np.uint16) * 200
    for name, order in (("a", "<"), ("b", ">")):
        write_slices(tmp_path / name / "mask", volume(1))
        (tmp_path / name / "raw").mkdir()
        for number, one in enumerate(values):
            tifffile.imwrite(tmp_path / name / "raw" / f"{number}.tif", one, byteorder=order)
    found = index_volumes(tmp_path, ["a", "b"])
    assert found["a"].sha256 == found["b"].sha256 and found["b"].high == values.max()
