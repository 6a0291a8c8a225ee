"""Studies in folders of h5ad files: what is read, and its digest and manifest."""

import json
import pickle
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from datasets.cells import Study
from datasets.cells_h5ad import H5adTable
from tests.refusals import refused
from tests.toy_cells import GENES, PLAIN, all_counts, made, one_file, whole, written

FIXTURES = Path(__file__).parent / "fixtures" / "nicheformer"


def test_a_folder_gives_clients_splits_and_the_held_out_cells(tmp_path):
    study = Study.open(written(tmp_path), **PLAIN)
    assert study.clients == ["north", "south"]
    cells = study.cells("north", "val")
    assert (cells.client, cells.split, len(cells)) == ("north", "val", 7)
    assert cells.names.tolist() == [f"north-val-{number}" for number in range(7)]
    assert cells.column("cell_type").tolist() == ["a", "b", "a", "b", "a", "b", "a"]
    assert list(cells.var_names) == GENES and cells.has("library_key") and not cells.has("age")
    assert cells.path == tmp_path / "clients" / "north" / "val.h5ad"
    assert study.held_out is not None and len(study.held_out) == 5


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("dense", [False, True])
def test_chunks_give_the_counts_of_the_file(tmp_path, size, dense):
    adata = made(7, dense=dense)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    table = H5adTable.open(tmp_path / "cells.h5ad")
    chunks = list(table.read(np.arange(7), size))
    assert all(isinstance(chunk, sp.csr_matrix) and chunk.shape[0] <= size for chunk in chunks)
    expected = adata.X if dense else adata.X.toarray()
    np.testing.assert_array_equal(sp.vstack(chunks).toarray(), expected)


@pytest.mark.parametrize("dense", [False, True])
def test_scattered_rows_are_read_without_their_neighbours(tmp_path, dense):
    adata = made(500, dense=dense)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    rows = np.array([0, 1, 5, 90, 300, 301, 499])
    chunks = list(H5adTable.open(tmp_path / "cells.h5ad").read(rows, 4))
    assert [chunk.shape[0] for chunk in chunks] == [4, 3]
    expected = adata.X[rows] if dense else adata.X[rows].toarray()
    np.testing.assert_array_equal(sp.vstack(chunks).toarray(), expected)


def test_opening_and_reading_obs_does_not_touch_the_matrix(tmp_path):
    path = tmp_path / "cells.h5ad"
    made(8, seed=2).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X/data"]
    table = H5adTable.open(path)
    assert table.names.tolist()[:2] == ["c0", "c1"] and table.column("cell_type").tolist()[:2] == ["a", "b"]
    refused(lambda: list(table.read(np.arange(8), 4)), "cells.h5ad: X: damaged")


def test_the_recorded_file_opens():
    cells = H5adTable.open(FIXTURES / "cells.h5ad")
    assert cells.column("specie").tolist() == ad.read_h5ad(FIXTURES / "cells.h5ad").obs["specie"].tolist()
    assert cells.column("author_cell_type").dtype.kind == "U"
    np.testing.assert_array_equal(
        sp.vstack(list(cells.read(np.arange(12), 5))).toarray(), ad.read_h5ad(FIXTURES / "cells.h5ad").X.toarray()
    )


def test_cells_can_be_sent_to_another_process(tmp_path):
    cells = whole(one_file(tmp_path / "all.h5ad")).cells("d1", "train")
    again = pickle.loads(pickle.dumps(cells))
    assert again.digest == cells.digest and again.names.tolist() == cells.names.tolist()


def test_digest_follows_content_not_storage(tmp_path):
    adata = made(6)
    adata.write_h5ad(tmp_path / "a.h5ad")
    stored = adata.X
    adata.X = stored.toarray()
    adata.write_h5ad(tmp_path / "b.h5ad")
    adata.X = stored.copy()
    adata.X.data[0] += 1
    adata.write_h5ad(tmp_path / "c.h5ad")
    adata.X = stored
    adata.obs_names = [f"other{number}" for number in range(6)]
    adata.write_h5ad(tmp_path / "d.h5ad")
    digests = {}
    for name in "abcd":
        folder = tmp_path / name / "clients" / "x"
        folder.mkdir(parents=True)
        for split in ("train", "val", "test"):
            shutil.copy(tmp_path / f"{name}.h5ad", folder / f"{split}.h5ad")
        digests[name] = Study.open(tmp_path / name, **PLAIN).cells("x", "train").digest
    assert digests["a"] == digests["b"] and len(set(digests.values())) == 3


def test_a_layer_can_hold_the_counts(tmp_path):
    written(tmp_path)
    for path in tmp_path.rglob("*.h5ad"):
        adata = ad.read_h5ad(path)
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X.log1p()
        adata.write_h5ad(path)
    refused(lambda: Study.open(tmp_path, **PLAIN), "X: value ", "not raw counts", "counts_layer", "(layers: counts)")
    study = Study.open(tmp_path, **PLAIN, counts_layer="counts")
    assert (all_counts(study.cells("north", "train")) % 1 == 0).all()
    refused(lambda: Study.open(tmp_path, **PLAIN, counts_layer="raw"), "'layers/raw'", "layers: counts")


def test_manifest_is_json_with_counts_units_and_hashes(tmp_path):
    study = Study.open(written(tmp_path), **{**PLAIN, "unit_key": "library_key"})
    manifest = json.loads(json.dumps(study.manifest()))
    entry = manifest["clients"]["south"]["test"]
    assert entry["cells"] == 8 and entry["units"] == ["south2"] and len(entry["sha256"]) == 64
    assert entry["file"] == "clients/south/test.h5ad" and manifest["held_out"]["cells"] == 5
    hashes = [part["sha256"] for client in manifest["clients"].values() for part in client.values()]
    assert len(set(hashes)) == 6
