"""Checkpoints of tensors and plain values: written atomically, never unpickled, refused where they do not fit."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from core.errors import UserError
from core.files import atomic


def fingerprint(task_name: str, network: nn.Module, fitted: BaseModel) -> str:
    """Give the SHA-256 of what a checkpoint must fit: task, parameter names and shapes, label map and features."""
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    text = json.dumps([task_name, shapes, fitted.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors, numbers, texts, lists and dicts."""
    with atomic(path) as temporary:
        torch.save(dict(content), temporary)


def check_basis(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint that was made on another basis.

    Args:
        path: The checkpoint, for the message.
        stored: What it was made with: hashes or numbers by name (config, data, processes).
        current: The same of this run.

    Raises:
        UserError: They differ; names the first that does.
    """
    for name, value in current.items():
        if stored.get(name) != value:
            raise UserError(
                f"{path}: made with other {name} ({str(stored.get(name))[:12]}, now {str(value)[:12]}); "
                f"restore the {name} it was made with, or start a new run"
            )


def keep_best(folder: Path, step: int) -> None:
    """Drop the weights of earlier best steps, once the checkpoint that names the new one is written."""
    for path in folder.glob("best-*.pt"):
        if path.stem != f"best-{step}":
            path.unlink(missing_ok=True)


def load(path: Path, expected: str | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: File written by `save`.
        expected: Fingerprint it must carry, or None to accept any.

    Raises:
        UserError: The file is missing, damaged, holds objects, or belongs to another task or architecture.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; check the path") from None
    except pickle.UnpicklingError as error:
        reason = str(error).split(".")[0].replace("\n", " ")
        raise UserError(f"{path}: refused, holds more than tensors and numbers ({reason}); make it anew") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}: damaged checkpoint ({reason}); use an earlier one") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of this project; check the path")
    if expected is not None and content.get("fingerprint") != expected:
        raise UserError(
            f"{path}: fingerprint {str(content.get('fingerprint'))[:12]} does not fit {expected[:12]} "
            "(another task, architecture, feature list or label map); use the run's own config and data"
        )
    return content
