"""Checkpoints of tensors and plain values: written atomically, never unpickled, refused where they do not fit."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from core.errors import UserError
from core.files import atomic, read_json, write_json

ACCEPTED = "accepted.json"
RESTORE = "restore the file that the run wrote, or start a new run"
"""What helps where a checkpoint cannot be used: none stands in for another."""


class Acceptable(StrEnum):
    """What may have changed since a checkpoint was written, where the user says so by name."""

    code = "code"
    data = "data"


def fingerprint(task_name: str, network: nn.Module, fitted: BaseModel) -> str:
    """Give the SHA-256 of what a checkpoint must fit: task, parameter names and shapes, label map and features."""
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    text = json.dumps([task_name, shapes, fitted.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors, numbers, texts, lists and dicts.

    Raises:
        UserError: There is no room for it.
    """
    with atomic(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(dict(content), stream)
        except RuntimeError as error:  # Torch stumbles over what the system said, and hides it.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def check_accept(changed: Sequence[Acceptable], resume: Path | None) -> None:
    """Refuse to accept a change where no run goes on.

    Raises:
        UserError: `--accept` without `--resume`.
    """
    if changed and not resume:
        raise UserError(f"--accept {changed[0]}: has no effect on a new run; use it with --resume RUN")


def accept(run: Path, changed: Sequence[Acceptable]) -> None:
    """Note in a run folder what may have changed since its last checkpoint; this holds until the next --resume."""
    if changed or (run / ACCEPTED).exists():
        write_json(run / ACCEPTED, [str(name) for name in changed])


def check_basis(path: Path, run: Path, content: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse to go on from a checkpoint that was made on another basis, unless the difference was accepted.

    Args:
        path: The checkpoint, for the message.
        run: The run folder.
        content: What the checkpoint holds: `basis`, hashes or numbers by name (config, data, code, processes), and
            the earlier ones that were `accepted`.
        current: The basis of this run.

    Returns:
        Name -> all earlier values that this run went on from although they were others.

    Raises:
        UserError: They differ; names the first that does.
    """
    stored, past = content["basis"], dict(content.get("accepted", {}))
    accepted = read_json(run / ACCEPTED) if (run / ACCEPTED).exists() else []
    for name, value in current.items():
        if stored.get(name) == value:
            continue
        if name not in accepted:
            hint = f", go on with --accept {name}" if name in list(Acceptable) else ""
            raise UserError(
                f"{path}: made with other {name} ({str(stored.get(name))[:12]}, now {str(value)[:12]}); "
                f"restore the {name} it was made with{hint}, or start a new run"
            )
        past[name] = [*past.get(name, []), stored.get(name)]
    return past


def said(accepted: Mapping[str, Any]) -> str:
    """Give the words that tell of accepted changes, for the log."""
    return f", although made with other {' and '.join(accepted)} (--accept)" if accepted else ""


def keep_best(folder: Path, step: int) -> None:
    """Drop the weights of earlier best steps, once the checkpoint that names the new one is written."""
    for path in folder.glob("best-*.pt"):
        if path.stem != f"best-{step}":
            path.unlink(missing_ok=True)


def load(
    path: Path, expected: str | None = None, *, holds: Collection[str] = (), of: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: File written by `save`.
        expected: Fingerprint it must carry, or None to accept any.
        holds: Names of what it must hold; another kind of checkpoint lacks some.
        of: What it must say of itself, such as the client and the round it belongs to.

    Raises:
        UserError: The file is missing, damaged, holds objects, or belongs to something else.
    """
    content = _intact(path)
    if expected is not None and content.get("fingerprint") != expected:
        raise UserError(
            f"{path}: fingerprint {str(content.get('fingerprint'))[:12]} does not fit {expected[:12]} "
            "(another task, architecture, feature list or label map); use the run's own config and data"
        )
    for name in holds:
        if name not in content:
            raise UserError(f"{path}: holds no {name}, so it is another kind of checkpoint; {RESTORE}")
    for name, value in (of or {}).items():
        if content.get(name) != value:
            raise UserError(f"{path}: of {name} {content.get(name)}, where that of {name} {value} belongs; {RESTORE}")
    return content


def _intact(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, every bit of it as it was."""
    try:
        _check_bits(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; {RESTORE}") from None
    except pickle.UnpicklingError as error:
        reason = str(error).split(".")[0].replace("\n", " ")
        raise UserError(f"{path}: refused, holds more than tensors and numbers ({reason}); make it anew") from None
    except Exception as error:  # as many kinds as there are bits to flip
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: damaged checkpoint ({reason}); {RESTORE}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a checkpoint of this project; check the path")
    return content


def _check_bits(path: Path) -> None:
    """Compare every record with the CRC-32 that `torch.save` stores and `torch.load` does not look at."""
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} has changed since it was written")
