"""All runs below a folder in one Markdown table per kind of task, read from the `metrics.json` of each run.

Columns and text follow the aggregation of the image-to-expression reference (spec image_expression, section 5).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json

FILE = "metrics.json"
CORRELATIONS = ("val_spearman", "val_pearson")
"""Columns of regressions, whatever else they measure."""
LOSSES = ("val_loss", "train_loss")


@dataclass(frozen=True)
class Summary:
    """What `metrics.json` says about a run: the values of its best epoch (or round), else of its last."""

    name: str
    path: str
    best_primary: Any
    values: Mapping[str, Any]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Columns of its own, in the order of the file."""
        names = [key for key in self.values if key.startswith("val_") and key not in LOSSES]
        return CORRELATIONS if set(names) & set(CORRELATIONS) else tuple(names)


def read_summaries(results: Path) -> list[Summary]:
    """Read every metrics.json below a folder, sorted by path.

    Raises:
        UserError: There is no such folder, it holds no metrics.json, or one is broken.
    """
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; name a folder of runs, e.g. results/")
    paths = sorted(results.rglob(FILE))
    if not paths:
        raise UserError(f"{results}: holds no {FILE}; name a folder below which runs have finished an epoch or round")
    return [_read(path) for path in paths]


def markdown(summaries: Sequence[Summary]) -> str:
    """Write one table per set of metrics; a run with fewer metrics than others stands with those."""
    return "\n".join(_table(metrics, group) for metrics, group in _groups(summaries).items())


def _read(path: Path) -> Summary:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, no run_name, best and last; repeat the run")
    for key in ("best", "last"):
        if not isinstance(content.get(key) or {}, dict):
            raise UserError(f"{path}: {key} is {type(content[key]).__name__}, not key: value pairs; repeat the run")
    return Summary(
        name=str(content.get("run_name") or path.parent.name),
        path=path.parent.as_posix(),
        best_primary=content.get("best_primary"),
        values=content.get("best") or content.get("last") or {},
    )


def _groups(summaries: Sequence[Summary]) -> dict[tuple[str, ...], list[Summary]]:
    """Sort runs by their metrics; the order is that of the first run of each table."""
    kinds = sorted(dict.fromkeys(one.metrics for one in summaries), key=len, reverse=True)
    groups: dict[tuple[str, ...], list[Summary]] = {}
    for one in summaries:
        home = next(kind for kind in kinds if set(one.metrics) <= set(kind))
        groups.setdefault(home, []).append(one)
    return groups


def _table(metrics: Sequence[str], group: Sequence[Summary]) -> str:
    columns = ["run", "epoch", "best_primary", *metrics, *LOSSES, "path"]
    lines = [columns, ["---"] * len(columns)]
    for one in group:
        values = [one.values.get(name) for name in (*metrics, *LOSSES)]
        lines.append(
            [_text(value) for value in (one.name, one.values.get("epoch"), one.best_primary, *values, one.path)]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: Any) -> str:
    """Write floats to four decimals (also `nan` and `-inf`), nothing for what is missing, all else as it is."""
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).split()).replace("|", r"\|")
