"""Weight files read without running anything in them: `torch.save` files under an allow-list, and safetensors."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import UserError
from core.files import atomic

METADATA_KEY = "hyper_parameters"
"""Where a safetensors file we write keeps its hyper-parameters, as JSON."""


def load(path: Path) -> dict[str, Any]:
    """Read a weight file: what `torch.save` stored, or for `.safetensors` the layout of a Lightning file.

    Lightning files may hold numpy float64 scalars (in optimizer and schedule state); those and plain data are all
    that is ever unpickled.

    Raises:
        UserError: The file is missing, cut off, of another kind, or asks for code to be run.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path of the checkpoint")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__} instead of named weights; give a checkpoint file")
    return content


def save(path: Path, tensors: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> None:
    """Write tensors and hyper-parameters as one safetensors file, atomically.

    Raises:
        UserError: The name does not end in .safetensors, or the folder cannot be written to.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the target must end in .safetensors; give such a name")
    metadata = {"format": "pt", METADATA_KEY: json.dumps(dict(hyper_parameters), default=str)}
    with atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def _load_torch(path: Path) -> object:
    with torch.serialization.safe_globals(_numpy_scalar_globals()):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes make the reader fail in any way there is
            raise _unreadable(path, error) from error


def _numpy_scalar_globals() -> list[Any]:
    """Allow what a pickled numpy float64 needs; numpy 1 and 2 give its constructor different names."""
    constructor = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((constructor, name) for name in names), np.dtype, type(np.dtype(np.float64))]


def _unreadable(path: Path, error: Exception) -> UserError:
    unsafe = re.search(r"GLOBAL (\S+)", str(error))
    if unsafe:
        return UserError(
            f"{path}: refused, because it asks for {unsafe[1]}, which is no plain data and could run code; get the "
            f"weights as safetensors or plain tensors"
        )
    kind = "not a checkpoint, or damaged" if zipfile.is_zipfile(path) else "not a checkpoint, or cut off"
    return UserError(f"{path}: {kind} ({path.stat().st_size:,} bytes); download or copy the file again")


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content: dict[str, Any] = {"state_dict": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a safetensors file, or cut off ({path.stat().st_size:,} bytes); download or copy the file "
            f"again"
        ) from error
    if METADATA_KEY in metadata:
        try:
            content["hyper_parameters"] = json.loads(metadata[METADATA_KEY])
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: metadata {METADATA_KEY} is not JSON; convert the original file anew") from error
    return content
