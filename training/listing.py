"""Every key that a config takes, with its default and its meaning, read from the schemas themselves."""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from training.mistakes import sections_of, tag_key
from training.options import Choice


class Key(NamedTuple):
    """A line of the list."""

    name: str
    """As in an override: `train.optimizer.betas`."""
    default: str | None
    """As YAML takes it; nothing for a section, None where a value has to be given."""
    where: tuple[str, ...]
    """What has to be chosen elsewhere for the key to be taken: `name: adamw, adam`."""
    meaning: str
    """Sentences, and for each section that the key chooses from a line."""


def keys_of(schema: type[BaseModel], section: str = "") -> Iterator[Key]:
    """Give every key of a section: first plain values, then sections within, each followed by its own keys.

    A key that several members of a choice share, default and meaning included, comes once.

    Args:
        schema: The section.
        section: Key under which it stands, or nothing.
    """
    fields = schema.model_fields.items()
    for name, field in sorted(fields, key=lambda item: _choice(item[1]) is not None):
        key, choice = f"{section}.{name}" if section else name, _choice(field)
        yield Key(key, _default(field, choice), (), "\n".join([_meaning(schema, name), *_members(field, choice)]))
        if choice:
            yield from _inner(key, choice)


def _inner(section: str, choice: Choice) -> Iterator[Key]:
    takers: dict[Key, list[str]] = {}
    for member, schema in choice.sections.items():
        for key in keys_of(schema, section):
            if key.name != f"{section}.{choice.key}":
                takers.setdefault(key, []).append(member)
    for key, members in takers.items():
        yield key._replace(where=(*_some(choice, members), *key.where))


def _some(choice: Choice, members: list[str]) -> list[str]:
    """Say which members of a choice, where not all; the shorter way."""
    others = [name for name in choice.sections if name not in members]
    if not others:
        return []
    return [f"{choice.key}: " + (f"not {', '.join(others)}" if len(others) < len(members) else ", ".join(members))]


def _choice(field: FieldInfo) -> Choice | None:
    """Give what a field chooses from: what it is marked with, else the sections of its type."""
    told = next((mark for mark in field.metadata if isinstance(mark, Choice)), None)
    models = sections_of(field.annotation)
    if told or not models:
        return told
    if len(models) == 1:
        return Choice("", {"": models[0]})
    key = tag_key(models[0])
    return Choice(key, {str(model.model_fields[key].default): model for model in models})


def _members(field: FieldInfo, choice: Choice | None) -> list[str]:
    """Say in a line each what the sections of a type are that are told apart by a key of their own."""
    members: Mapping[str, Any] = choice.sections if choice and choice.key and sections_of(field.annotation) else {}
    return [f"- {name}: {_summary(schema)}" for name, schema in members.items()]


def _meaning(schema: type[BaseModel], name: str) -> str:
    """Give the words under a field, or under that which it redefines, else those of the section that it holds."""
    bases = (base for base in schema.__mro__ if issubclass(base, BaseModel))
    fields = [base.model_fields[name] for base in bases if name in base.model_fields]
    told = next((field.description for field in fields if field.description), None)
    return " ".join((told or " ".join(map(_summary, sections_of(fields[0].annotation)))).split())


def _summary(schema: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(schema) or "").partition("\n\n")[0].split())


def _default(field: FieldInfo, choice: Choice | None) -> str | None:
    if field.is_required():
        return "" if choice and not choice.key else None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return str(getattr(value, choice.key)) if choice and choice.key else ""
    return value if value and isinstance(value, str) else json.dumps(value, default=str)
