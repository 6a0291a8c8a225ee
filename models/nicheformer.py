"""NicheFormer: an encoder over the ranked genes of one cell (Tejada-Lapuerta et al. 2025, theislab/nicheformer).

A cell is a sequence of exactly `context_length` ids: context ids (species, assay, modality), then genes by falling
score, then padding. Written anew from the published description; parameter names are those of the published
checkpoint, so its weights load by name.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor, nn

from models.nicheformer_checkpoint import Checkpoint, read
from models.nicheformer_encoder import Encoder, attention_keys
from models.nicheformer_shape import DROPPED_POSITIONS, SPARE_ROWS, HyperParameters

PADDING_ID = 1
"""What the tokenizer's 0 becomes inside the model."""


class NicheFormer(nn.Module):
    """The encoder. Inputs are assembled ids [B, context_length], int32 or int64, padded with 0."""

    def __init__(self, hyper_parameters: HyperParameters) -> None:
        """Make the network with fresh weights, drawn from torch's current generator."""
        super().__init__()
        shape = self.hyper_parameters = hyper_parameters
        self.embeddings = nn.Embedding(shape.n_tokens + SPARE_ROWS, shape.dim_model, padding_idx=PADDING_ID)
        self.dropout = nn.Dropout(shape.dropout if shape.learnable_pe else 0.0)
        if shape.learnable_pe:
            self.positional_embedding = nn.Embedding(shape.context_length, shape.dim_model)
        else:
            self.register_buffer("positions_LD", _sinusoids(shape.context_length, shape.dim_model), persistent=False)
        self.encoder = Encoder(shape.nlayers, shape.dim_model, shape.nheads, shape.dim_feedforward, shape.dropout)

    @classmethod
    def from_checkpoint(cls, path: Path, nheads: int | None = None) -> "NicheFormer":
        """Build the network a file describes, with its weights; arguments and errors as for `read`."""
        return cls.restored(read(path, nheads))

    @classmethod
    def restored(cls, checkpoint: Checkpoint) -> "NicheFormer":
        """Build the network of a file that has been read."""
        # On the meta device nothing is drawn at random or allocated before the weights take their places.
        with torch.device("meta"):
            network = cls(HyperParameters.from_checkpoint(checkpoint.hyper_parameters))
        network.load_state_dict(checkpoint.state_dict, assign=True)
        return network

    @overload
    def forward(self, tokens_BL: Tensor, all_layers: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, tokens_BL: Tensor, all_layers: Literal[True]) -> list[Tensor]: ...

    def forward(self, tokens_BL: Tensor, all_layers: bool = False) -> Tensor | list[Tensor]:
        """Give the last hidden states [B, L, D], or all of them: the embedding, then each layer's output.

        Raises:
            ValueError: The sequences are not `context_length` long.
        """
        if not all_layers:
            return self.lower(tokens_BL, self.hyper_parameters.nlayers)
        embedded_BLD = self.lower(tokens_BL, 0)
        return [embedded_BLD, *self.upper(embedded_BLD, self.padding(tokens_BL), 0)]

    def embed(self, tokens_BL: Tensor, layer: int = -1, with_context: bool = False, masked: bool = False) -> Tensor:
        """Give one vector per cell [B, D] from one layer's output; arguments as in `pool`.

        Raises:
            ValueError: There is no such layer, or `with_context` and `masked` are both set.
        """
        layers = range(self.hyper_parameters.nlayers)
        if not -len(layers) <= layer < len(layers):
            raise ValueError(f"layer {layer} of a model with {len(layers)} layers; use {-len(layers)} ... {layers[-1]}")
        hidden_BLD, padding_BL = self.lower(tokens_BL, 0), self.padding(tokens_BL)
        for output_BLD in self.upper(hidden_BLD, padding_BL, 0, layers[layer] + 1, trim=masked):
            hidden_BLD = output_BLD
        return self.pool(hidden_BLD, padding_BL, with_context=with_context, masked=masked)

    def padding(self, tokens_BL: Tensor) -> Tensor:
        """Give the boolean mask [B, L] of padding positions.

        Raises:
            ValueError: The sequences are not `context_length` long.
        """
        length = self.hyper_parameters.context_length
        if tokens_BL.ndim != 2 or tokens_BL.shape[1] != length:
            raise ValueError(
                f"tokens_BL has shape {tuple(tokens_BL.shape)}, the model takes (cells, {length}): context ids, genes, "
                f"then 0 up to context_length {length}"
            )
        return (tokens_BL == 0) | (tokens_BL == PADDING_ID)

    def lower(self, tokens_BL: Tensor, stop: int) -> Tensor:
        """Give the hidden states [B, L, D] behind the embedding and the layers 0 ... stop - 1."""
        padding_BL = self.padding(tokens_BL)
        tokens_BLD = self.embeddings(tokens_BL.masked_fill(padding_BL, PADDING_ID))
        positions_LD = self.positional_embedding.weight if self.hyper_parameters.learnable_pe else self.positions_LD
        hidden_BLD: Tensor = self.dropout(tokens_BLD + positions_LD)
        for output_BLD in self.upper(hidden_BLD, padding_BL, 0, stop):
            hidden_BLD = output_BLD
        return hidden_BLD

    def upper(
        self, hidden_BLD: Tensor, padding_BL: Tensor, start: int, stop: int | None = None, *, trim: bool = False
    ) -> Iterator[Tensor]:
        """Go on from the output of layer start - 1 and yield the outputs [B, L, D] of layers start ... stop - 1.

        Args:
            hidden_BLD: Output of layer start - 1, or of the embedding for 0.
            padding_BL: True at padding.
            start: First layer to run.
            stop: Layer to stop before; by default all are run.
            trim: Yield only the positions up to the end of the longest sequence. The genes' states stay the same,
                since nothing looks at padding, and short sequences take a fraction of the time.
        """
        keys = attention_keys(padding_BL)
        if trim:
            hidden_BLD = hidden_BLD[:, : keys.length]
        for layer in self.encoder.layers[start:stop]:
            hidden_BLD = layer(hidden_BLD, keys)
            yield hidden_BLD

    def pool(
        self, hidden_BLD: Tensor, padding_BL: Tensor, *, with_context: bool = False, masked: bool = False
    ) -> Tensor:
        """Average the positions of each cell to [B, D].

        By default as the published embeddings are made: the first three positions are left out and padding counts
        like any gene, so a cell with few genes is mostly an average of padding.

        Args:
            hidden_BLD: Hidden states; trimmed ones only together with `masked`.
            padding_BL: True at padding.
            with_context: Keep the first three positions.
            masked: Average the genes only; a cell without genes gives zeros.

        Raises:
            ValueError: `with_context` and `masked` are both set.
        """
        if with_context and masked:
            raise ValueError("with_context and masked exclude each other: a masked mean is over genes only")
        if not masked:
            return hidden_BLD[:, 0 if with_context else DROPPED_POSITIONS :].mean(dim=1)
        first_gene = self.hyper_parameters.context_tokens
        genes_BL1 = (~padding_BL[:, first_gene : hidden_BLD.shape[1], None]).to(hidden_BLD.dtype)
        return (hidden_BLD[:, first_gene:] * genes_BL1).sum(dim=1) / genes_BL1.sum(dim=1).clamp(min=1)


def _sinusoids(length: int, width: int) -> Tensor:
    angles = torch.arange(length, device="cpu")[:, None] * 10000.0 ** (-torch.arange(0, width, 2, device="cpu") / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
