"""Small studies of single cells for the tests."""

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from datasets.cells import Study

GENES = [f"ENSMUSG{number:011d}" for number in range(12)]
PLAIN = {
    "client_key": None,
    "split_key": "nicheformer_split",
    "unit_key": None,
    "held_out": None,
    "seed": 1,
    "blocks": None,
}


def made(cells, *, prefix="c", seed=0, dense=False, **obs):
    random = np.random.default_rng(seed)
    counts = random.poisson(1.0, (cells, len(GENES))).astype(np.float32)
    table = pd.DataFrame({"cell_type": ["a", "b"] * (cells // 2) + ["a"] * (cells % 2), **obs})
    table.index = [f"{prefix}{number}" for number in range(cells)]
    return ad.AnnData(counts if dense else sp.csr_matrix(counts), obs=table, var=pd.DataFrame(index=GENES))


def written(folder, clients=("south", "north")):
    for place, client in enumerate(clients):
        for step, split in enumerate(("train", "val", "test")):
            path = folder / "clients" / client / f"{split}.h5ad"
            path.parent.mkdir(parents=True, exist_ok=True)
            cells = made(6 + step, prefix=f"{client}-{split}-", seed=3 * place + step, library_key=f"{client}{step}")
            cells.write_h5ad(path)
    made(5, prefix="outside-", seed=99, library_key="x").write_h5ad(folder / "held_out.h5ad")
    return folder


def one_file(path, *, clients=3, sections=4, per_section=10, **columns):
    n = clients * sections * per_section
    random = np.random.default_rng(5)
    cell = np.arange(n)
    obs = {
        "donor_id": [f"d{number // (sections * per_section)}" for number in cell],
        "library_key": [f"s{number // per_section}" for number in cell],
        "x": random.uniform(0, 100, n),
        "y": random.uniform(0, 100, n),
        **columns,
    }
    adata = made(n, **obs)
    order = random.permutation(n)
    adata[order].copy().write_h5ad(path)
    return path


def all_counts(cells, size=3):
    return sp.vstack(list(cells.chunks(size))).toarray()


def whole(path):
    return Study.open(path, **{**PLAIN, "client_key": "donor_id", "unit_key": "library_key"})
