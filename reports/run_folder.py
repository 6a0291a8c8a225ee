"""What a report knows of a run: the files of its folder, read once and checked."""

import math
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import read_json, read_yaml

SETTINGS = ("centralized", "federated", "local")
"""In the order in which reports name them."""

STATES = ("running", "completed", "degraded", "failed", "stopped")


@dataclass(frozen=True)
class RunRecord:
    """One task, one setting, one seed. A run that failed or still runs has an empty `evaluation`."""

    folder: Path
    setting: str
    seed: int
    status: str
    error: str | None
    failures: Sequence[Mapping[str, Any]]
    """Of clients that were given up."""
    retried: Sequence[Mapping[str, Any]]
    """Failures after which the client was asked again."""
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    unit: str
    """`epoch` or `round`: what a step of the history is."""
    steps: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    baselines: Sequence[Mapping[str, Any]] = ()
    """Scores of methods without a network, where the run has them."""

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """Read a run folder.

        Raises:
            UserError: It is no run folder, or a file it must have is missing or broken.
        """
        status = _read_status(folder)
        finished = status["status"] in ("completed", "degraded")
        history = _read_part(folder, "history.json", finished, {"steps": list}) or {"unit": "epoch", "steps": []}
        evaluation = _read_part(folder, "eval_summary.json", finished, {"rows": list, "primary": str, "clients": list})
        baselines = _read_part(folder, "baselines.json", False, {"rows": list})
        _check_rows(folder / "eval_summary.json", evaluation.get("rows", []), ("model", "data", "support", "metrics"))
        _check_rows(folder / "baselines.json", baselines.get("rows", []), ("model", "data", "metrics"))
        return cls(
            folder=folder,
            setting=status["setting"],
            seed=int(status["seed"]),
            status=status["status"],
            error=status.get("error"),
            failures=status.get("failures") or [],
            retried=status.get("retried") or [],
            config=read_yaml(folder / "config.yaml", "restore it or repeat the run"),
            manifest=_read_part(folder, "manifest.json", finished, {"clients": dict, "budget": dict}),
            unit=history.get("unit", "epoch"),
            steps=history["steps"],
            evaluation=evaluation,
            baselines=baselines.get("rows", []),
        )

    @property
    def label(self) -> str:
        """Name the run by what it is."""
        return f"{self.setting}, seed {self.seed}"

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.config.get("task", "unknown task"))

    @property
    def clients(self) -> list[str]:
        """Names of the clients; of an unfinished run those that its history knows."""
        known = self.evaluation.get("clients") or list(self.manifest.get("clients", {}))
        if not known:
            known = sorted({name for step in self.steps for name in step.get("val", {}) if name != "pooled"})
        return [str(name) for name in known]

    @property
    def models(self) -> list[str]:
        """Names of the models that were trained: one, or in the local setting one per client."""
        return self.clients if self.setting == "local" else [self.setting]

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Test scores: one model on one set each."""
        return self.evaluation.get("rows", [])  # type: ignore[no-any-return]

    def model_of(self, client: str) -> str:
        """Name the model that a client would use: its own in the local setting, else the common one."""
        return client if self.setting == "local" else self.setting

    def row(self, model: str, data: str) -> Mapping[str, Any] | None:
        """Give the test scores of a model on a set, or None where it was not scored."""
        return self._scores.get((model, data))

    @cached_property
    def _scores(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        return {(row["model"], row["data"]): row for row in self.rows}

    def value(self, model: str, data: str, metric: str) -> float:
        """Give one metric of a model on a set; NaN where it is missing or undefined."""
        row = self.row(model, data)
        value = row["metrics"].get(metric) if row else None
        return math.nan if value is None else float(value)

    @property
    def axis(self) -> str:
        """What the arrays of the scores run over: class, gene, ..."""
        return str(self.evaluation.get("axis") or "class")

    @property
    def classes(self) -> list[str]:
        """Names along that axis; empty where there are none."""
        return [str(name) for name in self.evaluation.get("classes") or []]

    def arrays(self, model: str, data: str) -> dict[str, np.ndarray]:
        """Give the array scores of a model on a set (per class, confusion matrix) as float64, undefined as NaN.

        Raises:
            UserError: One is no array of numbers.
        """
        row = self.row(model, data)
        arrays = {}
        for name, values in (row.get("arrays") or {}).items() if row else ():
            try:
                arrays[name] = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError) as error:
                path = self.folder / "eval_summary.json"
                raise UserError(
                    f"{path}: {name} of {model} on {data} is no array of numbers; repeat the run"
                ) from error
        return arrays

    def support(self, data: str) -> int:
        """Give the number of test samples of a set, 0 where nothing was scored on it."""
        return max((int(row["support"]) for row in self.rows if row["data"] == data), default=0)

    def predictions(self, model: str, data: str, keys: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Read the stored predictions of a model on a set, all or some of them; empty where none are stored.

        Raises:
            UserError: The file is broken.
        """
        path = self.folder / "predictions" / f"{model}__{data}.npz"
        if not path.exists():
            return {}
        try:
            with np.load(path) as stored:
                return {key: stored[key] for key in stored.files if keys is None or key in keys}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable npz file ({_line(error)}); repeat the run or remove it") from error


def _read_status(folder: Path) -> Mapping[str, Any]:
    path = folder / "status.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder; name a folder that holds status.json")
    if not path.exists():
        raise UserError(f"{path}: missing, so this is no run folder; name a folder that a run has made")
    status = read_json(path)
    known: dict[str, Sequence[Any]] = {"status": STATES, "setting": SETTINGS}
    for key, allowed in known.items():
        value = status.get(key) if isinstance(status, dict) else None
        if value not in allowed:
            raise UserError(f"{path}: {key} = {value!r} is none of {', '.join(allowed)}; restore it or repeat the run")
    if not isinstance(status.get("seed"), int):
        raise UserError(f"{path}: seed = {status.get('seed')!r} is no integer; restore it or repeat the run")
    return status  # type: ignore[no-any-return]


def _read_part(folder: Path, name: str, needed: bool, keys: Mapping[str, type]) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        if needed:
            raise UserError(f"{path}: missing although status.json calls the run finished; repeat the run")
        return {}
    content = read_json(path)
    for key, kind in keys.items():
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, kind):
            raise UserError(f"{path}: {key} is {type(value).__name__}, not {kind.__name__}; repeat the run")
    return content  # type: ignore[no-any-return]


def _check_rows(path: Path, rows: Sequence[Any], keys: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        missing = [key for key in keys if key not in row]
        if missing:
            raise UserError(f"{path}: rows[{number}] has no {missing[0]}; repeat the run")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
