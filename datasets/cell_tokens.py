"""Everything that turns the counts of cells into gene tokens: vocabulary, technology mean, orthologs, cache."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.files import sha256_json
from datasets.cells import Cells
from datasets.gene_match import GeneMatch, match_genes
from datasets.genes import Orthologs, Rounding, Vocabulary, prepare_mean, read_technology_mean
from datasets.token_cache import tokens


@dataclass(frozen=True)
class TokenSource:
    """Files and choices that tokens depend on.

    Attributes:
        reference: Folder with `model.h5ad` and `<technology>_mean_script.npy`.
        technology: Whose mean expression normalises the counts.
        rounding: `prepared` or `unrounded` means.
        orthologs: CSV that translates gene ids, or None.
        minimum: Fewest matched genes, or None for half of a file's.
        length: Gene tokens per cell.
        cache: Folder for token files.
    """

    reference: Path
    technology: str
    rounding: Rounding
    orthologs: Path | None
    minimum: int | None
    length: int
    cache: Path

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The model's genes."""
        return Vocabulary.read(self.reference / "model.h5ad")

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what the files say and of the choices.

        Raises:
            UserError: A file is missing or cannot be used.
        """
        translation = self._translation.table if self._translation else None
        return sha256_json([self.length, self.vocabulary.names, self._mean_G.tolist(), translation])

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the genes and their means: what must be the same for all cells that a network sees.

        Raises:
            UserError: A file is missing or cannot be used.
        """
        return sha256_json([self.vocabulary.names, self._mean_G.tolist()])

    def match(self, cells: Cells) -> GeneMatch:
        """Count the genes of a file that the vocabulary knows.

        Raises:
            UserError: Gene ids are absent, double, or too few match.
        """
        return match_genes(
            cells.var_names, self.vocabulary, self._translation, source=str(cells.path), minimum=self.minimum
        )

    def tokens(self, cells: Cells) -> npt.NDArray[np.int32]:
        """Give the gene tokens [cells, length], from the cache where they are there."""
        self.match(cells)
        return tokens(
            cells,
            self.vocabulary,
            self._mean_G,
            orthologs=self._translation,
            max_seq_len=self.length,
            folder=self.cache,
        )

    @property
    def _mean_path(self) -> Path:
        return self.reference / f"{self.technology}_mean_script.npy"

    @functools.cached_property
    def _mean_G(self) -> npt.NDArray[np.float64]:
        return prepare_mean(read_technology_mean(self._mean_path, len(self.vocabulary)), self.rounding)

    @functools.cached_property
    def _translation(self) -> Orthologs | None:
        return Orthologs.read(self.orthologs) if self.orthologs else None
