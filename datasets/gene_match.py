"""Which columns of a file are which genes of the vocabulary, and whether there are enough of them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from datasets.genes import Orthologs, Vocabulary

FEWEST_GENES = 10
ENOUGH_GENES = 5000


@dataclass(frozen=True)
class GeneMatch:
    """How well a file's genes fit the vocabulary.

    Attributes:
        total: Genes in the file.
        matched: Genes that have a token of their own.
        translated: Those of them found through the ortholog table.
    """

    total: int
    matched: int
    translated: int


def vocabulary_columns(
    names: Sequence[str], vocabulary: Vocabulary, orthologs: Orthologs | None = None
) -> npt.NDArray[np.int64]:
    """Give the place in the vocabulary of every column, -1 for columns to drop.

    A name that the vocabulary lists is taken as it is; only the others are translated. Where two columns lead to
    one vocabulary gene, a column that needed no translation wins, then the earlier one.
    """
    index = vocabulary.index
    own = [index.get(name, -1) for name in names]
    taken = {place for place in own if place >= 0}
    if orthologs is None:
        return np.asarray(own, dtype=np.int64)
    for column, name in enumerate(orthologs.translate(names)):
        if own[column] < 0 and (place := index.get(name, -1)) >= 0 and place not in taken:
            own[column] = place
            taken.add(place)
    return np.asarray(own, dtype=np.int64)


def match_genes(
    names: Sequence[str],
    vocabulary: Vocabulary,
    orthologs: Orthologs | None = None,
    *,
    source: str,
    minimum: int | None = None,
) -> GeneMatch:
    """Count the genes of a file that the model knows, and refuse the file when they are too few.

    Args:
        names: The file's gene ids, in column order.
        vocabulary: The model's genes.
        orthologs: Table for genes of another species.
        source: File to name in an error.
        minimum: Fewest matched genes (`min_matched_genes`). By default half of the file's genes, but never fewer
            than 10 and never more than 5,000: a whole transcriptome holds many genes outside the vocabulary.

    Raises:
        UserError: There are no gene ids, one occurs twice, or too few are in the vocabulary.
    """
    check_names(names, source)
    columns = vocabulary_columns(names, vocabulary, orthologs)
    matched = int((columns >= 0).sum())
    translated = sum(
        1 for name, place in zip(names, columns, strict=True) if place >= 0 and name not in vocabulary.index
    )
    needed = max(FEWEST_GENES, min((len(names) + 1) // 2, ENOUGH_GENES)) if minimum is None else minimum
    if matched < needed:
        raise UserError(
            f"{source}: var_names: {matched} of {len(names)} genes are in the vocabulary, {needed} needed "
            f"(min_matched_genes), first gene {names[0]!r}; {_remedy(names, vocabulary, orthologs)}"
        )
    _warn_of_lost_genes(names, columns, vocabulary, orthologs, source)
    return GeneMatch(total=len(names), matched=matched, translated=translated)


def check_names(names: Sequence[str], source: str) -> None:
    """Refuse gene ids that are absent or not unique.

    Raises:
        UserError: There are none, or one occurs twice.
    """
    if len(names) == 0:
        raise UserError(f"{source}: var_names: no genes; give a matrix of cells x genes with Ensembl ids as var_names")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"{source}: var_names: gene {twice!r} occurs twice; sum or remove the duplicated columns")


def _remedy(names: Sequence[str], vocabulary: Vocabulary, orthologs: Orthologs | None) -> str:
    if any(name.split(".")[0] in vocabulary.index for name in names if "." in name):
        return "remove the version suffix (.1, .2) from the Ensembl ids"
    if any(name.startswith("ENS") for name in names):
        return "check the species: give an ortholog table" if orthologs is None else "use another ortholog table"
    return "use Ensembl gene ids as var_names, not symbols or numbers"


def _warn_of_lost_genes(
    names: Sequence[str],
    columns: npt.NDArray[np.int64],
    vocabulary: Vocabulary,
    orthologs: Orthologs | None,
    source: str,
) -> None:
    final = names if orthologs is None else orthologs.translate(names)
    lost = [name for name, to, place in zip(names, final, columns, strict=True) if place < 0 and to in vocabulary.index]
    if lost:
        warnings.warn(
            f"{source}: {len(lost)} genes share a vocabulary gene with another column and are dropped, e.g. {lost[0]}",
            stacklevel=3,
        )
