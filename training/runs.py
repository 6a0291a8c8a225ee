"""The run folder, the same for the three settings, so that a report needs no cases.

config.yaml  manifest.json  status.json  history.json  metrics.csv  metrics.json  eval_summary.json
predictions/  checkpoints/  model_final.pt and .json (local: one per client)  log.txt  tensorboard/
"""

import contextlib
import datetime
import json
import re
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from core.errors import UserError, one_line
from core.files import append_text, read_json, write_json, write_text
from core.locks import Lock, hold, is_empty
from training import checkpoints
from training.config import Experiment, load, to_yaml
from training.long_form import long_form
from training.parameters import weights_hash
from training.predictions import save_predictions
from training.summary import summary
from training.tensorboard import Scalars

Setting = Literal["centralized", "local", "federated"]
Status = Literal["running", "completed", "degraded", "failed", "stopped"]
"""A search stops a trial that is not worth its time."""
EXIT_CODES: dict[str, int] = {"completed": 0, "degraded": 3}
"""A failed run ends with 1, with 2 where input was refused, with 130 after Ctrl-C."""


class Run:
    """One task, one setting, one seed, one folder."""

    def __init__(self, folder: Path, experiment: Experiment, setting: Setting) -> None:
        """Wrap a folder that exists; see `create`, `resume` and `attach`."""
        self.folder, self.experiment, self.setting = folder, experiment, setting
        self.failures: list[dict[str, Any]] = []
        self.retried: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.earlier_seconds = 0.0
        self.lock: Lock | None = None
        self.scalars = Scalars(folder / "tensorboard") if experiment.train.tensorboard else None

    @classmethod
    def create(cls, folder: Path, experiment: Experiment, setting: Setting) -> Self:
        """Start a run in a new folder, which this process then holds.

        Raises:
            UserError: The folder exists, is a link, cannot be written, or another process starts a run in it.
        """
        _refuse_links(folder)
        _refuse_occupied(folder)
        run = cls(folder, experiment, setting)
        run.lock = hold(folder)
        _refuse_occupied(folder)  # by a process that was faster
        write_text(folder / "config.yaml", f"# setting: {setting}\n{to_yaml(experiment)}")
        run.set_status("running")
        return run

    @classmethod
    def resume(cls, folder: Path, settings: Collection[Setting]) -> Self:
        """Reopen a run that was cut off, with the config it was started with; this process then holds its folder.

        Raises:
            UserError: It is no run folder, of another setting, already complete, still running, or holds links.
        """
        _refuse_links(folder)
        if not (folder / "status.json").is_file():
            raise UserError(f"{folder}: no run folder, it holds no status.json; name one of results/<task>/")
        lock = hold(folder)
        status = read_json(folder / "status.json")
        if not isinstance(status, dict) or not {"setting", "status"} <= status.keys():
            raise UserError(f"{folder / 'status.json'}: not written by a run; start a new run instead of --resume")
        if status["setting"] not in settings:
            raise UserError(f"{folder}: a {status['setting']} run; resume it with the command that started it")
        if status["status"] in EXIT_CODES:
            raise UserError(f"{folder}: this run is {status['status']}; there is nothing to resume")
        for half_written in folder.rglob(".*-????????.*"):  # by a process that was killed; see `core.files.atomic`
            half_written.unlink(missing_ok=True)
        run = cls.attach(folder)
        run.lock = lock
        run.set_status("running")
        return run

    @classmethod
    def attach(cls, folder: Path) -> Self:
        """Open a run folder that another process holds, or a run that has ended."""
        status = read_json(folder / "status.json")
        run = cls(folder, load(folder / "config.yaml"), status["setting"])
        run.retried = status.get("retried", [])
        return run

    @classmethod
    def at(cls, folder: Path, experiment: Experiment, setting: Setting) -> Self:
        """Open the run of an experiment in a folder: a new one, the one that was cut off there, or that has ended.

        Raises:
            UserError: What is there was made from another experiment, or another process works on it.
        """
        if not (folder / "status.json").exists():
            return cls.create(folder, experiment, setting)
        run = cls.attach(folder)
        if run.experiment.digest != experiment.digest:
            remedy = "go on with the config and overrides it was started with, or remove this folder"
            raise UserError(f"{folder}: made from another config; {remedy}")
        return run if run.code is not None else cls.resume(folder, (setting,))

    @property
    def code(self) -> int | None:
        """Exit code of a run that has come to its end, None of any other."""
        return EXIT_CODES.get(read_json(self.folder / "status.json")["status"])

    def release(self) -> None:
        """Let other processes write into the folder."""
        if self.lock:
            self.lock.release()

    def set_status(self, status: Status, error: str | None = None, exit_code: int | None = None) -> None:
        """Write status.json."""
        content = {
            "status": status,
            "setting": self.setting,
            "seed": self.experiment.seed,
            "error": error,
            "exit_code": EXIT_CODES.get(status) if exit_code is None else exit_code,
            "failures": self.failures,
            "retried": self.retried,
        }
        write_json(self.folder / "status.json", content)

    def finish(self) -> Status:
        """Close the run: completed, or degraded where a client failed on the way."""
        status: Status = "degraded" if self.failures else "completed"
        self.set_status(status)
        return status

    def fail(self, error: BaseException) -> int:
        """Record why the run ended: one line in status.json, the traceback in log.txt; give the exit code."""
        code = exit_code_of(error)
        # A full disk may have room for one of the two, or none.
        with contextlib.suppress(OSError, UserError):
            self.log_quietly("".join(traceback.format_exception(error)))
        with contextlib.suppress(OSError, UserError):
            self.set_status("failed", one_line(error), code)
        return code

    def client_failed(
        self, client: str, step: int, phase: str, message: str, details: str = "", *, kind: str = "failed",
        attempt: int | None = None,
    ) -> None:  # fmt: skip
        """Record the failure of one client, with the traceback, where there is one, in a file of its own.

        Args:
            client: Whose.
            step: Epoch or round; 0 before the first.
            phase: What was asked of it, such as `train`.
            message: One line.
            details: Traceback, or nothing.
            kind: `failed`, `refused` its input, `rejected` by the guard, or `died` with its worker.
            attempt: Number of the attempt, from 1, where it is asked again; None where it is given up.
        """
        place = f"{client}-{phase}-{step}" + (f"-attempt-{attempt}" if attempt else "")
        traceback_file = f"failures/{place}.txt" if details else None
        where = {"client": client, "step": step, "phase": phase}
        failure = {**where, "kind": kind, "message": message, "traceback": traceback_file}
        if not attempt:
            self.failures.append(failure)
        elif failure not in self.retried:  # as it is where a round that was cut off is run again
            self.retried.append(failure)
        self.log(f"{client} {kind} in {phase} of step {step}: {message}{'; asked again' if attempt else ''}")
        if traceback_file:
            write_text(self.folder / traceback_file, details)
        self.set_status("running")

    def log(self, text: str) -> None:
        """Append to log.txt and show it."""
        self.log_quietly(text)
        print(text, flush=True)

    def log_quietly(self, text: str) -> None:
        """Append to log.txt."""
        stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        append_text(self.folder / "log.txt", f"{stamp} {text}\n")

    def add_step(self, step: Mapping[str, Any], unit: Literal["epoch", "round"]) -> None:
        """Add to history.json. Members of a local run add to the same epoch; a round that is run again is replaced."""
        known = {entry["step"]: entry for entry in self.history if unit == "epoch" or entry["step"] != step["step"]}
        entry = known.setdefault(step["step"], {"step": step["step"]})
        for key, value in step.items():
            entry[key] = {**entry.get(key, {}), **value} if isinstance(value, dict) else value
        self.history = [known[number] for number in sorted(known)]
        self.write_history(unit)
        if self.scalars:
            self.scalars.write(step)

    def restore_history(self, steps: str, unit: Literal["epoch", "round"]) -> None:
        """Go on from the steps that a checkpoint holds as JSON, whatever has become of history.json."""
        self.history = json.loads(steps)
        self.earlier_seconds = sum(_seconds(step) for step in self.history)
        self.write_history(unit)

    def write_history(self, unit: Literal["epoch", "round"]) -> None:
        """Write history.json."""
        write_json(self.folder / "history.json", {"unit": unit, "steps": self.history})

    def write_manifest(self, facts: Mapping[str, Any]) -> None:
        """Write manifest.json."""
        write_json(self.folder / "manifest.json", {"setting": self.setting, "seed": self.experiment.seed, **facts})

    def save_model(
        self, state: Mapping[str, Tensor], fingerprint: str, fitted: BaseModel, member: str | None = None
    ) -> str:
        """Write the final weights (`model_final.pt`, or `model_final.<client>.pt`) and give their SHA-256.

        Beside them, as `.json`, goes what was fitted on training data: without it they say nothing of new data.
        """
        path = model_path(self.folder, member)
        digest = weights_hash(state)
        tensors = {key: value.detach().cpu().clone() for key, value in state.items()}
        self.save_fitted(path.with_suffix(".json"), fitted)
        self.save_checkpoint(path, {"fingerprint": fingerprint, "sha256": digest, "state": tensors})
        return digest

    def save_fitted(self, path: Path, fitted: BaseModel) -> None:
        """Write what was fitted on training data."""
        write_text(path, fitted.model_dump_json(indent=1) + "\n")

    def save_checkpoint(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        checkpoints.save(path, content)

    def save_predictions(self, model: str, data: str, predictions: Mapping[str, np.ndarray]) -> None:
        """Write the predictions of a model on a set."""
        save_predictions(self.folder, model, data, predictions)

    def write_evaluation(self, rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> None:
        """Write eval_summary.json and metrics.csv."""
        write_json(self.folder / "eval_summary.json", {"setting": self.setting, **facts, "rows": rows})
        write_text(self.folder / "metrics.csv", long_form(self.setting, self.history, rows))

    def write_baselines(self, rows: list[dict[str, Any]]) -> None:
        """Write baselines.json: the scores of methods without a network, where there are any."""
        if rows:
            write_json(self.folder / "baselines.json", {"split": "test", "rows": rows})

    def write_summary(self, primary: str, selected: Mapping[str, int]) -> None:
        """Write metrics.json: the selected and the last epoch or round in a few numbers; see `training.summary`."""
        write_json(self.folder / "metrics.json", summary(self.folder.name, self.history, primary, selected))


class FollowingRun(Run):
    """A run as the other processes of a distributed training see it: they compute the same and write nothing."""

    def fail(self, error: BaseException) -> int:
        """Keep a traceback that the first process does not have; give the exit code."""
        code = exit_code_of(error)
        if code == 1:
            super().log_quietly("".join(traceback.format_exception(error)))
        return code

    def set_status(self, status: Status, error: str | None = None, exit_code: int | None = None) -> None:
        """Leave status.json to the first process."""

    def log_quietly(self, text: str) -> None:
        """Leave log.txt to the first process."""

    def log(self, text: str) -> None:
        """Stay silent."""

    def add_step(self, step: Mapping[str, Any], unit: Literal["epoch", "round"]) -> None:
        """Leave history.json to the first process."""

    def write_history(self, unit: Literal["epoch", "round"]) -> None:
        """Leave history.json to the first process."""

    def write_manifest(self, facts: Mapping[str, Any]) -> None:
        """Leave manifest.json to the first process."""

    def write_evaluation(self, rows: list[dict[str, Any]], facts: Mapping[str, Any]) -> None:
        """Leave the scores to the first process."""

    def write_baselines(self, rows: list[dict[str, Any]]) -> None:
        """Leave baselines.json to the first process."""

    def write_summary(self, primary: str, selected: Mapping[str, int]) -> None:
        """Leave metrics.json to the first process."""

    def save_fitted(self, path: Path, fitted: BaseModel) -> None:
        """Leave the preprocessing to the first process."""

    def save_checkpoint(self, path: Path, content: Mapping[str, Any]) -> None:
        """Leave checkpoints to the first process."""

    def save_predictions(self, model: str, data: str, predictions: Mapping[str, np.ndarray]) -> None:
        """Leave predictions to the first process."""


def model_path(folder: Path, member: str | None = None) -> Path:
    """Give where the final weights of a run, or of one of its local models, are."""
    return folder / (f"model_final.{member}.pt" if member else "model_final.pt")


def exit_code_of(error: BaseException) -> int:
    """Give the exit code of a command that an exception ended."""
    return 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def check_name(name: str) -> str:
    """Give a --name back.

    Raises:
        UserError: It is no plain name, such as one that leads out of its folder.
    """
    if name and not re.fullmatch(r"\w[\w .+-]*", name):
        raise UserError(f"--name {name!r}: not a plain folder name; use letters, digits and . _ - +, and --results")
    return name


def _refuse_links(folder: Path) -> None:
    """A run writes into files of its own: never through a link to others. `results` itself may be a link."""
    for path in [folder, *(sorted(folder.iterdir()) if folder.is_dir() else [])]:
        if path.is_symlink():
            raise UserError(f"{path}: a link, and a run writes to files of its own; put what it points to in its place")


def _refuse_occupied(folder: Path) -> None:
    if not is_empty(folder):
        raise UserError(f"{folder}: this run folder exists; choose another --name, or go on with --resume {folder}")


def _seconds(step: Mapping[str, Any]) -> float:
    """Give what an epoch or a round took, of all members of a local run together."""
    seconds = step.get("seconds", 0.0)
    return sum(seconds.values()) if isinstance(seconds, dict) else seconds


def default_name(*parts: str) -> str:
    """Name a folder by what it holds and the time, with nothing in it that a file system minds."""
    return re.sub(r"[^\w.-]", "_", "__".join([*parts, f"{datetime.datetime.now():%Y%m%d_%H%M%S}"]), flags=re.ASCII)
