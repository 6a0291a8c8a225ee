"""Rows of eval_summary.json: one model on one set."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from training.config import Experiment
from training.metrics import Metrics, States
from training.task import Task


def entry(metrics: Metrics) -> dict[str, Any]:
    """Give the scalars and the support, as the history stores them."""
    measured = metrics.compute()
    return {"metrics": measured.values, "support": measured.support}


def row(model: str, data: str, metrics: Metrics) -> dict[str, Any]:
    """Give the scores of a model on a test set, arrays included."""
    measured = metrics.compute()
    return {
        "model": model,
        "data": data,
        "split": "test",
        "support": measured.support,
        "metrics": measured.values,
        "arrays": measured.arrays,
    }


def merged(task: Task, fitted: BaseModel, states: Iterable[States]) -> Metrics:
    """Add up the states of several clients."""
    metrics = Metrics(task.metrics(fitted))
    for one in states:
        metrics.merge(one)
    return metrics


def directions(task: Task, fitted: BaseModel, rows: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Give metric -> whether higher is better, for all scalars that occur; parts of the loss count as losses."""
    metrics = Metrics(task.metrics(fitted))
    names = {name for one in rows for name in one["metrics"]}
    return {name: name in metrics.collection and metrics.higher_is_better(name) for name in sorted(names)}


def summary_head(
    experiment: Experiment, task: Task, fitted: BaseModel, clients: list[str], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Give the head of eval_summary.json: what its rows mean."""
    return {
        "task": experiment.task,
        "primary": task.primary,
        "higher_is_better": directions(task, fitted, rows),
        "classes": task.classes(fitted),
        "clients": clients,
    }
