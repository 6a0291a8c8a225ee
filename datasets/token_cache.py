"""Tokens made once and kept on disk, under a name that is the hash of all they are made from."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from core.files import atomic, make_folder
from datasets.cells import Cells
from datasets.gene_match import vocabulary_columns
from datasets.genes import Orthologs, Vocabulary
from datasets.nicheformer import select_columns, tokenize

CHUNK = 1000
VERSION = 1
"""Raised whenever the same input would give other tokens, so that old files are not used."""


def tokens(
    cells: Cells,
    vocabulary: Vocabulary,
    mean_G: npt.NDArray[np.float64],
    *,
    orthologs: Orthologs | None,
    max_seq_len: int,
    folder: Path | None,
) -> npt.NDArray[np.int32]:
    """Give the gene tokens of cells, from the cache where they are there already.

    Args:
        cells: The cells.
        vocabulary: The model's genes.
        mean_G: Technology mean, prepared.
        orthologs: Table for genes of another species.
        max_seq_len: Length of a row.
        folder: Where token files are kept; None, or a folder that cannot be written to, keeps them in memory.

    Returns:
        Int32 array [cells, max_seq_len], mapped from the file; writing to it does not change the file.

    Raises:
        UserError: The cells are not raw counts.
    """
    shape = (len(cells), max_seq_len)
    columns_V = vocabulary_columns(cells.var_names, vocabulary, orthologs)

    def parts() -> Iterator[npt.NDArray[np.int32]]:
        for counts in cells.chunks(CHUNK):
            yield tokenize(select_columns(counts, columns_V, len(vocabulary)), mean_G, max_seq_len)

    if folder is None or not _writable(folder):
        return np.concatenate(list(parts()))
    path = folder / f"tokens-{_key(cells, vocabulary, mean_G, columns_V, max_seq_len)}.npy"
    if (known := _load(path, shape)) is not None:
        return known
    try:
        with atomic(path) as temporary:
            _write(temporary, shape, parts())
    except (UserError, OSError) as error:
        warnings.warn(f"{path}: cannot be written ({error}); tokens stay in memory", stacklevel=2)
        return np.concatenate(list(parts()))
    written = _load(path, shape)
    return np.concatenate(list(parts())) if written is None else written


def _key(
    cells: Cells,
    vocabulary: Vocabulary,
    mean_G: npt.NDArray[np.float64],
    columns_V: npt.NDArray[np.int64],
    max_seq_len: int,
) -> str:
    content = hashlib.sha256(json.dumps([VERSION, cells.digest, max_seq_len, vocabulary.names]).encode())
    content.update(mean_G.astype(np.float64).tobytes())
    content.update(columns_V.tobytes())  # what the ortholog table comes to for these genes
    return content.hexdigest()[:32]


def _writable(folder: Path) -> bool:
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            return os.access(folder, os.W_OK)
    except (UserError, OSError):
        return False


def _write(path: Path, shape: tuple[int, int], parts: Iterator[npt.NDArray[np.int32]]) -> None:
    # Plain writes, since a full disk ends a process that writes through a memory map with a bus error.
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(part.tobytes())


def _load(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.int32] | None:
    try:
        stored: npt.NDArray[np.int32] = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return stored if stored.shape == shape and stored.dtype == np.int32 else None
