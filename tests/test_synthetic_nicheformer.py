"""The made-up study: real formats, a signal that pooling finds, and hospitals that differ."""

import anndata as ad
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from datasets.cells import Study
from datasets.gene_match import GeneMatch, match_genes
from datasets.genes import Orthologs, Vocabulary, context_id, prepare_mean, read_technology_mean
from datasets.leakage import check_disjoint
from datasets.synthetic.nicheformer import CELL_TYPES, make
from datasets.token_cache import tokens

CLIENTS = ["hospital_north", "hospital_south", "hospital_west"]
OPTIONS = {"client_key": None, "split_key": "nicheformer_split", "held_out": None, "seed": 0, "blocks": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("study") / "data"
    make(target, cells_per_section=60)
    return target


@pytest.fixture(scope="module")
def study(folder):
    return Study.open(folder, unit_key="library_key", **OPTIONS)


def _expression(path):
    adata = ad.read_h5ad(path)
    counts = adata.X.toarray()
    return np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * 100), adata.obs["cell_type"].astype(str)


def _macro_f1(folder, clients):
    features, labels = zip(*(_expression(folder / "clients" / name / "train.h5ad") for name in clients), strict=True)
    model = LogisticRegression(C=0.05, max_iter=500).fit(np.concatenate(features), np.concatenate(labels))
    x, y = _expression(folder / "held_out.h5ad")
    return f1_score(y, model.predict(x), average="macro", labels=CELL_TYPES)


def test_it_is_a_study_of_three_clients_without_leaks(study):
    assert study.clients == CLIENTS
    assert [len(study.cells("hospital_west", split)) for split in ("train", "val", "test")] == [240, 60, 60]
    assert len(study.held_out) == 180
    check_disjoint(study.members("library_key"), "study")
    donors = {name: set(study.cells(name, "train").column("donor_id")) for name in CLIENTS}
    assert all(len(donor) == 1 for donor in donors.values()) and len(set.union(*donors.values())) == 3
    assert not set(study.held_out.column("donor_id")) & set.union(*donors.values())


def test_context_columns_are_known_names(study):
    cells = study.cells("hospital_north", "train")
    ids = [context_id(kind, cells.column(kind)[0]) for kind in ("specie", "assay", "modality")]
    assert ids == [6, 9, 4]
    assert np.isfinite(cells.column("x")).all() and np.isfinite(cells.column("y")).all()


def test_reference_files_fit_the_panel(folder, study):
    vocabulary = Vocabulary.read(folder / "reference" / "model.h5ad")
    orthologs = Orthologs.read(folder / "reference" / "orthologs.csv")
    mean = read_technology_mean(folder / "reference" / "xenium_mean_script.npy", len(vocabulary))
    assert list(vocabulary.names) == sorted(vocabulary.names) and len(vocabulary) == 600
    cells = study.cells("hospital_south", "val")
    match = match_genes(cells.var_names, vocabulary, orthologs, source="panel", minimum=120)
    assert match == GeneMatch(total=120, matched=120, translated=114)
    assert 100 < np.isnan(mean).sum() < 600
    made = tokens(cells, vocabulary, prepare_mean(mean, "prepared"), orthologs=orthologs, max_seq_len=64, folder=None)
    assert made.shape == (60, 64) and (made[:, :10] >= 30).all() and made.max() < 630


def test_every_class_is_rare_somewhere_and_present_elsewhere(study):
    shares = {}
    for client in CLIENTS:
        labels = study.cells(client, "train").column("cell_type")
        shares[client] = {kind: float((labels == kind).mean()) for kind in CELL_TYPES}
        assert 1 <= sum(share < 0.08 for share in shares[client].values()) <= 2
    assert all(max(shares[client][kind] for client in CLIENTS) > 0.15 for kind in CELL_TYPES)


def test_counts_are_raw_and_depth_varies(folder):
    adata = ad.read_h5ad(folder / "clients" / "hospital_north" / "train.h5ad")
    assert adata.X.dtype == np.float32 and (adata.X.data % 1 == 0).all() and adata.X.data.min() > 0
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    assert depth.min() > 0 and depth.std() / depth.mean() > 0.3


def test_a_linear_model_learns_more_from_the_pool_than_from_one_hospital(folder):
    pooled = _macro_f1(folder, CLIENTS)
    alone = [_macro_f1(folder, [client]) for client in CLIENTS]
    assert 0.8 < pooled < 0.96
    assert all(0.4 < figure < 0.78 for figure in alone) and max(alone) < pooled - 0.1


def test_the_seed_decides_the_panel(tmp_path, folder):
    make(tmp_path / "other", seed=1, cells_per_section=6)
    for name in ("held_out.h5ad", "reference/model.h5ad"):
        here, other = (ad.read_h5ad(path / name) for path in (folder, tmp_path / "other"))
        assert not here.var_names.equals(other.var_names)
