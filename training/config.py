"""One schema and one `load(path, overrides)` for every command.

Precedence: field defaults < `base:` chain < file < one of its `experiments:` < overrides (`train.lr=0.01 seed=7`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from core.errors import UserError
from core.files import read_yaml, sha256_json
from training.device import Precision
from training.experiments import Entries, Entry, choose, place, read_entries, stack
from training.federation import Federation
from training.layers import merge, override
from training.mistakes import explain
from training.optimizers import AdamW, Optimizer
from training.options import Options, refuse_useless
from training.schedules import Constant, Schedule
from training.task import Task
from training.task_modules import load_task_class


class Train(Options):
    """Training, the same for the three settings."""

    lr: float = Field(1e-3, gt=0)
    """Base learning rate."""
    batch_size: int = Field(32, ge=1)
    """Samples per batch."""
    eval_batch_size: int = Field(256, ge=1)
    """Samples per batch where nothing is learned; images that differ in size go one by one."""
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
    precision: Precision = "fp32"
    """fp16 with loss scaling on CUDA, bf16 on CUDA and CPU; elsewhere fp32 is computed, and said so."""
    monitor: str | None = None
    """Validation metric that log lines show, and for model selection, early stopping, plateau and `tune.py`; by default
    the task's own."""
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
    """Steps of an epoch that may be left out where GPU memory runs out; above it training fails. With 0 a step that
    runs out of memory is made again in smaller parts, whose gradients add up to the same."""
    memory_monitor: float | None = Field(None, gt=0)
    """Seconds between two lines in log.txt about the memory of all processes and of the GPU; by default none."""
    tensorboard: bool = False
    """Write TensorBoard scalars (needs the extra `track`)."""
    limit_batches: int | None = Field(None, ge=1)
    """Batches used of each pass; set by --dry-run."""

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "Train":
        refuse_useless(self, {"cache_limit_gb": (not self.cache_features, "set cache_features: true")})
        return self


NAMING = {"experiment", "description"}
"""Fields that say what an experiment is called, and change nothing."""


class Experiment(Options):
    """One YAML file, or one of the experiments it lists; it drives all three settings."""

    task: str
    """Name of a file in `tasks/`, or the dotted path of a module elsewhere."""
    experiment: str = ""
    """Which of the file's `experiments` this is; chosen with --experiment."""
    description: str = ""
    """What that experiment is about."""
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

    @property
    def digest(self) -> str:
        """SHA-256 of all that can change a result."""
        return sha256_json(self.model_dump(mode="json", exclude=NAMING))

    def build_task(self) -> Task:
        """Build the task from its validated options."""
        return load_task_class(self.task).model_validate(self.options)


class ConfigFile(Experiment):
    """What a YAML file may say: an experiment, and what lies beneath and beside it."""

    base: str = ""
    """Another file, found from this one's folder, whose values count where this one says nothing."""
    experiments: tuple[Entry, ...] = ()
    """Many experiments, each by what it changes of the values around it."""


def load(
    path: Path | str, overrides: Sequence[str] = (), *, root: Path | None = None, experiment: str = ""
) -> Experiment:
    """Read an experiment.

    Args:
        path: YAML file.
        overrides: `section.key=value` texts, values read as YAML.
        root: Folder where relative paths inside the options start; by default the working directory.
        experiment: One of those that the file lists; by default the file without any of them.

    Raises:
        UserError: File, key or value cannot be used; the message names them and the remedy.
    """
    path = Path(path)
    values, entries = _read_chain(path, ())
    source = str(path)
    if entries and "experiment" in values:
        raise UserError(f"{source}: experiment: chosen with --experiment NAME; remove the key beside `experiments`")
    if experiment:
        entry = choose(entries, experiment, source)
        values = merge(values, {**entry.overrides, "experiment": entry.name, "description": entry.description})
        source = place(source, entry.name)
    for text in overrides:
        if text.startswith("experiment="):
            raise UserError(f"override {text!r}: names an experiment without choosing it; use --experiment NAME")
        override(values, text)
    return resolve(values, source, root or Path.cwd())


def experiment_names(path: Path | str) -> list[str]:
    """Give the names of the experiments that a file and its bases list, in their order.

    Raises:
        UserError: The file cannot be used.
    """
    return list(entries_of(path))


def entries_of(path: Path | str) -> Entries:
    """Give the experiments that a file and its bases list, in their order.

    Raises:
        UserError: The file cannot be used.
    """
    return _read_chain(Path(path), ())[1]


def resolve(values: dict[str, Any], source: str, root: Path) -> Experiment:
    """Validate raw values and fill in every default, the task's included."""
    try:
        experiment = Experiment.model_validate(values)
        task_class = load_task_class(experiment.task)
    except ValidationError as error:
        raise UserError(explain(source, "", ConfigFile, error)) from None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    try:
        task = task_class.model_validate(experiment.options, context={"root": root})
    except ValidationError as error:
        raise UserError(explain(source, "options", task_class, error)) from None
    return experiment.model_copy(update={"options": task.model_dump(mode="json")})


def to_yaml(experiment: Experiment) -> str:
    """Write the resolved experiment as YAML; `load` reads it back to an equal one."""
    values = experiment.model_dump(mode="json")
    return yaml.safe_dump({key: one for key, one in values.items() if one or key not in NAMING}, sort_keys=False)


def _read_chain(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Entries]:
    """Give the values of a file laid over those of its bases, and the experiments of all."""
    if path.resolve() in seen:
        raise UserError(f"{path}: base: leads back to this file; break the circle")
    values = read_yaml(path, "mend the file, a config starts with `task: NAME` or `base: FILE`")
    entries = read_entries(values.pop("experiments"), str(path)) if "experiments" in values else {}
    base = values.pop("base", None)
    if not base:
        return values, entries
    below, inherited = _read_chain(path.parent / str(base), (*seen, path.resolve()))
    return merge(below, values), stack(inherited, entries)
