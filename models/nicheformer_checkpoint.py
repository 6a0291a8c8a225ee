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
from models.nicheformer import SPARE_ROWS, HyperParameters, NicheFormer
from models.nicheformer_classifier import NicheFormerClassifier

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


def load_backbone(path: Path, nheads: int | None = None) -> NicheFormer:
    """Build the encoder a file describes, with its weights; arguments and errors as for `read`."""
    return _backbone(read(path, nheads))


def load_classifier(path: Path, nheads: int | None = None) -> NicheFormerClassifier:
    """Build the classifier a fine-tuned file describes, with its weights.

    Raises:
        UserError: As for `read`; or the file has no head, or one for another task than classification of cells.
    """
    checkpoint = read(path, nheads)
    if "linear_head.weight" not in checkpoint.head:
        raise UserError(f"{path}: linear_head.weight is missing, so this is no fine-tuned file; load it as a backbone")
    try:
        classifier = _empty_classifier(checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    names = [name for name in HEAD_KEYS if name in classifier.state_dict()]
    layout = {name: tuple(classifier.state_dict()[name].shape) for name in names}
    classifier.load_state_dict(_checked(path, "", checkpoint.head, layout), strict=False, assign=True)
    return classifier


def _empty_classifier(checkpoint: Checkpoint) -> NicheFormerClassifier:
    """Build the classifier that the head options describe, with the backbone's weights and none in the head yet."""
    options, head = checkpoint.hyper_parameters, checkpoint.head
    wanted: dict[str, list[str | int]] = {
        "supervised_task": ["niche_classification"],
        "dim_prediction": [1],
        "function_layers": ["mean", "sum"],
    }
    for name, values in wanted.items():
        if options.get(name, values[0]) not in values:
            raise UserError(f"{name} is {options[name]!r}, a classifier of cells needs one of {values}; refit the head")
    backbone = _backbone(checkpoint)
    with torch.device("meta"):
        return NicheFormerClassifier(
            backbone,
            options.get("n_classes", head["linear_head.weight"].shape[0]),
            extract_layers=options.get("extract_layers"),
            combine=options.get("function_layers", "mean"),
            with_context=not options.get("without_context", True),
            extractor=options.get("extractor", "pooler_head.weight" in head),
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


def checkpoint_layout(hyper_parameters: HyperParameters, cls_classes: int = 164) -> dict[str, tuple[int, ...]]:
    """Give name and shape of every tensor in a published file, the parts that are never used included."""
    width, vocabulary = hyper_parameters.dim_model, hyper_parameters.n_tokens
    template = {f"encoder_layer.{name}": shape for name, shape in _layer_layout(hyper_parameters).items()}
    heads: dict[str, tuple[int, ...]] = {}
    for name, rows in (("classifier_head", vocabulary), ("pooler_head", width), ("cls_head", cls_classes)):
        heads |= {f"{name}.weight": (rows, width), f"{name}.bias": (rows,)}
    return {**template, **used_layout(hyper_parameters), **heads}


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


def _backbone(checkpoint: Checkpoint) -> NicheFormer:
    # On the meta device nothing is drawn at random or allocated before the weights take their places.
    with torch.device("meta"):
        network = NicheFormer(HyperParameters.from_checkpoint(checkpoint.hyper_parameters))
    network.load_state_dict(checkpoint.state_dict, assign=True)
    return network


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
    """Take the tensors of a layout, each present, of the right shape and finite."""
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
