"""From counts to NicheFormer's input: the genes of a cell, ordered by expression relative to the technology mean.

Follows the tokenizer of NicheFormer (Tejada-Lapuerta et al., `theislab/nicheformer`), with three differences: genes
without a technology mean divide by 1 instead of NaN, columns are selected by name, and equal scores keep the order of
the vocabulary. Only expressed genes are touched: the cost grows with the counts, not with the size of the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from core.errors import UserError
from datasets.gene_match import check_names, vocabulary_columns
from datasets.genes import Orthologs, Vocabulary

FIRST_GENE = 30
"""Token of the first gene of the vocabulary; the ids below are reserved."""
PADDING = 0
TARGET_SUM = 10_000.0


def align(adata: Any, vocabulary: Vocabulary | Sequence[str], orthologs: Orthologs | None = None) -> sp.csr_matrix:
    """Bring the columns of an AnnData object into vocabulary order.

    Args:
        adata: Anything with `X` (cells x genes, dense or sparse) and `var_names`.
        vocabulary: The model's genes in token order.
        orthologs: Table for genes of another species.

    Returns:
        Matrix [cells, vocabulary genes]: absent genes and NaN are 0, genes outside the vocabulary are dropped.

    Raises:
        UserError: A gene occurs twice, or there are none.
    """
    names = [str(name) for name in adata.var_names]
    check_names(names, "adata")
    known = Vocabulary.of(vocabulary)
    counts_NV = adata.X[:] if not sp.issparse(adata.X) else adata.X
    return select_columns(_float_csr(counts_NV), vocabulary_columns(names, known, orthologs), len(known))


def select_columns(counts_NV: sp.csr_matrix, columns_V: npt.NDArray[np.int64], size: int) -> sp.csr_matrix:
    """Move column v to `columns_V[v]` of a matrix with `size` columns, and drop it where that is -1.

    Args:
        counts_NV: Cells x genes of the file.
        columns_V: Place in the vocabulary of each of those genes, as `vocabulary_columns` gives them.
        size: Number of genes of the vocabulary.

    Returns:
        Matrix [cells, size] with sorted indices, without stored zeros and NaN.
    """
    places = columns_V[counts_NV.indices]
    kept = (places >= 0) & (counts_NV.data != 0) & ~np.isnan(counts_NV.data)
    ends = np.concatenate([[0], np.cumsum(kept)])
    shape = (counts_NV.shape[0], size)
    result_NG = sp.csr_matrix((counts_NV.data[kept], places[kept], ends[counts_NV.indptr]), shape=shape)
    result_NG.sort_indices()
    return result_NG


def tokenize(
    counts_NG: Any, technology_mean_G: npt.NDArray[np.float64], max_seq_len: int = 1500, chunk: int = 1000
) -> npt.NDArray[np.int32]:
    """Give the gene tokens of every cell, highest score first.

    The score is the count as a share of the cell's counts, times 10,000, divided by the technology mean.

    Args:
        counts_NG: Raw counts in vocabulary order, sparse or dense; NaN counts as 0.
        technology_mean_G: Mean per vocabulary gene, used as given except that NaN and 0 become 1.
        max_seq_len: Length of a row; genes beyond it are cut off, shorter rows are padded with 0.
        chunk: Cells worked on at once; bounds the memory, does not change the result.

    Returns:
        Int32 array [cells, max_seq_len]; gene g has token g + 30.
    """
    mean_G = _divisor(technology_mean_G)
    n_cells, n_genes = counts_NG.shape
    if mean_G.shape != (n_genes,):
        raise ValueError(f"technology_mean_G has shape {mean_G.shape}, counts_NG has {n_genes} genes")
    tokens_NL = np.full((n_cells, max_seq_len), PADDING, dtype=np.int32)
    for start in range(0, n_cells, chunk):
        _, rows, places, genes = ranked(counts_NG[start : start + chunk], mean_G)
        kept = places < max_seq_len
        tokens_NL[start + rows[kept], places[kept]] = genes[kept] + FIRST_GENE
    return tokens_NL


def ranked(
    counts_BG: Any, mean_G: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Score the expressed genes of a few cells and order them within each cell.

    Args:
        counts_BG: Raw counts in vocabulary order, sparse or dense.
        mean_G: Technology mean without NaN and 0.

    Returns:
        Four arrays, one entry per expressed gene: score, row, place in the row (0 = highest score), gene.
    """
    counts = _float_csr(counts_BG)
    data = np.nan_to_num(counts.data.astype(np.float64, copy=False), nan=0.0)
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    sums_B = np.bincount(rows, weights=data, minlength=counts.shape[0])
    sums_B[sums_B == 0] = 1.0
    scores = data / sums_B[rows] * TARGET_SUM / mean_G[counts.indices]
    kept = scores != 0
    rows, scores, genes = rows[kept], scores[kept], counts.indices[kept].astype(np.int64)
    lengths_B = np.bincount(rows, minlength=counts.shape[0])
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths_B) - lengths_B, lengths_B)
    # One short row per cell sorts several times faster than one long array keyed by (cell, score); the filler sorts
    # last, and a stable sort leaves equal scores in gene order.
    padded_BK = np.full((len(lengths_B), int(lengths_B.max(initial=0))), np.inf)
    padded_BK[rows, places] = -scores
    order_BK = np.argsort(padded_BK, axis=1, kind="stable")
    sources = np.cumsum(lengths_B)[rows] - lengths_B[rows] + order_BK[rows, places]
    return scores[sources], rows, places, genes[sources]


def assemble(
    tokens_NL: npt.NDArray[np.int32],
    context_N3: npt.ArrayLike,
    context_length: int,
    *,
    specie: bool = True,
    assay: bool = True,
    modality: bool = True,
) -> npt.NDArray[np.int32]:
    """Put the context tokens in front of the gene tokens and cut to the length the model reads.

    Args:
        tokens_NL: Gene tokens, as `tokenize` gives them.
        context_N3: Ids of specie, assay and modality per cell, or one triple for all cells.
        context_length: Length of the result; the last genes are lost to the context tokens.
        specie: Whether the model reads this token; the others move up when it does not.
        assay: Likewise.
        modality: Likewise.

    Returns:
        Int32 array [cells, context_length].

    Raises:
        UserError: The sequences are too short to fill `context_length`.
    """
    wanted = np.flatnonzero([specie, assay, modality])
    context = np.broadcast_to(np.asarray(context_N3, dtype=np.int32), (len(tokens_NL), 3))[:, wanted]
    if tokens_NL.shape[1] + len(wanted) < context_length:
        raise UserError(
            f"max_seq_len: {tokens_NL.shape[1]} gene tokens and {len(wanted)} context tokens do not fill "
            f"context_length {context_length}; set max_seq_len to {context_length}"
        )
    result_NC = np.empty((len(tokens_NL), context_length), dtype=np.int32)
    result_NC[:, : len(wanted)] = context[:, :context_length]
    result_NC[:, len(wanted) :] = tokens_NL[:, : context_length - len(wanted)]
    return result_NC


def _divisor(mean_G: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result_G = np.nan_to_num(np.asarray(mean_G, dtype=np.float64), nan=1.0)
    result_G[result_G == 0] = 1.0
    return result_G


def _float_csr(counts: Any) -> sp.csr_matrix:
    matrix = sp.csr_matrix(counts)
    if not np.issubdtype(matrix.dtype, np.floating):
        matrix = matrix.astype(np.float64)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix
