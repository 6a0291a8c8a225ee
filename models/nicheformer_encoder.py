"""One encoder layer of NicheFormer: attention, then a two-layer network, each followed by its layer norm."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class AttentionKeys(NamedTuple):
    """Which positions of a batch are looked at: all others are padding.

    Attributes:
        length: Number of leading positions that hold every token of the batch that is not padding.
        keep: Boolean [B, 1, 1, length], True where a position may be looked at; None if all of them may.
    """

    length: int
    keep: Tensor | None


def attention_keys(padding_BL: Tensor) -> AttentionKeys:
    """Turn a padding mask (True = padding) into the keys of a batch.

    Nothing looks at padding, and padding stands at the end, so the keys are cut behind the longest sequence. That
    leaves every result as it is and makes the attention of short sequences cheap.
    """
    keep_BL = ~padding_BL
    keep_BL[:, 0] = True  # a softmax over no key at all has no value; only a cell without any token is affected
    length = int(keep_BL.any(dim=0).nonzero().max()) + 1
    keep_BL = keep_BL[:, :length]
    return AttentionKeys(length, None if bool(keep_BL.all()) else keep_BL[:, None, None, :])


class SelfAttention(nn.Module):
    """Multi-head attention with the parameter names of `torch.nn.MultiheadAttention` (rows: query, key, value)."""

    def __init__(self, width: int, nheads: int, dropout: float) -> None:
        """Make the projections, initialised like torch's own."""
        super().__init__()
        self.nheads = nheads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, hidden_BLD: Tensor, keys: AttentionKeys) -> Tensor:
        """Let every position look at the keys; gives [B, L, D]."""
        width = hidden_BLD.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = F.linear(hidden_BLD, weight[:width], bias[:width])
        key, value = F.linear(hidden_BLD[:, : keys.length], weight[width:], bias[width:]).chunk(2, dim=-1)
        mixed_BHLE = F.scaled_dot_product_attention(
            self._heads(query),
            self._heads(key),
            self._heads(value),
            attn_mask=keys.keep,
            dropout_p=self.dropout if self.training else 0.0,
        )
        output: Tensor = self.out_proj(mixed_BHLE.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.reshape(*x_BLD.shape[:-1], self.nheads, -1).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Post-norm encoder layer with ReLU and layer norms of epsilon 1e-12 (Vaswani et al. 2017, section 3.1)."""

    def __init__(self, width: int, nheads: int, dim_feedforward: int, dropout: float) -> None:
        """Make the layer; parameter names are those of `torch.nn.TransformerEncoderLayer`."""
        super().__init__()
        self.self_attn = SelfAttention(width, nheads, dropout)
        self.linear1 = nn.Linear(width, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BLD: Tensor, keys: AttentionKeys) -> Tensor:
        """Give the layer's output [B, L, D], padding positions included."""
        hidden_BLD = self.norm1(hidden_BLD + self.dropout(self.self_attn(hidden_BLD, keys)))
        inner_BLF = self.dropout(F.relu(self.linear1(hidden_BLD)))
        output: Tensor = self.norm2(hidden_BLD + self.dropout(self.linear2(inner_BLF)))
        return output


class Encoder(nn.Module):
    """The stack of layers, without a norm behind it; it exists to carry the published name `encoder.layers.*`."""

    def __init__(self, nlayers: int, width: int, nheads: int, dim_feedforward: int, dropout: float) -> None:
        """Make `nlayers` layers."""
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, nheads, dim_feedforward, dropout) for _ in range(nlayers))
