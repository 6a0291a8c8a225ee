"""What each setting cost: time, samples, bytes, memory, parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.numbers import NOT_RUN, Spread, counted, data_size
from reports.run_folder import SETTINGS, RunRecord


@dataclass(frozen=True)
class Cost:
    """One setting, as its manifests state it; one value per seed."""

    setting: str
    seconds: Spread
    peak_memory_mb: Spread
    peak_gpu_mb: Spread
    samples: list[int | None]
    bytes_up: list[int | None]
    bytes_down: list[int | None]
    trainable: list[int | None]
    total: list[int | None]
    length: str
    """Epochs, or rounds and their local epochs; and processes, where there were several."""


def costs(records: Sequence[RunRecord]) -> list[Cost]:
    """Collect the costs of every setting that has a result."""
    groups = {setting: [one for one in records if one.setting == setting and one.rows] for setting in SETTINGS}
    return [_cost(setting, group) for setting, group in groups.items() if group]


def _cost(setting: str, group: list[RunRecord]) -> Cost:
    def numbers(*keys: str) -> list[Any]:
        return [_nested(record.manifest, keys) for record in group]

    def spread(key: str) -> Spread:
        return Spread(tuple(float(value) for value in numbers(key) if value is not None))

    return Cost(
        setting=setting,
        seconds=spread("seconds"),
        peak_memory_mb=spread("peak_memory_mb"),
        peak_gpu_mb=spread("peak_gpu_mb"),
        samples=numbers("budget", "samples"),
        bytes_up=numbers("bytes", "up"),
        bytes_down=numbers("bytes", "down"),
        trainable=numbers("parameters", "trainable"),
        total=numbers("parameters", "total"),
        length=_length(group),
    )


def size_range(values: Sequence[int | None]) -> str:
    """Write bytes, or their range where runs differ."""
    known = sorted({value for value in values if value is not None})
    return " to ".join(dict.fromkeys(data_size(value) for value in (known[0], known[-1]))) if known else NOT_RUN


def _length(group: list[RunRecord]) -> str:
    processes = [record.manifest.get("processes") for record in group]
    several = any((count or 1) > 1 for count in processes)
    return _epochs(group) + (f", {counted(processes)} processes" if several else "")


def _epochs(group: list[RunRecord]) -> str:
    budgets = [record.manifest.get("budget", {}) for record in group]
    if any(budget.get("rounds") for budget in budgets):
        rounds, local = (counted([budget.get(key) for budget in budgets]) for key in ("rounds", "local_epochs"))
        return f"{rounds} rounds of {local} epochs"
    return f"{counted([budget.get('epochs') for budget in budgets])} epochs"


def _nested(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
