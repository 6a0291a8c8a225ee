"""The options of the NicheFormer task, and what can be said against them before any data is opened."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationInfo, field_validator, model_validator

from core.errors import UserError
from datasets.cell_samples import CONTEXT, context_ids
from datasets.cell_tokens import TokenSource
from datasets.cells import Cells
from datasets.genes import context_id
from models.nicheformer_classifier import FineTuneMode
from training.options import DataPath, Options
from training.task import Task


class RandomBackbone(Options):
    """A backbone with fresh weights, for trying things out: it has learned nothing."""

    dim_model: int = Field(64, ge=4)
    """Width of the hidden states."""
    nheads: int = Field(4, ge=1)
    """Attention heads; divide the width."""
    dim_feedforward: int = Field(128, ge=1)
    """Width of the feed-forward layers."""
    nlayers: int = Field(2, ge=1)
    """Encoder layers."""
    context_length: int = Field(64, ge=4)
    """Positions: three context tokens, then genes."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in layers that train."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "RandomBackbone":
        if self.dim_model % self.nheads:
            raise ValueError(f"nheads {self.nheads} does not divide dim_model {self.dim_model}; change one of them")
        return self


class NicheFormerOptions(Task):
    """What `options:` of a NicheFormer config takes."""

    label: str = "cell_type"
    """obs column with the class."""
    client_key: str | None = None
    """obs column that names the client, where the data is one h5ad file."""
    split_key: str = "nicheformer_split"
    """obs column with train, val and test, where the data is one h5ad file."""
    unit_key: str | None = None
    """obs column of the biological unit (section, donor): never in two splits or at two clients."""
    disjoint_keys: tuple[str, ...] = ()
    """Further obs columns whose values must not be in two splits or at two clients."""
    blocks: int | None = Field(None, ge=2)
    """Cut each unit into blocks x blocks regions of x and y, and split by those."""
    held_out_client: str | None = None
    """Value of `client_key` that belongs to no client, where the data is one h5ad file."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test where splits are made here."""
    split_seed: int = Field(0, ge=0)
    """Seed of splits made here; apart from the experiment's seed, so that seeds share their splits."""
    counts_layer: str | None = None
    """AnnData layer with the raw counts; by default `X`."""

    reference: DataPath | None = None
    """Folder with `model.h5ad` (vocabulary) and `<technology>_mean_script.npy`; by default `reference/` in the data."""
    technology: Literal["xenium", "merfish", "cosmx", "iss", "dissociated"] = "xenium"
    """Whose mean expression normalises the counts."""
    mean_rounding: Literal["prepared", "unrounded"] = "prepared"
    """Technology mean rounded as in pre-training, or as it is."""
    orthologs: DataPath | None = None
    """CSV that translates gene ids of another species; by default `orthologs.csv` in the reference, if there."""
    min_matched_genes: int | None = Field(None, ge=1)
    """Fewest genes of a file that must be in the vocabulary; by default half of them."""
    specie: str | int | None = None
    """Species of all cells (name or id); by default the obs column `specie`."""
    assay: str | int | None = None
    """Assay of all cells (name or id); by default the obs column `assay`."""
    modality: str | int | None = None
    """`dissociated` or `spatial` (or id) for all cells; by default the obs column `modality`."""
    include_spatial: bool = False
    """Give the head the coordinates too. Off: sections are not registered to each other."""
    coordinate_keys: tuple[str, str] = ("x", "y")
    """obs columns of the coordinates; read where include_spatial is on."""

    checkpoint: DataPath | None = None
    """Pre-trained NicheFormer file (Lightning, fine-tuned, Hugging Face or our safetensors)."""
    random_backbone: RandomBackbone | None = None
    """Fresh weights instead of a checkpoint."""
    fine_tune_mode: FineTuneMode = "head_only"
    """What trains: the head; the head and the upper half of the layers; everything."""
    extract_layers: tuple[int, ...] | None = None
    """Layers whose means are combined; by default the last."""
    combine: Literal["mean", "sum"] = "mean"
    """How extracted layers are combined."""
    with_context: bool = False
    """Keep the three context positions in the mean over a cell."""
    genes_only: bool = False
    """Average over gene tokens only, instead of over all positions with padding as published; much faster."""
    extractor: bool = False
    """A linear layer and tanh in front of the head."""
    encode_block: int = Field(1, ge=1)
    """Cells that frozen layers encode at once: 1 makes the numbers independent of batches, more suits a GPU."""

    @property
    def folder(self) -> Path:
        """Where the data lies."""
        return self.data.parent if self.data.is_file() else self.data

    @property
    def input_columns(self) -> dict[str, str]:
        """Give obs column -> option, for the columns that the network's input is made of."""
        spatial = self.coordinate_keys if self.include_spatial else ()
        return {
            **{kind: f"options.{kind}" for kind in CONTEXT if getattr(self, kind) is None},
            **dict.fromkeys(spatial, "options.coordinate_keys"),
        }

    def context_ids(self, cells: Cells) -> npt.NDArray[np.int32]:
        """Give species, assay and modality ids per cell."""
        return context_ids(cells, {"specie": self.specie, "assay": self.assay, "modality": self.modality})

    def token_source(self, length: int, new: Path | None = None) -> TokenSource:
        """Give what makes tokens of counts.

        Args:
            length: Gene tokens per cell.
            new: Folder of new cells; its `reference/` stands in for reference files that are gone since training.
        """
        references = [self.reference or self.folder / "reference", *([new / "reference"] if new else [])]
        reference = next((one for one in references if (one / "model.h5ad").exists()), references[-1])
        beside = [path for one in references if (path := one / "orthologs.csv").exists()]
        given = [self.orthologs] if self.orthologs and (new is None or self.orthologs.exists()) else []
        return TokenSource(
            reference=reference,
            technology=self.technology,
            rounding=self.mean_rounding,
            orthologs=next(iter([*given, *beside]), None),
            minimum=self.min_matched_genes,
            length=length,
            cache=(new or self.folder) / ".cache" / "tokens",
        )

    @model_validator(mode="after")
    def _one_backbone(self) -> "NicheFormerOptions":
        if (self.checkpoint is None) == (self.random_backbone is None):
            found = "both checkpoint and" if self.checkpoint else "neither checkpoint nor"
            raise ValueError(f"{found} random_backbone given; set one: to a file, or to {{}} for fresh weights")
        return self

    @field_validator(*CONTEXT)
    @classmethod
    def _known_context(cls, value: str | int | None, info: ValidationInfo) -> str | int | None:
        try:
            if value is not None:
                context_id(info.field_name, value)  # type: ignore[arg-type]
        except UserError as error:
            raise ValueError(str(error).removeprefix(f"{info.field_name}: ")) from None
        return value
