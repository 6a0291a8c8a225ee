"""The space of a hyperparameter search: a YAML file that says, key by key of a config, which values to try.

    train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
    options.model.latent_dim: {choices: [16, 32, 64]}
    options.model.encoder_layers: {repeat: [1, 3], choices: [64, 128, 256]}

What is tried is written as the overrides of a command line, so that it can be tried again by hand.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from core.errors import UserError
from core.files import read_yaml
from training.mistakes import explain
from training.options import Options

Scalar = str | int | float | bool | None
SAMPLES = (
    "data", "data_root", "metadata", "class_table", "blocks", "path_key", "label", "client_key", "held_out_client",
    "partition", "unit_key", "group_key", "group_by", "disjoint_keys", "split", "split_key", "split_seed", "fractions",
    "class_ids", "sample_ids", "sample_percent", "keep_unpaired", "genes", "target_dim", "normalize_target",
    "preparation",
)  # fmt: skip
"""Options of the tasks that change which samples are judged, or against what."""
FIXED = (
    "task", "experiment", "description", "seed", "train.monitor", "train.limit_batches",
    *(f"options.{name}" for name in SAMPLES),
)  # fmt: skip
"""Keys that change what is searched for, not how well it does."""
LOSSES = tuple(
    f"options.{name}"
    for name in (
        "loss_weights", "dice_weight", "class_weights", "model.model_type", "model.objective", "model.k_samples",
        "model.bound_per_feature", "model.decoder_type", "model.max_beta", "model.max_tc_weight", "model.vq_beta",
        "model.use_vampprior",
    )
)  # fmt: skip
"""Keys that change what the loss is: the smallest weights would give the smallest loss."""


class Suggests(Protocol):
    """What proposes values, such as a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """Choose one."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Choose a number."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Choose a whole number."""


class Range(Options):
    """Numbers between two; whole ones where both ends and the step are."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    log: bool = False
    """Try each order of magnitude as often as the others."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Distance between neighbouring values, counted from `low`."""

    @model_validator(mode="after")
    def _spans_something(self) -> Self:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low {self.low} and high {self.high}: give two numbers, the smaller one as low")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: needs a positive low and takes no step")
        return self

    def draw(self, name: str, suggest: Suggests) -> Scalar:
        """Give a value that is proposed."""
        low, high, step = self.low, self.high, self.step
        if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
            return suggest.suggest_int(name, low, high, step=step or 1, log=self.log)
        return suggest.suggest_float(name, low, high, step=step, log=self.log)


class Choice(Options):
    """Some values of any kind."""

    choices: tuple[Any, ...] = Field(min_length=1)
    """The values."""

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        if len({_label(one) for one in choices}) < len(choices):
            raise ValueError("a value occurs twice; give each once")
        return choices

    def draw(self, name: str, suggest: Suggests) -> Any:
        """Give a value that is proposed."""
        labels = {_label(one): one for one in self.choices}
        return labels[suggest.suggest_categorical(name, list(labels))]


class Repeat(Choice):
    """Lists of values, such as the widths of layers."""

    repeat: tuple[Annotated[int, Field(ge=0)], int]
    """Shortest and longest length."""

    @field_validator("repeat")
    @classmethod
    def _in_order(cls, repeat: tuple[int, int]) -> tuple[int, int]:
        if repeat[0] > repeat[1]:
            raise ValueError("shortest length first")
        return repeat

    def draw(self, name: str, suggest: Suggests) -> list[Any]:
        """Give a list that is proposed."""
        length = suggest.suggest_int(f"{name}.length", *self.repeat)
        return [super(Repeat, self).draw(f"{name}.{place}", suggest) for place in range(length)]


Dimension = Range | Choice | Repeat


class Space:
    """Keys of a config and which values to try."""

    def __init__(self, dimensions: Mapping[str, Dimension]) -> None:
        """Take them in the order in which they are set."""
        self.dimensions = dict(dimensions)

    @classmethod
    def read(cls, path: Path) -> "Space":
        """Read a file.

        Raises:
            UserError: It cannot be read, or says something that is no space.
        """
        remedy = "write e.g. train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}"
        content = read_yaml(path, remedy)
        if not content:
            raise UserError(f"{path}: holds no keys; {remedy}")
        return cls({str(key): _read_dimension(str(key), values, path) for key, values in content.items()})

    def refuse_losses(self, path: Path) -> None:
        """Refuse keys that change what the loss is, for a search for the smallest loss.

        Raises:
            UserError: There is one.
        """
        for key in self.dimensions:
            if _touches(key, LOSSES):
                raise UserError(
                    f"{path}: {key}: changes what the loss is, and train.monitor = loss searches for the smallest; "
                    "set train.monitor to a score, or set this key as an override"
                )

    def draw(self, suggest: Suggests) -> list[str]:
        """Give what is proposed as overrides, `section.key=value`."""
        return [f"{key}={_as_yaml(one.draw(key, suggest))}" for key, one in self.dimensions.items()]

    def dump(self) -> dict[str, Any]:
        """Give the space as plain values, to tell it from others."""
        return {key: one.model_dump(mode="json") for key, one in self.dimensions.items()}


class First:
    """Proposes the first of everything, to see whether a config takes it."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """Give the first."""
        return choices[0]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Give the smallest."""
        return float(low)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Give the smallest."""
        return low


def _touches(key: str, others: Sequence[str]) -> bool:
    """Tell whether a key is one of others, a part of one, or holds one."""
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in others)


def _read_dimension(key: str, values: Any, path: Path) -> Dimension:
    if _touches(key, FIXED):
        raise UserError(f"{path}: {key}: belongs to the question, not to the answer; set it as an override")
    if not isinstance(values, dict):
        raise UserError(f"{path}: {key} = {values!r}: give {{low, high}}, {{choices}} or {{repeat, choices}}")
    kind: type[Dimension] = Repeat if "repeat" in values else Choice if "choices" in values else Range
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(str(path), key, kind, error)) from None


def _label(value: Any) -> Scalar:
    """Give a choice as a plain value; one with parts as JSON."""
    return value if isinstance(value, Scalar) else json.dumps(value, sort_keys=True)


def _as_yaml(value: Any) -> str:
    """Write a value in one line from which YAML reads the same."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).partition("\n")[0]
