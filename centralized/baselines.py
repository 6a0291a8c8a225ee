"""Methods without a network, scored on the same test sets as the networks."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from training.loading import Pool, fetch
from training.metrics import Metrics
from training.scoring import merged, row
from training.task import ClientData, Samples, Task


def baseline_rows(
    task: Task, fitted: BaseModel, data: Mapping[str, ClientData], held_out: Samples | None
) -> list[dict[str, Any]]:
    """Fit what the task sets its networks beside on the pooled training samples, and score it.

    Args:
        task: Gives the methods.
        fitted: Preprocessing fitted on all clients.
        data: Client -> its splits.
        held_out: The set that belongs to no client, where there is one.

    Returns:
        A row for each method on every client's test set, on all of these together, and on the held-out set.
    """
    methods = task.baselines(Pool([one.train for one in data.values()]), fitted)
    rows = []
    for name, method in methods.items():
        scored = {}
        sets = {client: one.test for client, one in data.items()}
        for place, samples in {**sets, **({} if held_out is None else {"held_out": held_out})}.items():
            metrics = Metrics(task.metrics(fitted))
            batch = fetch(samples, range(len(samples)))
            task.observe(metrics.collection, method(batch), batch)
            metrics.count = len(samples)
            scored[place] = metrics
        pooled = merged(task, fitted, [scored[client].states() for client in data])
        rows += [row(name, place, metrics) for place, metrics in {**scored, "pooled": pooled}.items()]
    return rows
