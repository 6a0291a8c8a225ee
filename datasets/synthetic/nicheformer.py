"""A made-up spatial study of the mouse brain in three hospitals, with the reference files NicheFormer needs.

Every cell type has a programme of marker genes, shared in part with its neighbours in the list. On top of it come what
makes real studies hard: each site measures each gene with its own efficiency, donors and cells differ in depth, and
hospitals see the cell types in different proportions. A fourth donor from a fourth site is held out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from core.errors import UserError
from core.files import atomic, make_folder, refuse_occupied, write_text
from core.randomness import generator

NEXT = "python compare.py configs/nicheformer.yaml options.data={directory}"

CELL_TYPES = ("astrocyte", "endothelial cell", "excitatory neuron", "inhibitory neuron", "microglia", "oligodendrocyte")
PROPORTIONS: Mapping[str, tuple[float, ...]] = {
    "hospital_north": (0.24, 0.04, 0.26, 0.22, 0.20, 0.04),
    "hospital_south": (0.04, 0.22, 0.20, 0.04, 0.24, 0.26),
    "hospital_west": (0.22, 0.26, 0.04, 0.22, 0.04, 0.22),
}
SECTIONS = {"train": 4, "val": 1, "test": 1}
HELD_OUT_SECTIONS = 3

N_VOCABULARY = 594
N_MOUSE_ONLY = 6
N_PANEL = 120
N_OTHER_MEASURED = 80

N_MARKERS = 10
MARKER_FOLD = 5.0
SHARED_FOLD = 1.6
SITE_SPREAD = 0.6
DEPTH = 90.0
DEPTH_SPREAD = 0.45
DISPERSION = 3.0
SECTION_WIDTH = 2000.0


@dataclass(frozen=True)
class Panel:
    """The genes of the study and how the cell types express them.

    Attributes:
        names: Mouse gene ids, in column order.
        human: Vocabulary id of each.
        base: Share of each gene in an average cell, shape [genes].
        programmes: Share of each gene in each cell type, shape [types, genes].
    """

    names: tuple[str, ...]
    human: tuple[str, ...]
    base: npt.NDArray[np.float64]
    programmes: npt.NDArray[np.float64]


def make(directory: Path, seed: int = 0, cells_per_section: int = 150) -> None:
    """Write a study: `clients/<name>/{train,val,test}.h5ad`, `held_out.h5ad` and `reference/`.

    Sections, not cells, are divided among the splits. Counts are raw, float32, CSR; gene ids are mouse Ensembl ids
    that `reference/orthologs.csv` translates.

    Args:
        directory: A folder that is missing or empty.
        seed: The same seed gives the same study.
        cells_per_section: Cells in each of the 21 sections.

    Raises:
        UserError: The folder holds something, cannot be written to, or there are too few cells per section.
    """
    refuse_occupied(directory)
    if cells_per_section < len(CELL_TYPES):
        raise UserError(f"cells_per_section: {cells_per_section} is too few; give at least {len(CELL_TYPES)}")
    panel = _write_reference(directory / "reference", seed)
    for client, proportions in PROPORTIONS.items():
        efficiency_V = _efficiency(seed, client)
        first = 0
        for split, number in SECTIONS.items():
            sections = range(first, first + number)
            cells = [_section(panel, efficiency_V, proportions, seed, client, s, cells_per_section) for s in sections]
            _write(ad.concat(cells, merge="same"), directory / "clients" / client / f"{split}.h5ad")
            first += number
    even = (1 / len(CELL_TYPES),) * len(CELL_TYPES)
    site = "hospital_east"
    efficiency_V = _efficiency(seed, site)
    cells = [
        _section(panel, efficiency_V, even, seed, site, number, cells_per_section)
        for number in range(HELD_OUT_SECTIONS)
    ]
    _write(ad.concat(cells, merge="same"), directory / "held_out.h5ad")


def _write_reference(folder: Path, seed: int) -> Panel:
    random = generator(seed, "reference")
    human = sorted(f"ENSG{number:011d}" for number in random.choice(10**6, N_VOCABULARY, replace=False))
    mouse = sorted(f"ENSMUSG{number:011d}" for number in random.choice(10**5, N_PANEL, replace=False))
    kept = set(random.choice(mouse, N_MOUSE_ONLY, replace=False).tolist())
    vocabulary = [*human, *sorted(kept)]
    partners = iter(random.choice(human, N_PANEL - N_MOUSE_ONLY, replace=False).tolist())
    orthologs = {name: name if name in kept else next(partners) for name in mouse}
    order = [str(name) for name in random.permutation(mouse)]
    base_V = random.lognormal(0.0, 0.8, N_PANEL)
    panel = Panel(
        names=tuple(order),
        human=tuple(orthologs[name] for name in order),
        base=base_V / base_V.sum(),
        programmes=_programmes(base_V, random),
    )
    tokens = {name: place + 30 for place, name in enumerate(vocabulary)}
    rows = [f"{name},{target},{tokens[target]}" for name, target in orthologs.items()]
    header = "mouse_ensembl_gene_id,vocabulary_gene_id,token_id"
    write_text(folder / "orthologs.csv", "\n".join([header, *rows]) + "\n")
    dummy = ad.AnnData(
        sp.csr_matrix(np.zeros((1, len(vocabulary)), dtype=np.float32)), var=pd.DataFrame(index=vocabulary)
    )
    _write(dummy, folder / "model.h5ad")
    with atomic(folder / "xenium_mean_script.npy") as temporary:
        np.save(temporary, _technology_mean(vocabulary, panel, random))
    return panel


def _programmes(base_V: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Give the share of each gene in each cell type: own markers, and weakly those of the next type in the list."""
    markers_KM = random.permutation(N_PANEL)[: len(CELL_TYPES) * N_MARKERS].reshape(len(CELL_TYPES), N_MARKERS)
    programmes_KV = np.tile(base_V, (len(CELL_TYPES), 1))
    for kind, markers in enumerate(markers_KM):
        programmes_KV[kind, markers] *= MARKER_FOLD
        programmes_KV[kind, markers_KM[(kind + 1) % len(CELL_TYPES)]] *= SHARED_FOLD
    return np.asarray(programmes_KV / programmes_KV.sum(axis=1, keepdims=True))


