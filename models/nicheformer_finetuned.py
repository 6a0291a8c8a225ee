"""A fine-tuned NicheFormer file as a classifier: backbone, head, and the options the head was trained with."""

from pathlib import Path

import torch

from core.errors import UserError
from models.nicheformer import NicheFormer
from models.nicheformer_checkpoint import HEAD_KEYS, Checkpoint, checked, read
from models.nicheformer_classifier import NicheFormerClassifier


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
    classifier.load_state_dict(checked(path, "", checkpoint.head, layout), strict=False, assign=True)
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
    backbone = NicheFormer.restored(checkpoint)
    with torch.device("meta"):
        return NicheFormerClassifier(
            backbone,
            options.get("n_classes", head["linear_head.weight"].shape[0]),
            extract_layers=options.get("extract_layers"),
            combine=options.get("function_layers", "mean"),
            with_context=not options.get("without_context", True),
            extractor=options.get("extractor", "pooler_head.weight" in head),
        )
