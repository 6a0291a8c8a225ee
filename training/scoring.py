"""Rows of eval_summary.json: one model on one set."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from training.config import Experiment
from training.metrics import Metrics, States
from training.task import Task


def entry(metrics: Metrics) -> dict[str, Any]:
    """Give the scalars and the support, as the history stores them."""
    measured = metrics.compute()
    return {"metrics": measured.values, "support": measured.support, "supports": measured.supports}


def row(model: str, data: str, metrics: Metrics) -> dict[str, Any]:
    """Give the scores of a model on a test set, arrays included."""
    measured = metrics.compute()
    return {
        "model": model,
        "data": data,
        "split": "test",
        "support": measured.support,
        "supports": measured.supports,
        "metrics": measured.values,
        "arrays": measured.arrays,
    }


def merged(task: Task, fitted: BaseModel, states: Iterable[States]) -> Metrics:
    """Add up the states of several clients."""
    metrics = Metrics(task.metrics(fitted))
    for one in states:
        metrics.merge(one)
    return metrics


def summary_head(
    experiment: Experiment, task: Task, fitted: BaseModel, clients: list[str], pooled: Metrics
) -> dict[str, Any]:
    """Give the head of eval_summary.json: what its rows mean."""
    return {
        "task": experiment.task,
        "primary": task.primary,
        "higher_is_better": dict(sorted(pooled.directions().items())),
        "axis": task.axis,
        "classes": task.classes(fitted),
        "clients": clients,
    }
