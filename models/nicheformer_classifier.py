"""Cell-type classification on NicheFormer: mean of chosen layers, then a bias-free linear head.

Follows the fine-tuning of theislab/nicheformer (task `niche_classification`, one prediction per cell). The mode
`partial` is not published; it trains the head and the upper half of the layers.
"""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from core.errors import UserError
from models.nicheformer import NicheFormer

FineTuneMode = Literal["head_only", "partial", "full"]


class NicheFormerClassifier(nn.Module):
    """A NicheFormer with a classification head; starts in mode `full`.

    The frozen part of a mode always runs without dropout and without gradients, `encode_block` cells at a time. With
    one cell at a time (the default) its numbers depend on the cell alone, bit for bit on one machine and thread
    count, whatever batch the cell stands in; larger blocks suit a GPU and change the last bits with the block.
    """

    def __init__(
        self,
        backbone: NicheFormer,
        n_classes: int,
        *,
        extract_layers: Sequence[int] | None = None,
        combine: Literal["mean", "sum"] = "mean",
        with_context: bool = False,
        masked: bool = False,
        extractor: bool = False,
        spatial: bool = False,
        encode_block: int = 1,
    ) -> None:
        """Put a fresh head on a backbone.

        Args:
            backbone: The encoder; its real width sets the head's.
            n_classes: Number of classes.
            extract_layers: Layers 0 ... nlayers - 1 whose means are combined; by default the last.
            combine: Average the layers or add them up.
            with_context: Keep the first three positions in the mean over a cell.
            masked: Average over genes only instead of over all positions, padding included.
            extractor: Put a linear layer D -> D and tanh in front of the head.
            spatial: Add a linear map of two coordinates per cell to the pooled vector.
            encode_block: Cells that the frozen part encodes at once.

        Raises:
            UserError: An option is out of range, or contradicts another.
        """
        super().__init__()
        nlayers, width = backbone.hyper_parameters.nlayers, backbone.hyper_parameters.dim_model
        self.extract_layers = tuple([nlayers - 1] if extract_layers is None else extract_layers)
        _check_layers(self.extract_layers, nlayers)
        _check_options(combine, with_context and masked, n_classes=n_classes, encode_block=encode_block)
        self.backbone = backbone
        self.with_context, self.masked, self.encode_block = with_context, masked, encode_block
        self.share = 1 / len(self.extract_layers) if combine == "mean" else 1.0
        if extractor:
            self.pooler_head = nn.Linear(width, width)
        if spatial:
            self.coordinate_head = nn.Linear(2, width)
        self.linear_head = nn.Linear(width, n_classes, bias=False)
        self.set_fine_tune_mode("full")

    def set_fine_tune_mode(self, mode: FineTuneMode) -> None:
        """Choose what trains: the head alone, also the layers from nlayers // 2 on, or everything.

        Layers above the highest extracted one never reach the output, so they train in no mode.

        Raises:
            UserError: The mode is unknown, or `partial` would train no layer.
        """
        if mode not in get_args(FineTuneMode):
            raise UserError(f"fine_tune_mode: '{mode}' is unknown; choose one of {', '.join(get_args(FineTuneMode))}")
        layers, stop = self.backbone.encoder.layers, max(self.extract_layers) + 1
        self.cut = {"head_only": stop, "partial": len(layers) // 2, "full": 0}[mode]
        """First layer that trains; all below it is frozen, and so is the embedding unless everything trains."""
        if mode == "partial" and self.cut >= stop:
            raise UserError(
                f"fine_tune_mode: 'partial' trains layers {self.cut} ... {len(layers) - 1}, but extract_layers "
                f"{list(self.extract_layers)} uses none of them; extract a later layer or choose head_only"
            )
        self.mode = mode
        self.backbone.requires_grad_(mode == "full")
        for index, layer in enumerate(layers):
            layer.requires_grad_(self.cut <= index < stop)
        self.train(self.training)

    def train(self, mode: bool = True) -> "NicheFormerClassifier":
        """Switch dropout on or off in the parts that train; the frozen part stays in evaluation mode."""
        super().train(mode)
        if self.mode != "full":
            self.backbone.dropout.eval()
            for layer in self.backbone.encoder.layers[: self.cut]:
                layer.eval()
        return self

    def frozen_features(self, tokens_BL: Tensor) -> dict[str, Tensor] | None:
        """Give what the frozen part computes for a batch in this mode; `forward` takes it instead of the tokens.

        Returns:
            "pooled" [B, D], the share of the frozen layers in the cell's vector, where any of them is extracted
            (in mode head_only all of it), and in mode partial also "hidden" [B, L, D] and "padding" [B, L], which
            the trained layers go on from. None in mode full.

        Raises:
            ValueError: The sequences are not `context_length` long.
        """
        if self.mode == "full":
            return None
        with torch.no_grad():
            blocks = [self._encode(block_BL) for block_BL in torch.split(tokens_BL, self.encode_block)]
        return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}

    def forward(
        self,
        tokens_BL: Tensor | None = None,
        *,
        pooled: Tensor | None = None,
        hidden: Tensor | None = None,
        padding: Tensor | None = None,
        coordinates_B2: Tensor | None = None,
    ) -> Tensor:
        """Give logits [B, C] from tokens, or from the `frozen_features` of this mode.

        Raises:
            ValueError: Neither or both are given, they are those of another mode, or coordinates are given or
                missing against `spatial`.
        """
        return self.classify(
            self.representation(tokens_BL, pooled=pooled, hidden=hidden, padding=padding), coordinates_B2
        )

    def classify(self, vector_BD: Tensor, coordinates_B2: Tensor | None = None) -> Tensor:
        """Give logits [B, C] of what `representation` gives.

        Raises:
            ValueError: Coordinates are given or missing against `spatial`.
        """
        if (coordinates_B2 is not None) != hasattr(self, "coordinate_head"):
            raise ValueError("coordinates_B2 belongs to a classifier made with spatial=True, and only to that")
        if coordinates_B2 is not None:
            vector_BD = vector_BD + self.coordinate_head(coordinates_B2)
        if hasattr(self, "pooler_head"):
            vector_BD = torch.tanh(self.pooler_head(vector_BD))
        logits_BC: Tensor = self.linear_head(vector_BD)
        return logits_BC

    def representation(
        self,
        tokens_BL: Tensor | None = None,
        *,
        pooled: Tensor | None = None,
        hidden: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Give the combined mean of the extracted layers [B, D], in front of extractor and head."""
        if (tokens_BL is None) == (pooled is None and hidden is None):
            raise ValueError("give either tokens_BL or the frozen features of this mode")
        if tokens_BL is not None:
            features = self.frozen_features(tokens_BL)
            if features is None:
                hidden, padding = self.backbone.lower(tokens_BL, 0), self.backbone.padding(tokens_BL)
            else:
                pooled, hidden, padding = (features.get(name) for name in ("pooled", "hidden", "padding"))
        elif set(self._feature_names()) != _given(pooled=pooled, hidden=hidden, padding=padding):
            raise ValueError(f"mode {self.mode} takes the features {', '.join(self._feature_names()) or 'tokens_BL'}")
        if hidden is not None:
            start, stop = self.cut, max(self.extract_layers) + 1
            pooled, _ = self._pool_layers(hidden, cast(Tensor, padding), start, stop, pooled)
        return cast(Tensor, pooled)

    def _feature_names(self) -> list[str]:
        names = ["pooled"] if min(self.extract_layers) < self.cut else []
        return [*names, "hidden", "padding"] if self.mode == "partial" else names

    def _encode(self, tokens_BL: Tensor) -> dict[str, Tensor]:
        """Run the frozen part on one block of cells."""
        hidden_BLD, padding_BL = self.backbone.lower(tokens_BL, 0), self.backbone.padding(tokens_BL)
        pooled_BD, hidden_BLD = self._pool_layers(hidden_BLD, padding_BL, 0, self.cut)
        trimmed = tokens_BL.shape[1] - hidden_BLD.shape[1]
        features = {"pooled": pooled_BD, "hidden": F.pad(hidden_BLD, (0, 0, 0, trimmed)), "padding": padding_BL}
        return {name: cast(Tensor, features[name]) for name in self._feature_names()}

    def _pool_layers(
        self, hidden_BLD: Tensor, padding_BL: Tensor, start: int, stop: int, pooled_BD: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Run layers start ... stop - 1; add their share of the cell's vector, and give the last output too."""
        outputs = self.backbone.upper(hidden_BLD, padding_BL, start, stop, trim=self.masked)
        for index, output_BLD in enumerate(outputs, start):
            hidden_BLD = output_BLD
            if index in self.extract_layers:
                mean_BD = self.backbone.pool(hidden_BLD, padding_BL, with_context=self.with_context, masked=self.masked)
                pooled_BD = self.share * mean_BD if pooled_BD is None else pooled_BD + self.share * mean_BD
        return pooled_BD, hidden_BLD


def _given(**features: Tensor | None) -> set[str]:
    return {name for name, value in features.items() if value is not None}


def _check_layers(extract_layers: tuple[int, ...], nlayers: int) -> None:
    if not extract_layers or not set(extract_layers) <= set(range(nlayers)):
        raise UserError(f"extract_layers: {list(extract_layers)}; choose from 0 ... {nlayers - 1}")
    if len(set(extract_layers)) < len(extract_layers):
        raise UserError(f"extract_layers: {list(extract_layers)} repeats a layer; name each once")


def _check_options(combine: str, masked_with_context: bool, **counts: int) -> None:
    if combine not in ("mean", "sum"):
        raise UserError(f"combine: '{combine}' is unknown; choose mean or sum")
    if masked_with_context:
        raise UserError("masked: a mean over genes only cannot keep the context; set with_context to false")
    for name, number in counts.items():
        if number < 1:
            raise UserError(f"{name}: {number}; give at least 1")
