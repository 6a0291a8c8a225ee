"""Files that cannot be used are refused in one line."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from datasets.cells import Study
from datasets.cells_h5ad import H5adTable
from tests.refusals import refused
from tests.toy_cells import PLAIN, made, written


def test_paths_that_hold_no_study(tmp_path):
    refused(lambda: Study.open(tmp_path / "nowhere", **PLAIN), "nowhere: no such file or folder", "python -m datasets")
    refused(lambda: Study.open(tmp_path, **PLAIN), "no folder clients/<name>/")
    written(tmp_path)
    refused(lambda: Study.open(tmp_path, **{**PLAIN, "held_out": "north"}), "held_out", "no effect")
    refused(lambda: Study.open(tmp_path, **{**PLAIN, "blocks": 2}), "blocks", "no effect")
    refused(lambda: Study.open(tmp_path, **PLAIN).cells("east", "train"), "'east'", "north, south")
    (tmp_path / "clients" / "north" / "val.h5ad").unlink()
    refused(lambda: Study.open(tmp_path, **PLAIN), "north/val.h5ad: no such file")


def _truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def _not_anndata(path):
    with h5py.File(path, "w") as file:
        file["numbers"] = np.arange(3)


def _no_matrix(path):
    with h5py.File(path, "r+") as file:
        del file["X"]


def _old_categories(path):
    with h5py.File(path, "r+") as file:
        file["obs"].create_group("__categories")


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("cell,gene\n"), "not an h5ad file"),
        (_truncated, "damaged h5ad file"),
        (_not_anndata, "no AnnData table /obs"),
        (_no_matrix, "no matrix 'X'"),
        (_old_categories, "before anndata 0.8"),
    ],
)
def test_files_that_are_not_h5ad(tmp_path, spoil, part):
    path = tmp_path / "cells.h5ad"
    made(4).write_h5ad(path)
    spoil(path)
    refused(lambda: H5adTable.open(path), str(path), part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda adata: adata[:0].copy(), "holds no cells"),
        (lambda adata: adata[:, :0].copy(), "no gene ids"),
        (lambda adata: ad.AnnData(sp.csc_matrix(adata.X), obs=adata.obs, var=adata.var), "save it as CSR"),
    ],
)
def test_files_of_the_wrong_form(tmp_path, change, part):
    change(made(4)).write_h5ad(tmp_path / "cells.h5ad")
    refused(lambda: H5adTable.open(tmp_path / "cells.h5ad"), "cells.h5ad", part)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or infinite"),
        (-1.0, "negative value -1"),
        (0.5, "value 0.5 is not a whole"),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_values_that_are_not_raw_counts_are_refused_on_opening(tmp_path, value, part, dense):
    written(tmp_path)
    path = tmp_path / "clients" / "north" / "train.h5ad"
    adata = made(6, dense=dense)
    (adata.X if dense else adata.X.data).flat[3] = value
    adata.write_h5ad(path)
    refused(lambda: Study.open(tmp_path, **PLAIN), "train.h5ad: X", part)


def test_a_bad_value_deep_in_a_file_is_refused_when_it_is_read(tmp_path):
    written(tmp_path)
    adata = made(400)
    adata.X.data[-1] = np.nan
    adata.write_h5ad(tmp_path / "clients" / "north" / "train.h5ad")
    study = Study.open(tmp_path, **PLAIN)
    refused(lambda: list(study.cells("north", "train").chunks(64)), "NaN or infinite")


def test_missing_columns_and_missing_values(tmp_path):
    path = tmp_path / "cells.h5ad"
    made(4, site=pd.Categorical(["a", None, "b", "a"]), note=["x", "y", "z", "x"]).write_h5ad(path)
    table = H5adTable.open(path)
    refused(lambda: table.column("author_cell_type"), "no column 'author_cell_type'", "cell_type, note, site")
    refused(lambda: table.column("site"), "obs['site']: 1 missing values, first in row 1")
    assert table.column("note").tolist() == ["x", "y", "z", "x"]


def test_blanks_around_a_name_do_not_make_another(tmp_path):
    path = tmp_path / "cells.h5ad"
    adata = made(3, donor=["d1", "d1 ", "\td1"], site=pd.Categorical(["a", " a", "b"]))
    adata.obs_names = ["one", "two ", "three"]
    adata.write_h5ad(path)
    table = H5adTable.open(path)
    assert table.column("donor").tolist() == ["d1"] * 3 and table.column("site").tolist() == ["a", "a", "b"]
    assert table.names.tolist() == ["one", "two", "three"]


def test_columns_come_as_plain_arrays(tmp_path):
    path = tmp_path / "cells.h5ad"
    columns = {
        "number": pd.Categorical([3, 1, 3]),
        "flag": [True, False, True],
        "age": pd.array([1, 2, 3], dtype="Int64"),
    }
    made(3, depth=[0.5, np.nan, 1.0], **columns).write_h5ad(path)
    table = H5adTable.open(path)
    assert table.column("number").tolist() == [3, 1, 3] and table.column("number").dtype.kind == "i"
    assert table.column("flag").dtype == bool and table.column("age").tolist() == [1, 2, 3]
    np.testing.assert_array_equal(table.column("depth"), [0.5, np.nan, 1.0])
