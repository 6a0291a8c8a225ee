"""One schema and one `load(path, overrides)` for every command.

Precedence: field defaults < `base:` chain < file < overrides (`train.lr=0.01 federation.rounds=5`).
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from core.errors import UserError
from training.federation import Federation
from training.optimizers import AdamW, Optimizer
from training.options import Options
from training.schedules import Constant, Schedule
from training.task import Task, load_task_class


class Train(Options):
    """Training, the same for the three settings."""

    lr: float = Field(1e-3, gt=0)
    """Base learning rate."""
    batch_size: int = Field(32, ge=1)
    """Samples per batch."""
    eval_batch_size: int = Field(256, ge=1)
    """Samples per batch where nothing is learned."""
    epochs: int | None = Field(None, ge=1)
    """Epochs of the centralized and local settings; by default rounds x local_epochs, the federated budget."""
    optimizer: Optimizer = AdamW()
    """adamw, adam or sgd, with its options."""
    schedule: Schedule = Constant()
    """constant, cosine, step or plateau, with its options."""
    clip_grad_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient of one step."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients make one step, each weighted by its samples."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """fp16 with loss scaling on CUDA, bf16 where asked; fp16 has no effect on a CPU."""
    monitor: str | None = None
    """Validation metric for model selection, early stopping and plateau; by default the task's own."""
    select: Literal["best", "last"] = "best"
    """Final weights: those with the best monitored metric, or the last."""
    early_stopping: int | None = Field(None, ge=1)
    """Validations without improvement before training ends."""
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """auto, cpu, cuda, cuda:1 or mps."""
    threads: int = Field(1, ge=1)
    """CPU threads of each training process; part of the experiment, since it changes the last bits of a sum."""
    loader_workers: int = Field(0, ge=0)
    """Processes that load data, per training process."""
    cache_features: bool = True
    """Compute the output of frozen layers once per sample."""
    cache_limit_gb: float = Field(4.0, gt=0)
    """Largest size of one split's cached output in memory and on disk; above it the frozen layers run each time."""
    oom_limit: int = Field(0, ge=0)
    """Steps of an epoch that may be left out where GPU memory runs out; above it training fails."""
    memory_monitor: float | None = Field(None, gt=0)
    """Seconds between two lines in log.txt about the memory of all processes and of the GPU; by default none."""
    tensorboard: bool = False
    """Write TensorBoard scalars (needs the extra `track`)."""
    limit_batches: int | None = Field(None, ge=1)
    """Batches used of each pass; set by --dry-run."""


class Experiment(Options):
    """One YAML file; it drives all three settings."""

    task: str
    """Name of a file in `tasks/`, or the dotted path of a module elsewhere."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the task; see `python -m tasks TASK`."""
    train: Train = Train()
    federation: Federation = Federation()
    seed: int = Field(42, ge=0)
    """Source of every random draw."""

    @property
    def epochs(self) -> int:
        """Epochs of the centralized and local settings."""
        return self.train.epochs or self.federation.rounds * self.federation.local_epochs

    def build_task(self) -> Task:
        """Build the task from its validated options."""
        return load_task_class(self.task).model_validate(self.options)


def load(path: Path | str, overrides: Sequence[str] = (), *, root: Path | None = None) -> Experiment:
    """Read an experiment.

    Args:
        path: YAML file.
        overrides: `section.key=value` texts, values read as YAML.
        root: Folder where relative paths inside the options start; by default the working directory.

    Raises:
        UserError: File, key or value cannot be used; the message names them and the remedy.
    """
    path = Path(path)
    values = _read_chain(path, ())
    for text in overrides:
        _override(values, text)
    return resolve(values, str(path), root or Path.cwd())


def resolve(values: dict[str, Any], source: str, root: Path) -> Experiment:
    """Validate raw values and fill in every default, the task's included."""
    try:
        experiment = Experiment.model_validate(values)
        task_class = load_task_class(experiment.task)
    except ValidationError as error:
        raise UserError(_explain(source, "", Experiment, error)) from None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    try:
        task = task_class.model_validate(experiment.options, context={"root": root})
    except ValidationError as error:
        raise UserError(_explain(source, "options", task_class, error)) from None
    return experiment.model_copy(update={"options": task.model_dump(mode="json")})


def to_yaml(experiment: Experiment) -> str:
    """Write the resolved experiment as YAML; `load` reads it back to an equal one."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: base: leads back to this file; break the circle")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read this config ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); mend the file") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no `key: value` lines; start with `task: NAME`")
    base = values.pop("base", None)
    return _merge(_read_chain(path.parent / str(base), (*seen, path.resolve())), values) if base else values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(values: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"override {text!r}: not of the form section.key=value; write e.g. train.lr=0.01")
    *sections, last = key.split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, dict) else {"name": inner} if inner else {}
        values = values[section]
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {text!r}: value {value!r} is not valid YAML; quote it") from None


def _explain(source: str, section: str, schema: type[Options], error: ValidationError) -> str:
    first = error.errors()[0]
    inside, known = _locate(schema, first["loc"])
    key = ".".join([*([section] if section else []), *inside])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{source}: {key}: unknown key; {_nearest(inside[-1], known, 'known keys')}{more}"
    if first["type"] == "missing":
        return f"{source}: {key}: missing; add it{more}"
    if first["type"] == "union_tag_invalid":
        tag, names = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{source}: {key} = {tag!r}: unknown name; {_nearest(tag, names, 'choose one of')}{more}"
    message = first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return f"{source}: {key}{value}: {message}{'' if ';' in message else '; change this value'}{more}"


def _locate(schema: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """Give a key as the user wrote it, without the names of union members that pydantic puts between, and its siblings.

    Args:
        schema: Where the location starts.
        location: Of an error, as pydantic gives it.
    """
    parts: list[str] = []
    known: list[str] = []
    models = [schema]
    for part in location:
        tagged = [model for model in models if len(models) > 1 and model.model_fields["name"].default == part]
        if tagged:
            models = tagged
        elif models or isinstance(part, int):
            fields = {name: field for model in models for name, field in model.model_fields.items()}
            known, models = list(fields), sections_of(fields[str(part)].annotation) if part in fields else []
            parts.append(str(part))
    return parts, known


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Give the sections that a field of this type can hold: one, the members of a union, or none for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in sections_of(inner)]


def _nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"{otherwise}: {', '.join(known) or 'none'}"