def _technology_mean(vocabulary: list[str], panel: Panel, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Give means over an average tissue; NaN for most genes, and for one of the panel, as in the published file."""
    mean_G = np.full(len(vocabulary), np.nan)
    others = random.choice(len(vocabulary), N_OTHER_MEASURED, replace=False)
    mean_G[others] = random.uniform(48, 975, N_OTHER_MEASURED)
    index = {name: place for place, name in enumerate(vocabulary)}
    mean_G[[index[name] for name in panel.human]] = 10_000 * panel.base
    mean_G[index[panel.human[int(panel.base.argmin())]]] = np.nan
    return mean_G


def _efficiency(seed: int, site: str) -> npt.NDArray[np.float64]:
    return generator(seed, "site", site).lognormal(0.0, SITE_SPREAD, N_PANEL)


def _section(
    panel: Panel,
    efficiency_V: npt.NDArray[np.float64],
    proportions: tuple[float, ...],
    seed: int,
    site: str,
    number: int,
    size: int,
) -> ad.AnnData:
    random = generator(seed, "section", site, number)
    kinds = _kinds(proportions, size, random)
    shares = panel.programmes[kinds] * efficiency_V
    depth = DEPTH * random.lognormal(0.0, DEPTH_SPREAD, size)
    expected = shares / shares.sum(axis=1, keepdims=True) * depth[:, None]
    counts = random.poisson(expected * random.gamma(DISPERSION, 1 / DISPERSION, expected.shape))
    x, y = _positions(kinds, random)
    obs = pd.DataFrame(
        {
            "specie": pd.Categorical(["mouse"] * size),
            "assay": pd.Categorical(["Xenium"] * size),
            "modality": pd.Categorical(["spatial"] * size),
            "cell_type": pd.Categorical([CELL_TYPES[kind] for kind in kinds]),
            "donor_id": pd.Categorical([f"donor_{site.removeprefix('hospital_')}"] * size),
            "library_key": pd.Categorical([f"{site}_section_{number}"] * size),
            "x": x,
            "y": y,
        },
        index=[f"{site}_s{number}_c{cell:04d}" for cell in range(size)],
    )
    return ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=list(panel.names)))


def _kinds(proportions: tuple[float, ...], size: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the cell types of a section, the two commonest at least once so that no client has a single class."""
    kinds = random.choice(len(CELL_TYPES), size, p=proportions)
    kinds[:2] = np.argsort(proportions)[-2:]
    return np.asarray(random.permutation(kinds), dtype=np.int64)


def _positions(
    kinds: npt.NDArray[np.int64], random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Place each cell type around a centre of its own, in micrometres."""
    centres_K2 = random.uniform(0.2 * SECTION_WIDTH, 0.8 * SECTION_WIDTH, (len(CELL_TYPES), 2))
    places = centres_K2[kinds] + random.normal(0.0, 0.15 * SECTION_WIDTH, (len(kinds), 2))
    places = np.clip(places, 0, SECTION_WIDTH)
    return places[:, 0], places[:, 1]


def _write(cells: ad.AnnData, path: Path) -> None:
    make_folder(path.parent)
    with atomic(path) as temporary:
        cells.write_h5ad(temporary)
