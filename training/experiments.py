"""Many experiments in one file: `experiments:` lists what each changes of the config around it.

experiments:
  - {name: baseline, description: As published}
  - {name: higher_lr, description: Ten times the rate, overrides: {train: {lr: 0.01}}}
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError, field_validator

from core.errors import UserError
from training.layers import merge
from training.mistakes import explain, nearest
from training.options import Options

SECTIONS = ("options", "train", "federation", "seed")
"""What an experiment may change; another task is another file."""
SUPERSEDED = "superseded"
"""Folder of runs whose experiment has changed since; no experiment can be called so."""


class Entry(Options):
    """One of the experiments of a file."""

    name: str
    """Names its run folder."""
    description: str = ""
    """For the summary over all experiments."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Values laid over those of the file."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name == SUPERSEDED or not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
            raise ValueError("reserved, or no plain file name (letters, digits, _ . + -); rename it")
        return name


Entries = dict[str, Entry]
"""Experiments by name, in the order of the file."""


def read_entries(listed: Any, source: str) -> Entries:
    """Check what a file lists under `experiments`.

    Raises:
        UserError: It is no list, empty, a name occurs twice, or an entry cannot be used.
    """
    if not isinstance(listed, list) or not listed:
        what = "empty" if listed in ([], None) else f"a {type(listed).__name__}"
        raise UserError(
            f"{source}: experiments: {what}; list one or more of {{name, description, overrides}} or remove the key"
        )
    entries: Entries = {}
    for number, values in enumerate(listed):
        entry = _read_entry(values, source, number)
        if entry.name in entries:
            raise UserError(f"{source}: experiments: the name {entry.name!r} occurs twice; rename one")
        entries[entry.name] = entry
    return entries


def _read_entry(values: Any, source: str, number: int) -> Entry:
    key = f"experiments.{number}"
    if not isinstance(values, dict):
        raise UserError(f"{source}: {key} = {values!r}: not of the form {{name, description, overrides}}; write it so")
    where = place(source, values["name"]) if isinstance(values.get("name"), str) else source
    try:
        entry = Entry.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(where, key, Entry, error)) from None
    for section in entry.overrides:
        if section not in SECTIONS:
            remedy = nearest(str(section), SECTIONS, "an experiment can change")
            raise UserError(f"{where}: {key}.overrides.{section}: unknown key; {remedy}")
        value = entry.overrides[section]
        if section != "seed" and not isinstance(value, dict):
            raise UserError(f"{where}: {key}.overrides.{section} = {value!r}: holds no keys; write {{key: value}}")
    return entry


def stack(below: Mapping[str, Entry], above: Mapping[str, Entry]) -> Entries:
    """Put the experiments of a file after those of its base; one of the same name is laid over the base's."""
    entries = dict(below)
    for name, entry in above.items():
        if base := entries.get(name):
            description = entry.description or base.description
            entry = Entry(name=name, description=description, overrides=merge(base.overrides, entry.overrides))
        entries[name] = entry
    return entries


def own_values(entry: Entry, overrides: Sequence[str]) -> list[str]:
    """Give the keys that an experiment sets to a value of its own, and that the command line sets as well."""
    given = [tuple(text.partition("=")[0].split(".")) for text in overrides]
    own = _paths(entry.overrides)
    return [".".join(key) for key in own if any(key[: len(one)] == one[: len(key)] for one in given)]


def _paths(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (key, *below)
        for key, value in values.items()
        for below in (_paths(value) if isinstance(value, dict) and value else [()])
    ]


def choose(entries: Mapping[str, Entry], name: str, source: str) -> Entry:
    """Give the experiment of a name.

    Raises:
        UserError: There is none.
    """
    if name not in entries:
        remedy = nearest(name, list(entries), "choose one of") if entries else "the file lists no experiments"
        raise UserError(f"{source}: experiment {name!r}: no such experiment; {remedy}")
    return entries[name]


def place(source: str, name: str) -> str:
    """Name a file and an experiment in it, for messages."""
    return f"{source}, experiment {name}"
