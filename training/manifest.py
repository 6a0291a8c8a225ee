"""manifest.json: everything a reader needs to judge, compare and repeat a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel

from training.config import Experiment
from training.device import effective_precision
from training.memory import peak_gpu_mb, peak_memory_mb
from training.preparation import fitted_hash
from training.provenance import provenance


@dataclass(frozen=True)
class Outcome:
    """What became of one model."""

    fitted: BaseModel
    parameters: dict[str, int]
    """`trainable` and `total`."""
    monitor: str
    selected: int
    """Epoch or round whose weights are final."""
    samples: int
    """Samples seen in training."""
    initial_sha256: str
    weights_sha256: str
    facts: dict[str, Any]
    accepted: dict[str, Any] = field(default_factory=dict)
    """`code` or `data` -> digests of others that earlier parts of the training rest on, by --accept."""


def skipped_steps(history: Iterable[Mapping[str, Any]]) -> int:
    """Count the steps that were left out because GPU memory ran out."""
    return sum(entry.get("skipped", 0) for step in history for entry in step.get("train", {}).values())


def manifest(
    experiment: Experiment,
    outcomes: Mapping[str, Outcome],
    *,
    clients: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, str],
    split: str | None,
    held_out: int | None,
    budget: Mapping[str, int | None],
    seconds: float,
    device: torch.device,
    **extra: Any,
) -> dict[str, Any]:
    """Put a manifest together.

    Args:
        experiment: As resolved.
        outcomes: Model name -> outcome.
        clients: Client -> samples per split and label counts.
        data: Client, and `held_out` where there is such a set -> SHA-256 of its data.
        split: SHA-256 of who is in which split, or None where the task names nobody.
        held_out: Samples of the held-out set, or None.
        budget: Epochs or rounds.
        seconds: Wall time of the run; of the earlier parts of a resumed one, that of their epochs or rounds.
        device: Where it was trained.
        extra: Further entries, such as the bytes exchanged.
    """
    first = next(iter(outcomes.values()))
    return {
        "task": experiment.task,
        "experiment": experiment.experiment or None,
        "description": experiment.description or None,
        "clients": dict(clients),
        "held_out": held_out,
        "parameters": first.parameters,
        "budget": {"samples": sum(outcome.samples for outcome in outcomes.values()), **budget},
        "precision": effective_precision(device.type, experiment.train.precision),
        "select": experiment.train.select,
        "monitor": first.monitor,
        "selected": {name: outcome.selected for name, outcome in outcomes.items()},
        "initial_sha256": first.initial_sha256,
        "weights_sha256": {name: outcome.weights_sha256 for name, outcome in outcomes.items()},
        "fitted_sha256": {name: fitted_hash(outcome.fitted) for name, outcome in outcomes.items()},
        "data": dict(data),
        "accepted": {name: outcome.accepted for name, outcome in outcomes.items() if outcome.accepted},
        "split_sha256": split,
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_mb": peak_gpu_mb(device),
        "environment": provenance(device, experiment.task),
        "facts": first.facts,
        "dry_run": experiment.train.limit_batches is not None,
        **extra,
    }
