"""What NicheFormer calls things: its gene vocabulary, technology means, ortholog tables and context tokens.

The ids follow the tokens of NicheFormer (Tejada-Lapuerta et al., `theislab/nicheformer`), with one correction: id 9
is Xenium, although several of the official tables say "visium".
"""

import csv
import functools
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt

from core.errors import UserError

ContextKind = Literal["specie", "assay", "modality"]
Rounding = Literal["prepared", "unrounded"]

MODALITIES: Mapping[str, int] = {"dissociated": 3, "spatial": 4}
SPECIES: Mapping[str, int] = {
    "human": 5,
    "Homo sapiens": 5,
    "NCBITaxon:9606": 5,
    "mouse": 6,
    "Mus musculus": 6,
    "NCBITaxon:10090": 6,
}
ASSAYS: Mapping[str, int] = {
    "MERFISH": 7,
    "CosMx": 8,
    "NanoString digital spatial profiling": 8,
    "Xenium": 9,
    "10x 5' v2": 10,
    "10x 3' v3": 11,
    "10x 3' v2": 12,
    "10x 5' v1": 13,
    "10x 3' v1": 14,
    "10x 3' transcription profiling": 15,
    "10x transcription profiling": 15,
    "10x 5' transcription profiling": 16,
    "CITE-seq": 17,
    "Smart-seq v4": 18,
}
CONTEXT: Mapping[ContextKind, Mapping[str, int]] = {"specie": SPECIES, "assay": ASSAYS, "modality": MODALITIES}


def context_id(kind: ContextKind, value: int | str) -> int:
    """Give the token id of a species, assay or modality.

    Args:
        kind: Which of the three context tokens.
        value: A token id (a number, or digits), or a name in any case, e.g. `"Xenium"` or `"NCBITaxon:10090"`.

    Raises:
        UserError: The id or name is not one of this kind.
    """
    table = CONTEXT[kind]
    number = _as_integer(value)
    if number is None:
        number = {name.casefold(): id_ for name, id_ in table.items()}.get(str(value).strip().casefold())
    if number is None or number not in table.values():
        known = ", ".join(f"{name!r} ({id_})" for name, id_ in table.items())
        raise UserError(f"{kind}: {value!r} is not a known {kind}; give one of {known}")
    return number


def _as_integer(value: int | str) -> int | None:
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() else None
    try:
        return None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        return None


@dataclass(frozen=True)
class Vocabulary:
    """The gene names a model knows, in token order: the token of gene g is g + 30.

    Attributes:
        names: Ensembl ids, each once.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a name that is listed twice."""
        if len(self.index) != len(self.names):
            twice = next(name for place, name in enumerate(self.names) if self.index[name] != place)
            raise UserError(f"vocabulary: gene {twice!r} is listed twice; every gene must have one token")

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """Gene name to place in `names`."""
        return {name: place for place, name in enumerate(self.names)}

    def __len__(self) -> int:
        """Count the genes."""
        return len(self.names)

    @classmethod
    def of(cls, names: "Vocabulary | Sequence[str]") -> "Vocabulary":
        """Take a vocabulary as it is, or make one of names in token order."""
        return names if isinstance(names, Vocabulary) else cls(tuple(str(name) for name in names))

    @classmethod
    def read(cls, path_h5ad: Path) -> "Vocabulary":
        """Read the names from the `var` index of an h5ad file, as NicheFormer ships them in `model.h5ad`.

        Raises:
            UserError: The file is missing, is not an h5ad file or holds no names.
        """
        if not path_h5ad.is_file():
            raise UserError(
                f"{path_h5ad}: no such file; put NicheFormer's vocabulary there, or set reference to its folder"
            )
        try:
            with h5py.File(path_h5ad, "r") as file:
                var = file["var"]
                names = tuple(var[str(var.attrs.get("_index", "_index"))].asstr()[:])
        except (OSError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path_h5ad}: no gene names in /var; give the vocabulary, `model.h5ad`") from error
        if not names:
            raise UserError(f"{path_h5ad}: /var is empty; give the vocabulary, NicheFormer's `model.h5ad`")
        return cls(names)


def read_technology_mean(path: Path, size: int) -> npt.NDArray[np.float64]:
    """Read the mean expression of every vocabulary gene in one technology, NaN where it was never measured.

    Args:
        path: A `.npy` file such as `xenium_mean_script.npy`.
        size: Number of genes of the vocabulary.

    Returns:
        Float64 array of shape [size], as stored.

    Raises:
        UserError: The file is missing, is not an array of numbers, or does not fit the vocabulary.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; put the technology mean there, or set technology to one that is there")
    try:
        mean_G: npt.NDArray[np.float64] = np.load(path).astype(np.float64)
    except (ValueError, TypeError, EOFError, OSError, AttributeError) as error:
        raise UserError(f"{path}: not a .npy file of numbers; give the technology mean of the assay") from error
    if mean_G.shape != (size,):
        raise UserError(
            f"{path}: shape {mean_G.shape}, but the vocabulary has {size} genes; use mean and vocabulary of one model"
        )
    if np.isinf(mean_G).any() or np.isnan(mean_G).all():
        raise UserError(f"{path}: infinite values or none at all; restore the technology mean")
    return mean_G


def prepare_mean(mean_G: npt.NDArray[np.float64], rounding: Rounding) -> npt.NDArray[np.float64]:
    """Make a technology mean fit to divide by; the array given is left as it was.

    Args:
        mean_G: Means as published, shape [genes]; NaN for genes that were never measured.
        rounding: `"prepared"` rounds half up, as done for the training corpus; `"unrounded"` keeps the decimals.

    Returns:
        New float64 array of shape [genes], without NaN and without 0: both become 1. Negative means are kept, as the
        published weights were trained with them; they put an expressed gene behind all others, hence a warning.
    """
    result_G = np.nan_to_num(np.asarray(mean_G, dtype=np.float64), nan=0.0)
    if rounding == "prepared":
        result_G = np.floor(result_G + 0.5)
    result_G[result_G == 0] = 1.0
    if negative := int((result_G < 0).sum()):
        warnings.warn(
            f"technology mean: {negative} genes have a negative mean; where expressed, they rank behind all others",
            stacklevel=2,
        )
    return result_G


@dataclass(frozen=True)
class Orthologs:
    """Which vocabulary gene stands for a gene of another species.

    Attributes:
        table: Source gene id to vocabulary gene id.
    """

    table: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "Orthologs":
        """Read a CSV file with a header: source id first, vocabulary id second, further columns unused.

        A source id listed more than once keeps its first row.

        Raises:
            UserError: The file is missing, has fewer than two columns or no rows.
        """
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                rows = [row for row in csv.reader(stream) if row]
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; set orthologs to a CSV file of source id, vocabulary id") from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: not a readable CSV file ({error}); give the ortholog table as CSV") from error
        if len(rows) < 2 or any(len(row) < 2 for row in rows):
            raise UserError(f"{path}: needs a header and rows of source id, vocabulary id; check the separator")
        table: dict[str, str] = {}
        for source, target, *_ in rows[1:]:
            table.setdefault(source.strip(), target.strip())
        return cls(table)

    def translate(self, names: Sequence[str]) -> list[str]:
        """Replace the names that the table lists; others stay as they are."""
        return [self.table.get(name, name) for name in names]
