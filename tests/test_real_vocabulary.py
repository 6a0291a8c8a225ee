"""The published vocabulary and Xenium means against recorded tokens of the 248 genes of the mouse-brain panel.

The files are too large to be kept here: these tests exist where NICHEFORMER_REFERENCE names their folder.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from datasets.gene_match import GeneMatch, match_genes, vocabulary_columns
from datasets.genes import Orthologs, Vocabulary, prepare_mean, read_technology_mean
from datasets.nicheformer import ranked, select_columns, tokenize

REFERENCE = Path(os.environ.get("NICHEFORMER_REFERENCE", "not given"))
RECORDED = Path(__file__).parent / "fixtures" / "nicheformer" / "tokenization_real_vocabulary.npz"

if (REFERENCE / "model.h5ad").exists():

    @pytest.fixture(scope="module")
    def vocabulary():
        return Vocabulary.read(REFERENCE / "model.h5ad")

    @pytest.fixture(scope="module")
    def orthologs():
        return Orthologs.read(REFERENCE / "xenium_mouse_brain_panel_orthologs.csv")

    def test_vocabulary_is_sorted_human_then_mouse(vocabulary):
        assert len(vocabulary) == 20310
        assert list(vocabulary.names) == sorted(vocabulary.names)
        assert sum(name.startswith("ENSMUSG") for name in vocabulary.names) == 151

    def test_every_gene_of_the_mouse_panel_has_a_token_and_all_but_one_a_mean(vocabulary, orthologs):
        panel = list(orthologs.table)
        assert match_genes(panel, vocabulary, orthologs, source="panel") == GeneMatch(248, 248, 242)
        mean = read_technology_mean(REFERENCE / "xenium_mean_script.npy", len(vocabulary))
        measured = ~np.isnan(mean[vocabulary_columns(panel, vocabulary, orthologs)])
        assert measured.sum() == 247 and (~np.isnan(mean)).sum() == 1735

    def test_merfish_has_48_negative_means(vocabulary):
        mean = read_technology_mean(REFERENCE / "merfish_mean_script.npy", len(vocabulary))
        with pytest.warns(UserWarning, match="48 genes have a negative mean"):
            prepare_mean(mean, "prepared")

    def test_recorded_tokens(vocabulary, orthologs):
        with np.load(RECORDED) as stored:
            recorded = dict(stored)
        names = recorded["source_genes"].tolist()
        assert orthologs.translate(names) == recorded["vocabulary_genes"].tolist()
        parts = (recorded["counts_data"], recorded["counts_indices"], recorded["counts_indptr"])
        counts = sp.csr_matrix(parts, shape=tuple(recorded["counts_shape"]))
        mean = prepare_mean(read_technology_mean(REFERENCE / "xenium_mean_script.npy", len(vocabulary)), "prepared")
        aligned = select_columns(counts, vocabulary_columns(names, vocabulary, orthologs), len(vocabulary))
        np.testing.assert_array_equal(tokenize(aligned, mean, 1500), recorded["tokens_prepared"])
        scores, rows, places, _ = ranked(aligned, mean)
        emitted = np.full((len(counts.indptr) - 1, 1500), np.nan)
        emitted[rows, places] = scores
        np.testing.assert_allclose(emitted, recorded["emitted_scores_prepared"], rtol=1e-9)
