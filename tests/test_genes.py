"""Vocabulary, technology means, orthologs, context tokens and the match between a file and the vocabulary."""

import pickle

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

from core.errors import UserError
from datasets.gene_match import GeneMatch, match_genes, vocabulary_columns
from datasets.genes import Orthologs, Vocabulary, context_id, prepare_mean, read_technology_mean

HUMAN = [f"ENSG{number:011d}" for number in range(40)]
MOUSE = [f"ENSMUSG{number:011d}" for number in range(40)]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("specie", "Homo sapiens", 5),
        ("specie", "MOUSE", 6),
        ("specie", "ncbitaxon:10090", 6),
        ("specie", 5, 5),
        ("specie", np.int64(6), 6),
        ("assay", "xenium", 9),
        ("assay", "nanostring digital SPATIAL profiling", 8),
        ("assay", "10x 3' v3", 11),
        ("assay", "9", 9),
        ("modality", " spatial ", 4),
        ("modality", "dissociated", 3),
    ],
)
def test_context_ids(kind, value, expected):
    assert context_id(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("assay", "visium"),
        ("assay", "ISS"),
        ("specie", 9),
        ("modality", 5),
        ("specie", "rat"),
        ("assay", 19),
        ("assay", True),
    ],
)
def test_unknown_or_misplaced_context_is_refused_with_the_known_names(kind, value):
    known = {"assay": "MERFISH", "specie": "Mus musculus", "modality": "dissociated"}[kind]
    with pytest.raises(UserError, match=rf"^{kind}: .*{known}") as caught:
        context_id(kind, value)
    assert "\n" not in str(caught.value)


def test_vocabulary_honours_the_index_attribute(tmp_path):
    path = tmp_path / "model.h5ad"
    ad.AnnData(np.zeros((1, 3)), var=pd.DataFrame(index=pd.Index(["g2", "g0", "g1"], name="ensembl"))).write_h5ad(path)
    with h5py.File(path) as file:
        assert file["var"].attrs["_index"] == "ensembl"
    vocabulary = Vocabulary.read(path)
    assert vocabulary.names == ("g2", "g0", "g1") and vocabulary.index == {"g2": 0, "g0": 1, "g1": 2}
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary


def test_unusable_vocabularies_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Vocabulary.read(tmp_path / "none.h5ad")
    text = tmp_path / "text.h5ad"
    text.write_text("genes")
    with pytest.raises(UserError, match=r"text\.h5ad: no gene names"):
        Vocabulary.read(text)
    with pytest.raises(UserError, match="'a' is listed twice"):
        Vocabulary(("a", "b", "a"))


def test_technology_mean_by_hand_and_negative_means_warn():
    raw = np.array([np.nan, 0.0, 0.49, 0.5, 2.5, -3.5])
    with pytest.warns(UserWarning, match="1 genes have a negative mean"):
        prepared = prepare_mean(raw, "prepared")
    assert prepared.tolist() == [1, 1, 1, 1, 3, -3]
    with pytest.warns(UserWarning, match="negative"):
        assert prepare_mean(raw, "unrounded").tolist() == [1, 1, 0.49, 0.5, 2.5, -3.5]
    np.testing.assert_array_equal(raw, [np.nan, 0.0, 0.49, 0.5, 2.5, -3.5])


