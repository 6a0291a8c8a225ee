"""Studies in one h5ad file: clients by a column, splits by a column, section or spatial block."""

import json

import anndata as ad
import numpy as np
import pytest

from datasets.cells import Study
from datasets.leakage import check_disjoint
from datasets.unit_splits import spatial_blocks, split_units
from tests.refusals import refused
from tests.toy_cells import PLAIN, all_counts, one_file, whole


def test_splits_made_by_section_are_whole_complete_and_seeded(tmp_path):
    path = one_file(tmp_path / "all.h5ad")
    study = whole(path)
    assert study.clients == ["d0", "d1", "d2"] and study.held_out is None
    check_disjoint(study.members(), "all.h5ad")
    assert study.members()["d0", "val"].keys() == {"cell", "unit"}
    together = [
        name for client in study.clients for s in ("train", "val", "test") for name in study.cells(client, s).names
    ]
    assert sorted(together) == sorted(ad.read_h5ad(path).obs_names)
    assert [len(study.cells("d0", split)) for split in ("train", "val", "test")] == [20, 10, 10]
    again = whole(path)
    assert again.manifest() == study.manifest()
    others = [
        Study.open(path, **{**PLAIN, "client_key": "donor_id", "unit_key": "library_key", "seed": s}) for s in range(4)
    ]
    assert len({json.dumps(other.manifest(), sort_keys=True) for other in others}) > 1


def test_rows_of_one_file_keep_their_own_counts_and_columns(tmp_path):
    path = one_file(tmp_path / "all.h5ad")
    adata = ad.read_h5ad(path)
    cells = whole(path).cells("d2", "test")
    mine = adata[cells.names]
    np.testing.assert_array_equal(all_counts(cells), mine.X.toarray())
    np.testing.assert_array_equal(cells.column("x"), mine.obs["x"])
    assert set(cells.column("donor_id")) == {"d2"}


def test_a_split_column_is_used_as_it_is(tmp_path):
    path = one_file(tmp_path / "all.h5ad", nicheformer_split=(["train"] * 8 + ["val", "test"]) * 12)
    study = Study.open(path, **{**PLAIN, "client_key": "donor_id"})
    cells = study.cells("d1", "val")
    assert len(cells) == 4 and set(cells.column("nicheformer_split")) == {"val"}
    options = {**PLAIN, "client_key": "donor_id", "blocks": 3}
    refused(lambda: Study.open(path, **options), "blocks", "no effect", "nicheformer_split")
    members = Study.open(path, **{**PLAIN, "client_key": "donor_id", "unit_key": "library_key"}).members("library_key")
    refused(lambda: check_disjoint(members, "all.h5ad"), "unit 's", "more")


def test_held_out_is_a_value_of_the_client_column(tmp_path):
    path = one_file(tmp_path / "all.h5ad")
    options = {**PLAIN, "client_key": "donor_id", "unit_key": "library_key"}
    study = Study.open(path, **{**options, "held_out": "d1"})
    assert study.clients == ["d0", "d2"] and set(study.held_out.column("donor_id")) == {"d1"}
    assert ("held_out", "test") in study.members()
    refused(lambda: Study.open(path, **{**options, "held_out": "d9"}), "held_out: 'd9'", "choose one of d0, d1, d2")


def test_spatial_blocks_replace_missing_sections(tmp_path):
    path = one_file(tmp_path / "all.h5ad", sections=2, per_section=40)
    options = {**PLAIN, "client_key": "donor_id", "unit_key": "library_key"}
    refused(lambda: Study.open(path, **options), "client 'd0' has 2 units", "blocks: 4")
    study = Study.open(path, **{**options, "blocks": 2})
    check_disjoint(study.members(), "all.h5ad")
    units = study.manifest()["clients"]["d0"]["train"]["units"]
    assert "s0/x0y0" in {unit for split in study.manifest()["clients"]["d0"].values() for unit in split["units"]}
    assert len(units) == 6


def test_blocks_by_hand():
    x = np.array([0.0, 1.0, 10.0, 11.0, 500.0, 501.0, 510.0, 511.0])
    y = np.array([5.0, 1.0, 1.0, 5.0, 7.0, 9.0, 9.0, 7.0])
    sections = np.array(["a"] * 4 + ["b"] * 4)
    expected = ["x0y1", "x0y0", "x1y0", "x1y1", "x0y0", "x0y1", "x1y1", "x1y0"]
    named = [f"{section}/{block}" for section, block in zip(sections, expected, strict=True)]
    assert spatial_blocks(sections, x, y, 2, "f").tolist() == named
    refused(lambda: spatial_blocks(sections, x, y, 1, "f"), "f: blocks: 1")
    refused(lambda: spatial_blocks(sections, x * np.nan, y, 2, "f"), "not finite")


@pytest.mark.parametrize(("units", "expected"), [(3, (1, 1, 1)), (10, (6, 2, 2)), (20, (14, 3, 3)), (4, (2, 1, 1))])
def test_numbers_of_units(units, expected):
    names = np.repeat([f"u{number}" for number in range(units)], 5)
    splits = split_units(names, (0.7, 0.15, 0.15), seed=0, client="c", source="f")
    assert tuple(int((splits == name).sum()) // 5 for name in ("train", "val", "test")) == expected
    assert all(len(set(splits[names == unit])) == 1 for unit in names)


def test_train_keeps_a_unit_whatever_the_fractions():
    splits = split_units(np.array(["a", "b", "c"]), (0.1, 0.45, 0.45), seed=0, client="c", source="f")
    assert sorted(splits) == ["test", "train", "val"]


def test_unusable_options_of_one_file(tmp_path):
    path = one_file(tmp_path / "all.h5ad")
    keys = {**PLAIN, "client_key": "donor_id"}
    refused(lambda: Study.open(path, **PLAIN), "client_key is not set")
    refused(lambda: Study.open(path, **{**PLAIN, "client_key": "site"}), "no column 'site'", "donor_id", "library_key")
    refused(lambda: Study.open(path, **keys), "no split column 'nicheformer_split'", "unit_key or blocks")
    refused(lambda: Study.open(path, **{**keys, "unit_key": "slide"}), "no column 'slide'")
    refused(lambda: Study.open(path, **{**keys, "unit_key": "library_key"}, fractions=(0.5, 0.5, 0.5)), "fractions")
    named = one_file(tmp_path / "b.h5ad", nicheformer_split=["train", "valid"] * 60)
    refused(lambda: Study.open(named, **keys), "'valid' is not a split")
    lacking = one_file(tmp_path / "c.h5ad", nicheformer_split=["train", "val"] * 60)
    refused(lambda: Study.open(lacking, **keys), "client 'd0' has no test cells")
