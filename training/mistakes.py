"""A mistake in a config as one line that names source, key, value and remedy, from what pydantic found."""

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

WORDS = {
    **dict.fromkeys(("tuple_type", "list_type"), "no list; write [..., ...]"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "no section; write {key: value, ...}"),
}
"""What pydantic calls a kind of mistake -> words for those who know YAML and no Python."""


def explain(source: str, section: str, schema: type[BaseModel], error: ValidationError) -> str:
    """Write the first mistake, and how many more there are.

    Args:
        source: File, and where in it.
        section: Key under which the schema stands, or nothing.
        schema: What the values should have been.
        error: What pydantic says.
    """
    first = error.errors()[0]
    inside, known, sections = _locate(schema, first["loc"])
    key = ".".join([*([section] if section else []), *inside])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{source}: {key}: unknown key; {nearest(inside[-1], known, 'known keys')}{more}"
    if first["type"] == "missing":
        return f"{source}: {key}: missing; add it{more}"
    if first["type"] == "union_tag_invalid":
        tag, names = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{source}: {key} = {tag!r}: unknown name; {nearest(tag, names, 'choose one of')}{more}"
    if first["type"] == "union_tag_not_found":
        names = [str(section.model_fields[tag_key(section)].default) for section in sections]
        return f"{source}: {key}.{tag_key(sections[0])}: missing; choose one of: {', '.join(names)}{more}"
    message = WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return f"{source}: {key}{value}: {message}{'' if ';' in message else '; change this value'}{more}"


def nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    """Ask for the known name that is most like one that is not known, else list them all."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"{otherwise}: {', '.join(known) or 'none'}"


def tag_key(model: type[BaseModel]) -> str:
    """Give the key by whose default a member of a union is told from the others."""
    return next(key for key in ("name", "kind") if key in model.model_fields)


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Give the sections that a field of this type can hold: one, the members of a union, or none for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in sections_of(inner)]


def _locate(
    schema: type[BaseModel], location: Sequence[str | int]
) -> tuple[list[str], list[str], list[type[BaseModel]]]:
    """Give a key as the user wrote it, without the names of union members that pydantic puts between.

    With it come its siblings and the sections that could stand there.

    Args:
        schema: Where the location starts.
        location: Of an error, as pydantic gives it.
    """
    parts: list[str] = []
    known: list[str] = []
    models = [schema]
    for part in location:
        tagged = [one for one in models if len(models) > 1 and one.model_fields[tag_key(one)].default == part]
        if tagged:
            models = tagged
        elif isinstance(part, int):  # The members of a list are described by its type.
            parts.append(str(part))
        elif models:
            fields = {name: field for model in models for name, field in model.model_fields.items()}
            known, models = list(fields), sections_of(fields[str(part)].annotation) if part in fields else []
            parts.append(str(part))
    return parts, known, models
