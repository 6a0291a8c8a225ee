"""What travels: tensors as arrays, everything else as JSON, several clients in one message."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """One client's share of a message: named groups of arrays, and plain values."""

    info: dict[str, Any]
    arrays: dict[str, Arrays] = field(default_factory=dict)


def pack(parts: Mapping[str, Part]) -> RecordDict:
    """Put the shares of several clients (or `all` for the same to everyone) into one record."""
    record = RecordDict({"index": ConfigRecord({"names": json.dumps(list(parts))})})
    for number, part in enumerate(parts.values()):
        record[f"{number}.info"] = ConfigRecord({"json": json.dumps(part.info)})
        for group, arrays in part.arrays.items():
            record[f"{number}.arrays.{group}"] = to_record(arrays)
    return record


def unpack(record: RecordDict) -> dict[str, Part]:
    """Take apart what `pack` made.

    Raises:
        ValueError: A name occurs twice.
    """
    parts: dict[str, Part] = {}
    for number, name in enumerate(json.loads(str(record.config_records["index"]["names"]))):
        if name in parts:
            raise ValueError(f"two answers for {name} in one reply")
        info = json.loads(str(record.config_records[f"{number}.info"]["json"]))
        start = f"{number}.arrays."
        groups = {
            key.removeprefix(start): from_record(value)
            for key, value in record.array_records.items()
            if key.startswith(start)
        }
        parts[name] = Part(info, groups)
    return parts


def to_record(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Turn numpy arrays into a Flower record, bit for bit."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """Turn a Flower record into numpy arrays, bit for bit."""
    return {name: array.numpy() for name, array in record.items()}


def to_arrays(state: Mapping[str, Tensor], names: Sequence[str]) -> Arrays:
    """Copy the named tensors to numpy; float types that numpy lacks (bfloat16) widen to float32."""
    return {name: state[name].detach().cpu().to(_numpy_type(state[name].dtype)).numpy().copy() for name in names}


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Turn arrays back into tensors."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def payload(arrays: Mapping[str, np.ndarray]) -> int:
    """Give the bytes of the arrays, without framing."""
    return sum(array.nbytes for array in arrays.values())


def _numpy_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype
