"""Cells as training samples: tokens, label, coordinates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import UserError
from datasets.cells import Cells
from datasets.genes import ContextKind, context_id
from datasets.nicheformer import assemble

CONTEXT: tuple[ContextKind, ...] = ("specie", "assay", "modality")


@dataclass(frozen=True)
class CellSamples:
    """A map-style dataset over the cells of one split; token rows are read from the mapped cache file when asked for.

    Attributes:
        tokens_NL: Gene tokens, int32.
        context_N3: Context ids per cell.
        context_flags: Which context tokens the model reads.
        context_length: Positions of the model.
        labels_N: Class numbers, int64, or None where nobody knows them.
        coordinates_N2: Standardised x and y, float32, or None.
        names: Cell ids.
    """

    tokens_NL: npt.NDArray[np.int32]
    context_N3: npt.NDArray[np.int32]
    context_flags: dict[str, bool]
    context_length: int
    labels_N: npt.NDArray[np.int64] | None
    coordinates_N2: npt.NDArray[np.float32] | None
    names: npt.NDArray[np.str_]

    def __len__(self) -> int:
        """Count the cells."""
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Give one cell."""
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Give a batch: `tokens` [B, context_length] int32, and `label` [B] and `coordinates` [B, 2] where used."""
        rows = np.asarray(indices, dtype=np.int64)
        tokens = assemble(self.tokens_NL[rows], self.context_N3[rows], self.context_length, **self.context_flags)
        batch = {"tokens": torch.from_numpy(tokens)}
        if self.labels_N is not None:
            batch["label"] = torch.from_numpy(self.labels_N[rows])
        if self.coordinates_N2 is not None:
            batch["coordinates"] = torch.from_numpy(self.coordinates_N2[rows])
        return batch


def class_numbers(cells: Cells, label: str, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Give the class number of each cell.

    Raises:
        UserError: A label is in no client's train split.
    """
    number = {name: place for place, name in enumerate(classes)}
    labels = cells.column(label).astype(np.str_)
    for name in np.unique(labels):
        if str(name) not in number:
            raise UserError(
                f"{cells.path}: obs[{label!r}]: {str(name)!r} is in no client's train split; "
                "remove these cells or add some to a train split"
            )
    return np.asarray([number[str(name)] for name in labels], dtype=np.int64)


def context_ids(cells: Cells, given: dict[ContextKind, str | int | None]) -> npt.NDArray[np.int32]:
    """Give species, assay and modality ids per cell: a given one for all, or those of the obs column of that name.

    Raises:
        UserError: A name or id is unknown, or the column is missing.
    """
    ids = np.empty((len(cells), len(CONTEXT)), dtype=np.int32)
    for place, kind in enumerate(CONTEXT):
        value = given[kind]
        if value is not None:
            ids[:, place] = context_id(kind, value)
            continue
        names, which = np.unique(cells.column(kind), return_inverse=True)
        try:
            table = [context_id(kind, name.item()) for name in names]
        except UserError as error:
            raise UserError(f"{cells.path}: obs[{kind!r}]: {str(error).removeprefix(f'{kind}: ')}") from None
        ids[:, place] = np.asarray(table, dtype=np.int32)[which]
    return ids


def coordinates(cells: Cells, keys: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read the two coordinate columns.

    Raises:
        UserError: A column is missing or holds something that is no finite number.
    """
    try:
        values = np.stack([cells.column(key).astype(np.float64) for key in keys], axis=1)
    except ValueError:
        values = np.full((1, 2), np.nan)
    if not np.isfinite(values).all():
        raise UserError(f"{cells.path}: obs{list(keys)}: not finite numbers; mend them or set include_spatial to false")
    return values
