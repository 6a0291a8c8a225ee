"""The base of every config section: frozen, unknown keys refused, field docstrings as descriptions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

WEEK = 7 * 24 * 3600.0
"""Seconds. Clocks of operating systems and of Python take no numbers without bound."""


class Options(BaseModel):
    """A config section. Unknown keys and infinite numbers are errors; the string under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def refuse_useless(options: BaseModel, useless: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse options that were set although others leave them without effect.

    Args:
        options: A section; an option at its default was not set.
        useless: Option -> whether others leave it without effect, and what would give it one.

    Raises:
        ValueError: One was set in vain.
    """
    for name, (without_effect, remedy) in useless.items():
        if without_effect and getattr(options, name) != type(options).model_fields[name].default:
            raise ValueError(f"{name} has no effect here; {remedy}, or leave it out")


def named(default: str) -> BeforeValidator:
    """Let `optimizer: sgd` stand for `optimizer: {name: sgd}`, and options without a name belong to the default."""

    def complete(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(complete)


@dataclass(frozen=True, eq=False)
class Choice:
    """Sections of which a field holds one; marks a field whose type does not say them, for the list of all keys."""

    key: str
    """The key whose value chooses."""
    sections: Mapping[str, type[BaseModel]]
    """What each value of that key chooses."""


def _from_root(path: Path, info: ValidationInfo) -> Path:
    root = (info.context or {}).get("root", Path.cwd())
    return (Path(root) / path.expanduser()).resolve()


DataPath = Annotated[Path, AfterValidator(_from_root)]
"""A path that, when relative, starts from the folder the command was given in."""
