"""What a run says of its data and its network before it trains."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from training.parameters import count_parameters
from training.runs import Run
from training.task import Task


def announce(run: Run, task: Task, network: nn.Module, descriptions: Mapping[str, Mapping[str, Any]]) -> None:
    """Log the counts of each client, then the parameters and what the task says of the network."""
    for client in sorted(descriptions):
        run.log(
            f"{client}: {', '.join(_said(key, value) for key, value in descriptions[client].items() if key != 'files')}"
        )
    counts = count_parameters(network)
    facts = "".join(f", {key} {value}" for key, value in task.facts(network).items())
    run.log(f"parameters: {counts['trainable']:,} trainable of {counts['total']:,}{facts}")


def _said(key: str, value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{key} {value}"
    if key == "labels":
        return f"{len(value)} labels"
    return f"{key}: {' '.join(f'{name} {count}' for name, count in value.items())}"
