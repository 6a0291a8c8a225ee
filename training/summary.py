"""metrics.json: the selected and the last epoch (or round) of a run in a few numbers, for tables over many runs."""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean as mean
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
        each client has a model of its own, every number is the mean over these models, but for those without a sample
        that the number is about: `without` names these by number. One that is undefined for any other reason leaves the
        mean undefined. Of epochs there is no mean: where they differ, `epoch` is a text, the first `to` the last.
    """
    steps = {int(step["step"]): step for step in history}
    each = {model: _stats(steps[number], model) for model, number in selected.items()}
    ends = {model: _last(steps, model) for model in selected}
    best, last = _mean([*each.values()]), _mean([_stats(steps[number], model) for model, number in ends.items()])
    without = {key: [model for model, stats in each.items() if key not in stats] for key in best}
    return {
        "run_name": name,
        "best_primary": best.get(f"val_{primary}", math.nan),
        "best": {"epoch": _span(selected.values()), **best},
        "last": {"epoch": _span(ends.values()), **last},
        "without": {key: models for key, models in without.items() if models},
    }


def _last(steps: Mapping[int, Mapping[str, Any]], model: str) -> int:
    """Give the last step of a model; early stopping ends some before others."""
    return max(number for number, step in steps.items() if {model, "pooled"} & {*step.get("val", {}), *step["train"]})


def _span(steps: Collection[int]) -> int | str:
    first, last = min(steps), max(steps)
    return first if first == last else f"{first} to {last}"


def _stats(step: Mapping[str, Any], model: str) -> Stats:
    train = _of(step.get("train", {}), model)
    val = _of(step.get("val", {}), model)
    stats = {"lr": train[0]["lr"] if train else math.nan}
    stats |= {f"train_{key}": value for key, value in _weighted(train).items()}
    return stats | {f"val_{key}": value for key, value in _weighted(val).items()}


def _of(entries: Mapping[str, Any], model: str) -> list[Mapping[str, Any]]:
    """Give a model's own entry, that of the pool, or those of all clients that shared it in a round."""
    for name in (model, "pooled"):
        if name in entries:
            return [entries[name]]
    return list(entries.values())


def _weighted(entries: Sequence[Mapping[str, Any]]) -> Stats:
    """Average each metric by the samples that it is about; a single value is given as it is."""
    weighted: dict[str, list[tuple[float, int]]] = {}
    for entry in entries:
        for name, value in entry["metrics"].items():
            if support := entry.get("supports", {}).get(name, entry["support"]):
                weighted.setdefault(name, []).append((math.nan if value is None else value, support))
    return {name: _average(pairs) for name, pairs in weighted.items()}


def _average(weighted: Sequence[tuple[float, int]]) -> float:
    if len(weighted) == 1:
        return weighted[0][0]
    return sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted)


def _mean(several: Sequence[Stats]) -> Stats:
    names = dict.fromkeys(name for stats in several for name in stats)
    return {name: mean(stats[name] for stats in several if name in stats) for name in names}
