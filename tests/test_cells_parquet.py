"""Studies in log-normalised parquet tables."""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from datasets.cells import Study
from datasets.cells_parquet import ParquetTable
from datasets.leakage import check_disjoint
from tests.refusals import refused
from tests.toy_cells import GENES, PLAIN, all_counts, made


def parquet_study(folder, *, splits=("train", "val"), change=lambda frame: frame):
    (folder / "genes.txt").write_text("\n".join(GENES))
    for place, client in enumerate(("client_01", "client_02")):
        for step, split in enumerate(splits):
            path = folder / "clients" / client / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pandas(change(table_of(client, split, 3 * place + step))), path)
    pq.write_table(pa.Table.from_pandas(table_of("none", "held", 50)), folder / "held_out_batch.parquet")
    return folder


def table_of(client, split, seed):
    counts = made(5, seed=seed).X.toarray().astype(np.float64)
    counts[0] = 0
    sums = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(counts / np.where(sums == 0, 1, sums) * 10_000).astype(np.float32)
    frame = pd.DataFrame(logs, columns=GENES)[GENES[::-1]]
    frame.insert(0, "id", [f"{client}-{split}-{number}" for number in range(5)])
    frame.insert(1, "label", np.arange(5, dtype=np.int32))
    return frame


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_parquet_values_are_proportional_to_counts(tmp_path, quiet):
    study = Study.open(parquet_study(tmp_path), **PLAIN)
    assert study.clients == ["client_01", "client_02"] and len(study.held_out) == 5
    cells = study.cells("client_02", "train")
    assert list(cells.var_names) == GENES and cells.column("label").tolist() == [0, 1, 2, 3, 4]
    assert cells.names.tolist()[0] == "client_02-train-0"
    counts = made(5, seed=3).X.toarray()
    counts[0] = 0
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 10_000
    np.testing.assert_allclose(all_counts(cells, 2), shares, rtol=1e-5)
    np.testing.assert_allclose(
        sp.vstack(list(cells.table.read(np.array([1, 4]), 2))).toarray(), shares[[1, 4]], rtol=1e-5
    )


def test_a_missing_test_table_is_replaced_by_val_and_said_so(tmp_path):
    parquet_study(tmp_path)
    with pytest.warns(UserWarning) as caught:
        study = Study.open(tmp_path, **PLAIN)
    texts = [str(warning.message) for warning in caught]
    assert sum("original counts are lost" in text for text in texts) == 1
    assert sum("no test.parquet for client_01, client_02; the val split stands in" in text for text in texts) == 1
    assert study.cells("client_01", "test").names.tolist() == study.cells("client_01", "val").names.tolist()
    assert study.manifest()["clients"]["client_01"]["test"]["borrowed_from"] == "val"
    assert ("client_01", "test") not in study.members()
    check_disjoint(study.members(), "study")


def test_a_test_table_is_used_where_there_is_one(tmp_path, quiet):
    study = Study.open(parquet_study(tmp_path, splits=("train", "val", "test")), **PLAIN)
    assert study.cells("client_01", "test").names[0] == "client_01-test-0" and not study.borrowed


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda frame: frame.assign(**{GENES[0]: np.float32(-0.5)}), "negative value -0.5"),
        (lambda frame: frame.assign(**{GENES[0]: np.float32(np.nan)}), "NaN or infinite"),
        (lambda frame: frame.assign(**{gene: np.rint(frame[gene]) for gene in GENES}), "not 10,000"),
        (lambda frame: frame.drop(columns=GENES[4]), f"gene '{GENES[4]}' of genes.txt is missing"),
        (lambda frame: frame.drop(columns="id"), "no column 'id'"),
        (lambda frame: frame[:0], "holds no cells"),
    ],
)
def test_unusable_parquet_tables(tmp_path, quiet, change, part):
    parquet_study(tmp_path, change=change)
    refused(lambda: Study.open(tmp_path, **PLAIN), "train.parquet", part)


def test_unusable_parquet_files(tmp_path, quiet):
    parquet_study(tmp_path)
    path = tmp_path / "clients" / "client_01" / "train.parquet"
    path.write_text("no table")
    refused(lambda: ParquetTable.open(path, tuple(GENES)), "not a parquet file")
    refused(lambda: Study.open(tmp_path, **PLAIN, counts_layer="counts"), "counts_layer", "no effect")
    (tmp_path / "genes.txt").unlink()
    refused(lambda: Study.open(tmp_path, **PLAIN), "genes.txt: cannot be read")
