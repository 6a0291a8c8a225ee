"""experiment_summary.csv: the runs of several experiments, one row each, from what their folders hold."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from core.errors import UserError
from core.files import read_json, write_text
from reports.numbers import metric_name
from reports.run_folder import RunRecord

FILE = "experiment_summary.csv"
SUPERSEDED = "superseded"
"""Folder of runs whose experiment has changed since; they are no rows."""
LISTED = "experiments.json"
"""Beside the folders of experiments: the names that their file lists; one that was taken out of it is no row."""
HEAD = (
    "experiment_name", "description", "setting", "learning_rate", "num_epochs", "batch_size", "total_parameters",
    "device",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@")
"""What makes a spreadsheet take a text for a formula."""
TAIL = ("split_sha256", "seed", "wall_time_s", "status", "run_folder")

Row = dict[str, Any]


def summarise(folder: Path, done: Mapping[str, str] | None = None) -> Path:
    """Write the summary of all runs below a folder into it, and show its most important columns.

    Args:
        folder: Holds the experiments.
        done: What has just been done with each, for the table on the terminal.

    Returns:
        The CSV: one header row, numbers as numbers, empty where undefined or not known (yet). Text that a spreadsheet
        would run as a formula stands behind an apostrophe. Where each client has a model of its own, validation scores
        are means over these and stand in columns of their own, `best_val_mean_<metric>`.

    Raises:
        UserError: There is no run below the folder and nothing was tried, or a run folder cannot be read.
    """
    records = find_records(folder)
    if not records and not done:
        raise UserError(f"{folder}: holds no run of an experiment; name the folder that `--all` has written")
    rows = [_row(record, folder) for record in records]
    path, text = folder / FILE, _csv(rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    _show(rows, done)
    return path


def find_records(folder: Path) -> list[RunRecord]:
    """Read the runs of listed experiments below a folder, sorted by experiment, setting and seed."""
    if not folder.is_dir():
        return []
    found = [path.parent for path in folder.rglob("status.json")]
    kept = [path for path in found if SUPERSEDED not in path.relative_to(folder).parts and _is_listed(path, folder)]
    return sorted(map(RunRecord.read, kept), key=lambda one: (_name(one), one.setting, one.seed))


def _is_listed(path: Path, folder: Path) -> bool:
    for above in path.parents:
        if (above / LISTED).is_file():
            return path.relative_to(above).parts[0] in read_json(above / LISTED)
        if above == folder:
            break
    return True


def _row(record: RunRecord, folder: Path) -> Row:
    config, manifest = record.config, record.manifest
    train, federation = config.get("train", {}), config.get("federation", {})
    epochs = train.get("epochs") if record.setting != "federated" else None
    head = (
        _name(record), config.get("description", ""), record.setting, train.get("lr"),
        epochs or _product(federation.get("rounds"), federation.get("local_epochs")), train.get("batch_size"),
        manifest.get("parameters", {}).get("total"), manifest.get("environment", {}).get("device"),
    )  # fmt: skip
    path = record.folder.relative_to(folder).as_posix()
    tail = (manifest.get("split_sha256"), record.seed, manifest.get("seconds"), record.status, path)
    return dict(zip(HEAD, head, strict=True)) | _scores(record) | dict(zip(TAIL, tail, strict=True))


def _scores(record: RunRecord) -> Row:
    """Give the selected step, its validation metrics and the pooled test metrics, loss and headline first."""
    best = _best(record)
    primary = record.evaluation.get("primary", "")
    row = record.row(record.setting, "pooled")
    tested = row["metrics"] if row else {}
    validated = {key.removeprefix("val_"): value for key, value in best.items() if key.startswith("val_")}
    return {
        "best_step": best.get("epoch"),
        "step_unit": record.unit if best else None,
        **{_validated(name, record.setting): validated[name] for name in _ordered(validated, primary)},
        **{f"test_{name}": tested[name] for name in _ordered(tested, primary)},
    }


def _validated(name: str, setting: str) -> str:
    """Name the column of a validation metric: a mean of several models is never in one with a value of all data."""
    return f"best_val_mean_{name}" if setting == "local" else f"best_val_{name}"


def _best(record: RunRecord) -> Mapping[str, Any]:
    path = record.folder / "metrics.json"
    content = read_json(path) if path.exists() and record.rows else {}
    return content.get("best") or {}


def _ordered(names: Mapping[str, Any], primary: str) -> list[str]:
    return sorted(names, key=lambda name: (name != "loss", name != primary, list(names).index(name)))


def _csv(rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _columns(rows), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _columns(rows: Sequence[Row]) -> list[str]:
    scores = list(dict.fromkeys(name for row in rows for name in row if name not in (*HEAD, *TAIL)))
    groups = [[one for one in scores if not one.startswith(("best_val_", "test_"))]]
    groups += [[one for one in scores if one.startswith(start)] for start in ("best_val_", "test_")]
    return [*HEAD, *(name for group in groups for name in group), *TAIL]


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, int | float):
        return value
    text = " ".join(str(value).split())
    return f"'{text}" if text.startswith(FORMULA) else text


def _show(rows: Sequence[Row], done: Mapping[str, str] | None) -> None:
    """Print what was done with each experiment, and how its runs stand."""
    primary = next((name for row in rows for name in row if name.startswith("test_") and name != "test_loss"), "")
    metric = primary.removeprefix("test_")
    known = {name for row in rows for name in row}
    scores = {
        f"val {metric_name(metric)}": f"best_val_{metric}",
        f"mean val {metric_name(metric)}": f"best_val_mean_{metric}",
        f"test {metric_name(metric)}": primary,
    }
    scores = {heading: key for heading, key in scores.items() if key in known}
    place = [*(key for key in ("setting", "seed") if len({row[key] for row in rows}) > 1), "status"]
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("experiment", *(["done"] if done is not None else []), *place, "best"):
        shown.add_column(heading, overflow="fold", no_wrap=heading != "experiment")
    for heading in scores:
        shown.add_column(heading, justify="right")
    shown_names = {row["experiment_name"] for row in rows}
    for row in [*rows, *({"experiment_name": name} for name in done or {} if name not in shown_names)]:
        name, step = row["experiment_name"], row.get("best_step")
        texts = [str(row.get(key, "")) for key in place]
        texts.append("" if step is None else f"{row['step_unit']} {step}")
        texts += [_number(row.get(key)) for key in scores.values()]
        shown.add_row(name, *([done.get(name, "")] if done is not None else []), *texts)
    Console().print(shown, markup=False)


def _number(value: Any) -> str:
    return "" if _cell(value) == "" else f"{value:.4f}"


def _name(record: RunRecord) -> str:
    return str(record.config.get("experiment") or record.folder.name)


def _product(*factors: Any) -> int | None:
    return math.prod(factors) if all(isinstance(factor, int) for factor in factors) else None
