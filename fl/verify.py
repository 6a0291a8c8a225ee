"""Command line: python -m fl verify RUN: the same run once more, and the first thing in which the two differ."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from core.commands import one_line_errors
from core.errors import UserError, one_line
from core.files import read_json, sha256_json
from fl.client_app import app as client_app
from fl.engines import Engine, check_engine, engine_function, usual_engine
from fl.inprocess import InProcessGrid
from fl.server import serve
from training import checkpoints
from training.config import Experiment, load
from training.parameters import weights_hash
from training.preparation import check_names
from training.provenance import code_digest
from training.runs import EXIT_CODES, Run, model_path

VARYING = {"seconds", "parts"}
"""Entries of the history that tell of the machine: time, and the parts that a step was made in for lack of memory."""
NOWHERE = "nowhere"


@dataclass(frozen=True)
class Record:
    """What a finished run says in numbers.

    Attributes:
        metrics: File, round, split, client and metric in words -> value, in the order of the run.
        weights: The final weights.
        sha256: Their hash, as manifest.json has it.
    """

    metrics: dict[str, Any]
    weights: Mapping[str, Tensor]
    sha256: str


def verify(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished federated run")],
    engine: Annotated[
        Engine | None, typer.Option(help="All give the same; by default inprocess, unless a fault ends processes")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Clients at the same time; all give the same", min=1)] = None,
) -> None:
    """Run a finished run once more from its own config into a temporary folder, and compare weights and metrics.

    Exit codes: 0 equal, 1 different (the first difference is named), 2 refused: not finished, or code or data are not
    those that manifest.json names.
    """
    with one_line_errors():
        experiment = _prepare(run, workers)
        engine = engine or usual_engine(experiment)
        check_engine(experiment, engine)
        recorded = read_record(run)
        with tempfile.TemporaryDirectory(prefix="triptych-verify-") as folder:
            try:
                _conduct(Run.create(Path(folder) / "again", experiment, "federated"), engine, workers)
            except UserError:
                raise
            except Exception as error:
                print(f"different: this time the run failed ({one_line(error)})")
                raise typer.Exit(1) from None
            repeated = read_record(Path(folder) / "again")
    Console().print(_table(recorded, repeated))
    difference = first_difference(recorded, repeated)
    print(f"different: {difference}" if difference else "equal")
    raise typer.Exit(1 if difference else 0)


def _prepare(folder: Path, workers: int | None) -> Experiment:
    """Give the experiment of the run, to be run again.

    Raises:
        UserError: It cannot be expected to give the same.
    """
    if not (folder / "status.json").is_file():
        raise UserError(f"{folder}: no run folder, it holds no status.json; name one of results/<task>/")
    status = read_json(folder / "status.json")
    if status["setting"] != "federated":
        raise UserError(f"{folder}: a {status['setting']} run; only federated runs are verified")
    if status["status"] not in EXIT_CODES:
        raise UserError(f"{folder}: this run is {status['status']}; finish it first with --resume {folder}")
    experiment, manifest = load(folder / "config.yaml"), read_json(folder / "manifest.json")
    code = manifest["environment"]["code"]
    if code != code_digest(experiment.task):
        raise UserError(
            f"{folder / 'manifest.json'}: made with other code ({code}, now {code_digest(experiment.task)}); "
            f"check out {manifest['environment']['git'] or 'the code it was made with'}"
        )
    for member, changes in manifest["accepted"].items():
        raise UserError(f"{folder / 'manifest.json'}: {member} went on with other {' and '.join(changes)} (--accept)")
    task = experiment.build_task()
    names = {*_clients(task), *manifest["data"].keys() & {"held_out"}}
    _check_data(folder, manifest["data"], {name: task.data_digest(name) for name in names})
    federation = experiment.federation.model_copy(update={"workers": workers} if workers else {})
    return experiment.model_copy(update={"federation": federation})


def _clients(task: Any) -> list[str]:
    return check_names(task.clients(), str(task.data))


def _check_data(folder: Path, recorded: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Compare what the run was trained on with what is there now, client by client."""
    for name in sorted(recorded.keys() | current.keys()):
        before, now = recorded.get(name, NOWHERE), current.get(name, NOWHERE)
        if before != now:
            raise UserError(
                f"{folder / 'manifest.json'}: made with other data of {name} ({before[:12]}, now {now[:12]}); "
                "restore the data it was made with"
            )


def _conduct(run: Run, engine: Engine, workers: int | None) -> None:
    if engine is Engine.inprocess and workers:
        serve(run, InProcessGrid(client_app, workers), workers)
    else:
        engine_function(engine)(run)


def read_record(folder: Path) -> Record:
    """Read what a finished run says.

    Raises:
        UserError: A file is missing or is not what the run wrote.
    """
    steps = {f"round {step['step']}": step for step in read_json(folder / "history.json")["steps"]}
    summary = read_json(folder / "eval_summary.json")
    rows = {f"{row['split']} of {row['data']}": row for row in summary.pop("rows")}
    metrics = dict(_flat(["history.json"], steps)) | dict(_flat(["eval_summary.json"], {**summary, **rows}))
    weights = checkpoints.load(model_path(folder))["state"]
    return Record(metrics, weights, read_json(folder / "manifest.json")["weights_sha256"]["federated"])


def _flat(where: list[str], value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        value = {f"[{number}]": one for number, one in enumerate(value)}
    if not isinstance(value, dict):
        yield ", ".join(where), value
        return
    for key, one in value.items():
        if key not in VARYING:
            yield from _flat([*where, key], one)


def first_difference(recorded: Record, repeated: Record) -> str | None:
    """Name the first thing that differs, in the order in which a run makes it, with both values; None if nothing."""
    for place in [*recorded.metrics, *repeated.metrics]:
        before, now = (record.metrics.get(place, NOWHERE) for record in (recorded, repeated))
        if before != now:
            return f"{place}: {before} recorded, {now} now"
    for name in sorted(recorded.weights.keys() | repeated.weights.keys()):
        if difference := _weight_difference(recorded.weights.get(name), repeated.weights.get(name)):
            return f"model_final.pt, {name}{difference}"
    if recorded.sha256 != weights_hash(recorded.weights):
        return (
            f"manifest.json, weights_sha256: {recorded.sha256} recorded, {weights_hash(recorded.weights)} in the file"
        )
    return None


def _weight_difference(before: Tensor | None, now: Tensor | None) -> str:
    if before is None or now is None:
        return f": {NOWHERE} {'recorded' if before is None else 'now'}"
    if (before.shape, before.dtype) != (now.shape, now.dtype):
        return f": {before.dtype} {tuple(before.shape)} recorded, {now.dtype} {tuple(now.shape)} now"
    differing = ((before != now) & ~(before.isnan() & now.isnan())) | (before.signbit() != now.signbit())
    if not differing.any():
        return ""
    place = tuple(torch.nonzero(differing)[0].tolist())
    values = f"{before[place].item()!r} recorded, {now[place].item()!r} now"
    return f"{list(place) if place else ''}: {values} ({int(differing.sum())} of {before.numel()} values differ)"


def _table(recorded: Record, repeated: Record) -> Table:
    table = Table("", "recorded", "now")
    table.add_row("weights", *(weights_hash(record.weights)[:16] for record in (recorded, repeated)))
    table.add_row("metrics", *(sha256_json(record.metrics)[:16] for record in (recorded, repeated)))
    return table
