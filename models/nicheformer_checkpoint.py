"""Published, fine-tuned and converted NicheFormer weights: what is in the file, and whether it fits.

Accepted are Lightning files of theislab/nicheformer (pre-trained, or fine-tuned with the prefix `backbone.`), the
Hugging Face release (prefix `nicheformer.`), plain dictionaries of tensors, and our own safetensors files. Nothing is
ever unpickled beyond plain data. Each hyper-parameter is what the file states, else what the shapes of its tensors
say, else the published value; only the number of heads, dropout and the context flags cannot be told from shapes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from core.errors import UserError
from models import tensor_files
from models.nicheformer_shape import SPARE_ROWS, HyperParameters, used_layout

Kind = Literal["pre-trained", "fine-tuned", "Hugging Face"]
PREFIXES: dict[Kind, str] = {"fine-tuned": "backbone.", "Hugging Face": "nicheformer.", "pre-trained": ""}
HEAD_KEYS = ("linear_head.weight", "pooler_head.weight", "pooler_head.bias")


@dataclass(frozen=True)
class Checkpoint:
    """A checked file: every weight the network needs is there, float32, in exactly the shape it needs.

    Attributes:
        hyper_parameters: What the file states, completed where it is silent; a fine-tuned file's head options too.
        state_dict: The encoder's weights under the names `NicheFormer` uses.
        head: The fine-tuned head (`HEAD_KEYS`), or empty.
        loaded: Number of tensors used.
        ignored: Number of tensors the network has no use for.
        kind: What made the file.
        assumed: Names of hyper-parameters that neither the file nor its shapes tell.
    """

    hyper_parameters: dict[str, Any]
    state_dict: dict[str, Tensor]
    head: dict[str, Tensor]
    loaded: int
    ignored: int
    kind: Kind
    assumed: tuple[str, ...]


def read(path: Path, nheads: int | None = None) -> Checkpoint:
    """Read and check a file.

    Args:
        path: Any accepted file.
        nheads: Attention heads, for a file that does not state them (fine-tuned files and bare tensors).

    Raises:
        UserError: The file is missing, damaged or unsafe, is no NicheFormer, lacks a weight, or holds one of another
            shape than its hyper-parameters imply; or `nheads` contradicts the file.
    """
    content = tensor_files.load(path)
    tensors, stated = _tensors(path, content), _stated(path, content)
    kind = _kind(path, tensors)
    prefix = PREFIXES[kind]
    backbone = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if nheads is not None and stated.setdefault("nheads", nheads) != nheads:
        raise UserError(f"{path}: nheads {stated['nheads']} is stated in the file, {nheads} was given; leave it out")
    known = {**_inferred(backbone), **stated}
    try:
        shape = HyperParameters.from_checkpoint(known)
    except ValueError as error:
        raise UserError(f"{path}: hyper_parameters: {_reason(error)}; give a file that describes a network") from error
    used = _checked(path, prefix, backbone, used_layout(shape))
    head = {name: _plain(tensors[name]) for name in HEAD_KEYS if name in tensors} if kind == "fine-tuned" else {}
    return Checkpoint(
        hyper_parameters={**known, **shape.model_dump()},
        state_dict=used,
        head=head,
        loaded=len(used) + len(head),
        ignored=len(tensors) - len(used) - len(head),
        kind=kind,
        assumed=tuple(name for name in HyperParameters.model_fields if name not in known),
    )


def convert(source: Path, target: Path, nheads: int | None = None) -> Checkpoint:
    """Rewrite an accepted file as safetensors: the used weights, with the hyper-parameters as metadata.

    Raises:
        UserError: As for `read`; or the target cannot be written or does not end in .safetensors.
    """
    checkpoint = read(source, nheads)
    prefix = PREFIXES["fine-tuned"] if checkpoint.head else ""
    tensors = {prefix + name: tensor for name, tensor in checkpoint.state_dict.items()} | checkpoint.head
    tensor_files.save(target, tensors, checkpoint.hyper_parameters)
    return checkpoint


def _tensors(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = content.get("state_dict", content)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise UserError(f"{path}: no state_dict of tensors in it, so not a checkpoint; give a NicheFormer file")
    return tensors


def _stated(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    stated = content.get("hyper_parameters", {}) if "state_dict" in content else {}
    if not isinstance(stated, dict):
        raise UserError(f"{path}: hyper_parameters is a {type(stated).__name__}, not a dictionary; give another file")
    return {name: value for name, value in stated.items() if value is not None}


def _kind(path: Path, tensors: Mapping[str, Tensor]) -> Kind:
    for kind, prefix in PREFIXES.items():
        if any(name.startswith((f"{prefix}embeddings.", f"{prefix}encoder.layers.")) for name in tensors):
            return kind
    raise UserError(f"{path}: no embeddings.weight and no encoder.layers.* in it; give a NicheFormer checkpoint")


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return ", ".join(" ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in error.errors())


def _inferred(backbone: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tell what can be told from shapes; a tensor that is missing is reported later, by name."""
    shapes = {name: tuple(value.shape) for name, value in backbone.items()}
    layers = [int(match[1]) for name in shapes if (match := re.match(r"encoder\.layers\.(\d+)\.", name))]
    inferred: dict[str, Any] = {"learnable_pe": "positional_embedding.weight" in shapes}
    if layers:
        inferred["nlayers"] = max(layers) + 1
    if len(shape := shapes.get("embeddings.weight", ())) == 2:
        inferred |= {"n_tokens": shape[0] - SPARE_ROWS, "dim_model": shape[1]}
    if len(shape := shapes.get("positional_embedding.weight", ())) == 2:
        inferred["context_length"] = shape[0]
    if len(shape := shapes.get("encoder.layers.0.linear1.weight", ())) == 2:
        inferred["dim_feedforward"] = shape[0]
    return inferred


def _checked(
    path: Path, prefix: str, tensors: Mapping[str, Tensor], layout: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Take the tensors of a layout, each present, of the right shape and finite.

    Raises:
        UserError: One is not; the message names it.
    """
    taken = {}
    for name, shape in layout.items():
        if name not in tensors:
            raise UserError(f"{path}: {prefix}{name} is missing (shape {shape}); give a complete checkpoint")
        found = tuple(tensors[name].shape)
        if found != shape:
            raise UserError(
                f"{path}: {prefix}{name} has shape {found}, its hyper-parameters imply {shape}; give a file whose "
                f"weights and hyper-parameters belong together"
            )
        taken[name] = _plain(tensors[name])
        if not bool(taken[name].isfinite().all()):
            raise UserError(f"{path}: {prefix}{name} holds NaN or infinite values; give an undamaged checkpoint")
    return taken


def _plain(tensor: Tensor) -> Tensor:
    """Copy to float32 memory of our own, so that results do not hang on how a file happens to align its tensors."""
    return tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
