"""NicheFormer tokens against the recorded reference and against numbers worked out by hand."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from core.errors import UserError
from datasets.genes import Orthologs, Vocabulary, prepare_mean
from datasets.nicheformer import align, assemble, ranked, tokenize

FIXTURES = Path(__file__).parent / "fixtures" / "nicheformer"


@pytest.fixture(scope="module")
def reference():
    with np.load(FIXTURES / "tokenization.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def cells():
    return ad.read_h5ad(FIXTURES / "cells.h5ad")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.read(FIXTURES / "vocabulary.h5ad")


def test_vocabulary_and_file_hold_the_recorded_names(reference, cells, vocabulary):
    assert list(vocabulary.names) == reference["vocabulary"].tolist()
    assert cells.var_names.tolist() == reference["var_names"].tolist()


def test_recorded_counts_are_those_of_the_file(reference, cells):
    parts = (reference["counts_data"], reference["counts_indices"], reference["counts_indptr"])
    recorded = sp.csr_matrix(parts, shape=tuple(reference["counts_shape"]))
    np.testing.assert_array_equal(cells.X.toarray(), recorded.toarray())


def test_aligned_counts_match(reference, cells, vocabulary):
    aligned = align(cells, vocabulary)
    assert isinstance(aligned, sp.csr_matrix)
    np.testing.assert_array_equal(aligned.toarray(), reference["aligned_counts"])


@pytest.mark.parametrize("form", ["dense", "csc", "integer", "csr_array"])
def test_alignment_does_not_depend_on_how_counts_are_stored(form, reference, cells, vocabulary):
    made = {
        "dense": lambda x: x.toarray(),
        "csc": sp.csc_matrix,
        "integer": lambda x: x.toarray().astype(np.int32),
        "csr_array": sp.csr_array,
    }
    other = SimpleNamespace(X=made[form](cells.X), var_names=cells.var_names)
    np.testing.assert_array_equal(align(other, list(vocabulary.names)).toarray(), reference["aligned_counts"])


@pytest.mark.parametrize("rounding", ["prepared", "unrounded"])
def test_means_match_and_the_raw_one_is_left_alone(rounding, reference):
    raw = reference["technology_mean_raw"].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = prepare_mean(raw, rounding)
    np.testing.assert_array_equal(mean, reference[f"technology_mean_{rounding}"])
    np.testing.assert_array_equal(raw, reference["technology_mean_raw"])


@pytest.mark.parametrize("rounding", ["prepared", "unrounded"])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
@pytest.mark.parametrize("dense", [False, True])
def test_tokens_match_exactly(rounding, chunk, dense, reference, cells, vocabulary):
    counts = align(cells, vocabulary)
    mean = prepare_mean(reference["technology_mean_raw"], rounding)
    tokens = tokenize(counts.toarray() if dense else counts, mean, int(reference["max_seq_len"]), chunk)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, reference[f"tokens_{rounding}"])


@pytest.mark.parametrize("rounding", ["prepared", "unrounded"])
def test_scores_match(rounding, reference, cells, vocabulary):
    mean = reference[f"technology_mean_{rounding}"]
    scores, rows, places, genes = ranked(align(cells, vocabulary), mean)
    all_scores = np.zeros((cells.n_obs, len(vocabulary)))
    all_scores[rows, genes] = scores
    np.testing.assert_allclose(all_scores, reference[f"scores_{rounding}"], rtol=1e-9)
    emitted = np.full(reference[f"tokens_{rounding}"].shape, np.nan)
    kept = places < emitted.shape[1]
    emitted[rows[kept], places[kept]] = scores[kept]
    np.testing.assert_allclose(emitted, reference[f"emitted_scores_{rounding}"], rtol=1e-9)


def test_a_raw_mean_with_nan_does_not_fill_sequences_with_unmeasured_genes(reference, cells, vocabulary):
    tokens = tokenize(align(cells, vocabulary), reference["technology_mean_raw"], 32)
    np.testing.assert_array_equal(tokens, reference["tokens_unrounded"])
    assert (tokens != reference["tokens_official_with_raw_nan_mean"]).any()
    assert len(set((tokens != 0).sum(axis=1))) > 1


def test_by_hand():
    # Cell 0: shares of 10,000 are 2000, 0, 3000, 5000; over the means 200, nothing, 3000, 50.
    counts = np.array([[2, 0, 3, 5], [0, 0, 0, 0], [0, 7, 0, 0]])
    mean = np.array([10.0, 4.0, 1.0, 100.0])
    scores, rows, places, genes = ranked(counts, mean)
    np.testing.assert_allclose(scores, [3000, 200, 50, 2500])
    assert rows.tolist() == [0, 0, 0, 2] and places.tolist() == [0, 1, 2, 0] and genes.tolist() == [2, 0, 3, 1]
    assert tokenize(counts, mean, 4).tolist() == [[32, 30, 33, 0], [0, 0, 0, 0], [31, 0, 0, 0]]
    assert tokenize(counts, mean, 2).tolist() == [[32, 30], [0, 0], [31, 0]]


def test_equal_scores_keep_vocabulary_order():
    counts = np.array([[1, 3, 1, 3, 1]])
    assert tokenize(counts, np.ones(5), 5).tolist() == [[31, 33, 30, 32, 34]]
    shuffled_storage = sp.csr_matrix((np.array([1.0, 3, 1, 3, 1]), [4, 3, 2, 1, 0], [0, 5]), shape=(1, 5))
    assert tokenize(shuffled_storage, np.ones(5), 5).tolist() == [[31, 33, 30, 32, 34]]


def test_scaling_a_cell_does_not_change_its_tokens():
    random = np.random.default_rng(3)
    counts = random.poisson(2.0, (20, 40)).astype(np.float64)
    mean = random.uniform(1, 50, 40)
    np.testing.assert_array_equal(tokenize(counts, mean, 40), tokenize(counts * 8, mean, 40))


def test_zero_and_nan_means_divide_by_one_and_a_negative_mean_sorts_last():
    counts = np.array([[4, 4, 4]])
    assert tokenize(counts, np.array([0.0, np.nan, 0.5]), 3).tolist() == [[32, 30, 31]]
    assert tokenize(counts, np.array([-9.0, 2.0, 1.0]), 3).tolist() == [[32, 31, 30]]


def test_nan_counts_are_zero():
    counts = np.array([[np.nan, 1.0, 2.0]])
    assert tokenize(counts, np.ones(3), 3).tolist() == [[32, 31, 0]]
    aligned = align(SimpleNamespace(X=counts, var_names=["a", "b", "c"]), ["b", "a"])
    assert aligned.toarray().tolist() == [[1.0, 0.0]]


def test_inputs_are_left_alone():
    counts = sp.csr_matrix((np.array([1.0, np.nan, 2.0, 3.0]), [2, 0, 2, 1], [0, 4]), shape=(1, 3))
    before = counts.data.copy(), counts.indices.copy()
    mean = np.array([np.nan, 0.0, 2.0])
    tokenize(counts, mean, 3)
    align(SimpleNamespace(X=counts, var_names=["a", "b", "c"]), ["c", "a"])
    np.testing.assert_array_equal(counts.data, before[0])
    np.testing.assert_array_equal(counts.indices, before[1])
    np.testing.assert_array_equal(mean, [np.nan, 0.0, 2.0])


def test_a_gene_outside_the_vocabulary_shifts_nothing():
    counts = np.array([[5, 1, 3]])
    adata = SimpleNamespace(X=counts, var_names=["zebra", "aaa outside", "horse"])
    aligned = align(adata, ["horse", "unmeasured", "zebra"])
    assert aligned.toarray().tolist() == [[3, 0, 5]]


def test_mouse_genes_are_translated_unless_the_vocabulary_knows_them():
    orthologs = Orthologs({"m1": "h1", "m2": "h2", "m3": "h9"})
    adata = SimpleNamespace(X=np.array([[1, 2, 3, 4]]), var_names=["m1", "m2", "m3", "m4"])
    assert align(adata, ["h1", "h2", "h9", "m2"], orthologs).toarray().tolist() == [[1, 0, 3, 2]]


def test_a_gene_named_twice_is_refused():
    with pytest.raises(UserError, match="'a' occurs twice"):
        align(SimpleNamespace(X=np.ones((1, 2)), var_names=["a", "a"]), ["a"])


def test_a_mean_of_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="2 genes"):
        tokenize(np.ones((1, 2)), np.ones(3), 2)


def test_context_comes_first_and_the_last_genes_are_lost():
    tokens = np.array([[40, 41, 42, 43, 44], [50, 0, 0, 0, 0]], dtype=np.int32)
    context = [[6, 9, 4], [5, 7, 4]]
    assert assemble(tokens, context, 5).tolist() == [[6, 9, 4, 40, 41], [5, 7, 4, 50, 0]]
    assert assemble(tokens, [6, 9, 4], 5, assay=False).tolist() == [[6, 4, 40, 41, 42], [6, 4, 50, 0, 0]]
    bare = assemble(tokens, [6, 9, 4], 5, specie=False, assay=False, modality=False)
    assert bare.tolist() == tokens.tolist() and bare.dtype == np.int32


def test_sequences_too_short_for_the_model_are_refused():
    tokens = np.zeros((1, 4), dtype=np.int32)
    assert assemble(tokens, [6, 9, 4], 7).shape == (1, 7)
    with pytest.raises(UserError, match=r"max_seq_len.*context_length 8"):
        assemble(tokens, [6, 9, 4], 8)
