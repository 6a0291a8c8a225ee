"""Ways to spoil a copy of the small study, each a function of its folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch

from models.nicheformer import NicheFormer
from models.nicheformer_shape import HyperParameters

Spoil = Callable[[Path], object]

TRAIN, VAL, TEST = (f"clients/hospital_north/{split}.h5ad" for split in ("train", "val", "test"))
SOUTH = "clients/hospital_south"
HELD_OUT = "held_out.h5ad"
GENES = 600
"""Vocabulary of the small study."""


def nothing(study: Path) -> None:
    pass


def edited(name: str, change: Callable[[ad.AnnData], object]) -> Spoil:
    """Rewrite one file after a change in place."""

    def spoil(study: Path) -> None:
        cells = ad.read_h5ad(study / name)
        change(cells)
        cells.write_h5ad(study / name)

    return spoil


def count(name: str, value: float) -> Spoil:
    """Put a value among the counts."""

    def change(cells: ad.AnnData) -> None:
        cells.X.data[5] = value

    return edited(name, change)


def log_normalised(cells: ad.AnnData) -> None:
    cells.X = cells.X.multiply(1e4 / np.maximum(cells.X.sum(axis=1), 1)).tocsr().log1p()


def genes(name: str, rename: Callable[[list[str]], list[str]]) -> Spoil:
    def change(cells: ad.AnnData) -> None:
        cells.var_names = rename(list(cells.var_names))

    return edited(name, change)


def column(name: str, key: str, value: str, *, everywhere: bool = False) -> Spoil:
    """Set an obs column of the first cell, or of all cells."""

    def change(cells: ad.AnnData) -> None:
        values = cells.obs[key].astype(str).to_numpy(dtype=object)
        values[: None if everywhere else 1] = value
        cells.obs[key] = pd.Categorical(values)

    return edited(name, change)


def no_column(name: str, key: str) -> Spoil:
    return edited(name, lambda cells: cells.obs.drop(columns=key, inplace=True))


def damaged_column(study: Path) -> None:
    with h5py.File(study / TRAIN, "r+") as file:
        del file["obs/cell_type/codes"]


def same_cell(source: str, target: str) -> Spoil:
    """Put the first cell of one file into another one too."""

    def spoil(study: Path) -> None:
        first, second = (ad.read_h5ad(study / name) for name in (source, target))
        ad.concat([second, first[:1]], merge="same").write_h5ad(study / target)

    return spoil


def shared_donor(study: Path) -> None:
    """Give every file a donor of its own, but one donor to two clients."""
    for path in sorted(study.glob("clients/*/*.h5ad")):
        client, split = path.parent.name, path.stem
        donor = "the same" if split == "val" and client != "hospital_west" else f"{client} {split}"
        column(str(path), "donor_id", donor, everywhere=True)(study)


def cut(name: str) -> Spoil:
    def spoil(study: Path) -> None:
        content = (study / name).read_bytes()
        (study / name).write_bytes(content[: len(content) // 2])

    return spoil


def holding(name: str, content: bytes) -> Spoil:
    return lambda study: (study / name).write_bytes(content)


def without(name: str) -> Spoil:
    return lambda study: (study / name).unlink()


def renamed(name: str, other: str) -> Spoil:
    return lambda study: (study / name).rename(study / other)


def gone(study: Path) -> None:
    shutil.rmtree(study)


def short_mean(study: Path) -> None:
    np.save(study / "reference" / "xenium_mean_script.npy", np.ones(7))


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


def checkpoint(n_genes: int = GENES, *, bomb: bool = False) -> Spoil:
    """Write `weights.ckpt`; the bomb in it leaves `exploded` beside it."""
    shape = HyperParameters(
        dim_model=16, nheads=2, dim_feedforward=16, nlayers=1, n_tokens=n_genes + 30, context_length=16
    )

    def spoil(study: Path) -> None:
        stated: dict[str, Any] = {**shape.model_dump(), **({"extra": Bomb(study / "exploded")} if bomb else {})}
        content = {"state_dict": NicheFormer(shape).state_dict(), "hyper_parameters": stated}
        torch.save(content, study / "weights.ckpt")

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(study: Path) -> None:
        for one in spoils:
            one(study)

    return spoil