def test_technology_mean_files(tmp_path):
    path = tmp_path / "mean.npy"
    np.save(path, np.array([1.0, np.nan]))
    np.testing.assert_array_equal(read_technology_mean(path, 2), [1.0, np.nan])
    with pytest.raises(UserError, match="the vocabulary has 3 genes"):
        read_technology_mean(path, 3)
    with pytest.raises(UserError, match="no such file"):
        read_technology_mean(tmp_path / "other.npy", 2)
    path.write_text("not an array")
    with pytest.raises(UserError, match=r"not a \.npy file"):
        read_technology_mean(path, 2)
    np.save(path, np.array([np.inf, 1.0]))
    with pytest.raises(UserError, match="infinite"):
        read_technology_mean(path, 2)
    np.save(path, np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a \.npy file"):
        read_technology_mean(path, 2)


def test_orthologs_first_row_wins_and_unknown_names_stay(tmp_path):
    path = tmp_path / "orthologs.csv"
    path.write_text("mouse,human,token\nm1,h1,30\nm2,h2,31\nm1,h3,32\n")
    assert Orthologs.read(path).translate(["m2", "m1", "x"]) == ["h2", "h1", "x"]


@pytest.mark.parametrize("text", ["", "mouse,human\n", "mouse\nm1\n"])
def test_unusable_ortholog_tables_are_refused(tmp_path, text):
    path = tmp_path / "orthologs.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"orthologs\.csv: needs a header"):
        Orthologs.read(path)


def test_match_counts_total_matched_and_translated():
    vocabulary = Vocabulary((*HUMAN[:20], *MOUSE[:2]))
    orthologs = Orthologs({MOUSE[number]: HUMAN[number] for number in range(15)})
    names = [*MOUSE[:15], "outside 1", "outside 2"]
    assert match_genes(names, vocabulary, orthologs, source="f") == GeneMatch(total=17, matched=15, translated=13)


def test_a_shared_ortholog_goes_to_the_direct_name_then_to_the_first_column():
    vocabulary = Vocabulary(("h1", "h2"))
    orthologs = Orthologs({"m1": "h1", "m2": "h2", "m3": "h2"})
    assert vocabulary_columns(["m1", "m2", "h1", "m3"], vocabulary, orthologs).tolist() == [-1, 1, 0, -1]
    with pytest.warns(UserWarning, match="2 genes share a vocabulary gene"):
        match_genes(["m1", "m2", "h1", "m3"], vocabulary, orthologs, source="f", minimum=2)


@pytest.mark.parametrize(
    ("names", "orthologs", "remedy"),
    [
        (MOUSE, None, "give an ortholog table"),
        (MOUSE, Orthologs({"a": "b"}), "use another ortholog table"),
        ([f"{name}.4" for name in HUMAN], None, "remove the version suffix"),
        ([str(number) for number in range(40)], None, "use Ensembl gene ids"),
        ([*HUMAN[:19], *MOUSE[:21]], None, "19 of 40 genes are in the vocabulary, 20 needed"),
        (HUMAN[:9], None, "9 of 9 genes are in the vocabulary, 10 needed"),
    ],
)
def test_files_with_few_known_genes_are_refused(names, orthologs, remedy):
    with pytest.raises(UserError, match=remedy) as caught:
        match_genes(names, Vocabulary(tuple(HUMAN)), orthologs, source="cells.h5ad")
    assert str(caught.value).startswith("cells.h5ad: var_names: ") and "\n" not in str(caught.value)


def test_the_number_of_genes_needed_can_be_set():
    vocabulary = Vocabulary(tuple(HUMAN))
    assert match_genes(HUMAN[:9], vocabulary, source="f", minimum=9).matched == 9
    with pytest.raises(UserError, match="min_matched_genes"):
        match_genes(HUMAN, vocabulary, source="f", minimum=41)


def test_whole_transcriptomes_need_five_thousand_genes():
    known = tuple(f"ENSG{number:011d}" for number in range(5000))
    unknown = [f"ENSG{number:011d}" for number in range(10**6, 10**6 + 40_000)]
    assert match_genes([*known, *unknown], Vocabulary(known), source="f").matched == 5000


def test_absent_and_repeated_gene_ids_are_refused():
    with pytest.raises(UserError, match="no genes"):
        match_genes([], Vocabulary(("a",)), source="f")
    with pytest.raises(UserError, match="gene 'b' occurs twice"):
        match_genes(["a", "b", "b"], Vocabulary(("a",)), source="f")
