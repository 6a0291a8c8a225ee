"""The shape of a NicheFormer: its hyper-parameters, and the name and shape of every tensor they imply."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SPARE_ROWS = 5
"""Rows of the token table behind the last token; never used."""

DROPPED_POSITIONS = 3
"""Positions left out of the mean over a cell, however many context ids the model was configured with."""


class HyperParameters(BaseModel):
    """Shape of a NicheFormer, under the names its checkpoints use; the defaults are the published model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim_model: int = Field(512, gt=0, description="width D of every hidden state")
    nheads: int = Field(16, gt=0, description="attention heads; must divide dim_model")
    dim_feedforward: int = Field(1024, gt=0, description="inner width of the two-layer network in each layer")
    nlayers: int = Field(12, gt=0, description="encoder layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of activations dropped while training")
    n_tokens: int = Field(20340, gt=0, description="30 reserved ids plus the genes of the vocabulary")
    context_length: int = Field(1500, gt=DROPPED_POSITIONS, description="positions L of a sequence, padding included")
    learnable_pe: bool = Field(True, description="learned position table instead of fixed sines and cosines")
    specie: bool = Field(True, description="a species id stands in front of the genes")
    assay: bool = Field(True, description="an assay id stands in front of the genes")
    modality: bool = Field(True, description="a modality id stands in front of the genes")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.dim_model % self.nheads:
            raise ValueError(f"nheads {self.nheads} does not divide dim_model {self.dim_model}")
        return self

    @classmethod
    def from_checkpoint(cls, stored: Mapping[str, Any]) -> Self:
        """Take the known names from a checkpoint's dictionary; absent or empty ones keep the published value.

        Raises:
            ValueError: A value is of the wrong type or out of range.
        """
        return cls(**{name: stored[name] for name in cls.model_fields if stored.get(name) is not None})

    @property
    def context_tokens(self) -> int:
        """Number of context ids in front of the genes."""
        return int(self.specie) + int(self.assay) + int(self.modality)


def used_layout(hyper_parameters: HyperParameters) -> dict[str, tuple[int, ...]]:
    """Give name and shape of every tensor the encoder needs."""
    width = hyper_parameters.dim_model
    layout: dict[str, tuple[int, ...]] = {"embeddings.weight": (hyper_parameters.n_tokens + SPARE_ROWS, width)}
    if hyper_parameters.learnable_pe:
        layout["positional_embedding.weight"] = (hyper_parameters.context_length, width)
    for index in range(hyper_parameters.nlayers):
        layout |= {f"encoder.layers.{index}.{name}": shape for name, shape in _layer_layout(hyper_parameters).items()}
    return layout


def _layer_layout(hyper_parameters: HyperParameters) -> dict[str, tuple[int, ...]]:
    width, inner = hyper_parameters.dim_model, hyper_parameters.dim_feedforward
    return {
        "self_attn.in_proj_weight": (3 * width, width),
        "self_attn.in_proj_bias": (3 * width,),
        "self_attn.out_proj.weight": (width, width),
        "self_attn.out_proj.bias": (width,),
        "linear1.weight": (inner, width),
        "linear1.bias": (inner,),
        "linear2.weight": (width, inner),
        "linear2.bias": (width,),
        **{f"{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")},
    }
