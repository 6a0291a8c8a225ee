"""The token cache gives the same tokens as the tokenizer, from disk where it can."""

import multiprocessing
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import datasets.token_cache
from datasets.cells import Cells
from datasets.cells_h5ad import H5adTable
from datasets.genes import Orthologs, Vocabulary, prepare_mean
from datasets.nicheformer import align, tokenize
from datasets.token_cache import tokens

FIXTURES = Path(__file__).parent / "fixtures" / "nicheformer"
VOCABULARY = Vocabulary.read(FIXTURES / "vocabulary.h5ad")
OPTIONS = {"orthologs": None, "max_seq_len": 32}


@pytest.fixture
def cells():
    return Cells(H5adTable.open(FIXTURES / "cells.h5ad"), "client", "train")


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURES / "tokenization.npz") as stored:
        return stored["technology_mean_prepared"], stored["tokens_prepared"]


def test_tokens_match_with_and_without_a_folder(tmp_path, cells, reference, monkeypatch):
    mean, expected = reference
    monkeypatch.setattr(datasets.token_cache, "CHUNK", 5)
    np.testing.assert_array_equal(tokens(cells, VOCABULARY, mean, folder=None, **OPTIONS), expected)
    stored = tokens(cells, VOCABULARY, mean, folder=tmp_path / "cache", **OPTIONS)
    assert isinstance(stored, np.memmap) and stored.dtype == np.int32
    np.testing.assert_array_equal(stored, expected)
    (path,) = (tmp_path / "cache").iterdir()
    np.testing.assert_array_equal(np.load(path), expected)


def test_the_second_call_reads_the_file(tmp_path, cells, reference, monkeypatch):
    mean, expected = reference
    tokens(cells, VOCABULARY, mean, folder=tmp_path, **OPTIONS)
    monkeypatch.setattr(datasets.token_cache, "tokenize", None)
    np.testing.assert_array_equal(tokens(cells, VOCABULARY, mean, folder=tmp_path, **OPTIONS), expected)


def test_everything_that_changes_tokens_changes_the_file(tmp_path, cells, reference):
    mean, _ = reference
    names = cells.var_names
    some = Cells(cells.table, "client", "train", np.arange(6))
    outside = next(name for name in names if name not in VOCABULARY.index)
    absent = next(name for name in VOCABULARY.names if name not in names)
    calls = [
        (cells, VOCABULARY, mean, OPTIONS),
        (some, VOCABULARY, mean, OPTIONS),
        (cells, Vocabulary(VOCABULARY.names[::-1]), mean, OPTIONS),
        (cells, VOCABULARY, mean + 1, OPTIONS),
        (cells, VOCABULARY, mean, {**OPTIONS, "max_seq_len": 31}),
        (cells, VOCABULARY, mean, {**OPTIONS, "orthologs": Orthologs({outside: absent})}),
    ]
    for number, (part, vocabulary, means, options) in enumerate(calls, start=1):
        tokens(part, vocabulary, means, folder=tmp_path, **options)
        assert len(list(tmp_path.iterdir())) == number
    tokens(cells, VOCABULARY, mean, folder=tmp_path, orthologs=Orthologs({"x": "y"}), max_seq_len=32)
    assert len(list(tmp_path.iterdir())) == len(calls)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no array at all"),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: np.save(path, np.zeros((12, 31), dtype=np.int32)),
        lambda path: np.save(path, np.zeros((12, 32), dtype=np.int64)),
    ],
)
def test_a_damaged_file_is_made_again(tmp_path, cells, reference, spoil):
    mean, expected = reference
    tokens(cells, VOCABULARY, mean, folder=tmp_path, **OPTIONS)
    (path,) = tmp_path.iterdir()
    spoil(path)
    np.testing.assert_array_equal(tokens(cells, VOCABULARY, mean, folder=tmp_path, **OPTIONS), expected)
    np.testing.assert_array_equal(np.load(path), expected)


def test_writing_to_the_tokens_leaves_the_file_alone(tmp_path, cells, reference):
    mean, expected = reference
    first = tokens(cells, VOCABULARY, mean, folder=tmp_path, **OPTIONS)
    first[:] = 7
    np.testing.assert_array_equal(tokens(cells, VOCABULARY, mean, folder=tmp_path, **OPTIONS), expected)


def test_a_folder_that_cannot_be_used_keeps_tokens_in_memory(tmp_path, cells, reference):
    mean, expected = reference
    (tmp_path / "file").write_text("in the way")
    made = tokens(cells, VOCABULARY, mean, folder=tmp_path / "file" / "cache", **OPTIONS)
    assert not isinstance(made, np.memmap)
    np.testing.assert_array_equal(made, expected)


def test_a_full_disk_keeps_tokens_in_memory(tmp_path, cells, reference, monkeypatch):
    mean, expected = reference

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(datasets.token_cache, "_write", full)
    with pytest.warns(UserWarning, match="cannot be written"):
        made = tokens(cells, VOCABULARY, mean, folder=tmp_path, **OPTIONS)
    np.testing.assert_array_equal(made, expected)
    assert not list(tmp_path.iterdir())


def _make(folder, barrier, results):
    cells = Cells(H5adTable.open(FIXTURES / "cells.h5ad"), "client", "train")
    mean = np.ones(len(VOCABULARY))
    barrier.wait()
    results.put(np.asarray(tokens(cells, VOCABULARY, mean, folder=folder, **OPTIONS)).tolist())


def test_two_processes_may_make_the_same_file_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_make, args=(tmp_path, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    made = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    adata = ad.read_h5ad(FIXTURES / "cells.h5ad")
    expected = tokenize(align(adata, VOCABULARY), prepare_mean(np.ones(len(VOCABULARY)), "unrounded"), 32).tolist()
    assert made == [expected, expected] and len(list(tmp_path.iterdir())) == 1
