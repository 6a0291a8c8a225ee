"""The base of every block of a joint VAE's configuration, and how a fault in one is put in one line."""

import difflib
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from core.errors import UserError


class Section(BaseModel):
    """A block of options: frozen, unknown keys refused, the string under a field is its documentation.

    A number may be given as text (PyYAML reads `1e-8` as text); other text in its place is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    idle: ClassVar[frozenset[str]] = frozenset()
    """Keys that other model types know and this one has no use for: left out with a warning."""
    foreign: ClassVar[Mapping[str, str]] = {}
    """Key that is not read here -> what to set instead: left out with a warning, or silently where it is the same."""

    @model_validator(mode="before")
    @classmethod
    def _own_keys(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        idle = [str(key) for key in given if key in cls.idle]
        if idle:
            warnings.warn(f"{', '.join(idle)}: no effect with this model type; leave it out", stacklevel=2)
        elsewhere = {str(key): cls.foreign[key] for key in given if cls.foreign.get(key)}
        if elsewhere:
            instead = ", ".join(dict.fromkeys(elsewhere.values()))
            warnings.warn(f"{', '.join(elsewhere)}: not read here; set {instead}", stacklevel=2)
        own = {key: value for key, value in given.items() if key not in cls.idle and key not in cls.foreign}
        for key, value in own.items():
            if key in cls.model_fields and _is_flag(value) and cls.model_fields[key].annotation is not bool:
                raise ValueError(f"{key} = {value!r}: takes no true or false; correct the value")
        return own

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> Self:
        refuse_useless(self, self.useless())
        return self

    def useless(self) -> Mapping[str, tuple[bool, str]]:
        """Give option -> whether others leave it without effect, and what would give it one."""
        return {}

    @classmethod
    def checked(cls, given: Any) -> Self:
        """Check what a user gave.

        Raises:
            UserError: A key is unknown or a value does not suit; one line names the first such key.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise UserError(_fault(cls, error)) from error


def refuse_useless(options: BaseModel, useless: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse options that are set although others leave them without effect.

    Args:
        options: A section.
        useless: Option, after a point one of a section within -> whether it has no effect, and what would give it one.

    Raises:
        ValueError: One is set.
    """
    for key, (without_effect, remedy) in useless.items():
        *path, name = key.split(".")
        owner = functools.reduce(getattr, path, options)
        if without_effect and getattr(owner, name) != type(owner).model_fields[name].default:
            raise ValueError(f"{key} has no effect here; {remedy}, or leave it out")


def choose(key: str, value: object, known: Iterable[str]) -> UserError:
    """Make the refusal of a name that is none of the known ones; it proposes the nearest."""
    return UserError(f"{key} = {value!r}: unknown; {_nearest(value, list(known))}")


def _nearest(name: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]}?" if close else f"choose one of: {', '.join(known)}"


def _fault(section: type[Section], error: ValidationError) -> str:
    first = error.errors()[0]
    place = [part for part in first["loc"] if part != first.get("ctx", {}).get("tag")]
    path, last = list(place[:-1]), str(place[-1]) if place else "config"
    owner, tags = _owner(section, path)
    key = ".".join(str(part) for part in (*path, last) if part not in tags)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_nearest(last, [*owner.model_fields, *sorted(owner.foreign)])}"
    if first["type"] == "literal_error":
        known = get_args(owner.model_fields[last].annotation)
        return f"{key} = {first['input']!r}: unknown; {_nearest(first['input'], known)}"
    said = " ".join(first["msg"].removeprefix("Value error, ").split())
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return ".".join([*map(str, place), said])
    return f"{key} = {first['input']!r}: {said[:1].lower()}{said[1:]}; correct the value"


def _owner(section: type[Section], path: Sequence[str | int]) -> tuple[type[Section], set[str | int]]:
    """Find the section a path leads to, and which parts of the path only say which of several it is."""
    tags: set[str | int] = set()
    choices: tuple[Any, ...] = ()
    for part in path:
        field = section.model_fields.get(str(part))
        found = [choice for choice in choices if choice.model_fields["kind"].default == part]
        if found:
            section, choices = found[0], ()
            tags.add(part)
        elif field is not None:
            sections = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)]
            section, choices = (sections[0], ()) if len(sections) == 1 else (section, tuple(sections))
    return section, tags


def _is_flag(value: Any) -> bool:
    """Tell whether a value is true or false, or a list with one, which Python would take for numbers."""
    return any(isinstance(one, bool) for one in (value if isinstance(value, list | tuple) else [value]))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
