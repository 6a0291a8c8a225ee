"""metrics.json: the selected and the last epoch (or round) of a run in a few numbers, for tables over many runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Stats = dict[str, float]


def summary(
    name: str, history: Sequence[Mapping[str, Any]], primary: str, selected: Mapping[str, int]
) -> dict[str, Any]:
    """Sum up a run.

    Args:
        name: Of the run.
        history: Steps as in history.json.
        primary: The headline metric.
        selected: Model -> epoch or round whose weights are final.

    Returns:
        `run_name`, `best_primary`, and `best` and `last` with `epoch`, `lr`, `train_<loss>` and `val_<metric>`. Where
        each client has a model of its own, every number is the mean over these models.
    """
    steps = {int(step["step"]): step for step in history}
    best = _mean([_stats(steps[number], model) for model, number in selected.items()])
    last = _mean([_stats(steps[_last(steps, model)], model) for model in selected])
    return {"run_name": name, "best_primary": best.get(f"val_{primary}", math.nan), "best": best, "last": last}


def _last(steps: Mapping[int, Mapping[str, Any]], model: str) -> int:
    """Give the last step of a model; early stopping ends some before others."""
    return max(number for number, step in steps.items() if {model, "pooled"} & {*step.get("val", {}), *step["train"]})


def _stats(step: Mapping[str, Any], model: str) -> Stats:
    train = _of(step.get("train", {}), model)
    val = _of(step.get("val", {}), model)
    stats = {"epoch": float(step["step"]), "lr": train[0]["lr"] if train else math.nan}
    stats |= {f"train_{key}": value for key, value in _weighted(train).items()}
    return stats | {f"val_{key}": value for key, value in _weighted(val).items()}


def _of(entries: Mapping[str, Any], model: str) -> list[Mapping[str, Any]]:
    """Give a model's own entry, that of the pool, or those of all clients that shared it in a round."""
    for name in (model, "pooled"):
        if name in entries:
            return [entries[name]]
    return list(entries.values())


def _weighted(entries: Sequence[Mapping[str, Any]]) -> Stats:
    """Average by samples; a single entry is given as it is."""
    total = sum(entry["support"] for entry in entries)
    names = entries[0]["metrics"] if entries else ()
    return {
        name: sum(_number(entry["metrics"].get(name)) * entry["support"] for entry in entries) / total
        if len(entries) > 1
        else _number(entries[0]["metrics"][name])
        for name in names
    }


def _mean(several: Sequence[Stats]) -> Stats:
    names = dict.fromkeys(name for stats in several for name in stats)
    means = {name: sum(stats.get(name, math.nan) for stats in several) / len(several) for name in names}
    return {**means, "epoch": int(means["epoch"]) if means["epoch"].is_integer() else means["epoch"]}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
