"""Nested values laid one over another: a base under a file, an experiment over it, the command line on top."""

from collections.abc import Mapping
from typing import Any

import yaml

from core.errors import UserError


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over others, key by key; a value that is no mapping replaces what is below.

    A block of another name replaces the one below whole: `{name: step, step_size: 3}` over `{name: cosine, min_lr: 0}`
    is a step schedule that knows nothing of `min_lr`. A text below a mapping is such a name.
    """
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _over(merged.get(key), value)
    return merged


def _over(below: Any, above: Any) -> Any:
    if not isinstance(above, dict):
        return above
    named = {"name": below} if isinstance(below, str) else below
    if not isinstance(named, dict) or above.get("name", named.get("name")) != named.get("name"):
        return above
    return merge(named, above)


def override(values: dict[str, Any], text: str) -> None:
    """Set one value as the command line gives it, `section.key=value`, the value read as YAML.

    Raises:
        UserError: It has another form.
    """
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")):
        raise UserError(f"override {text!r}: not of the form section.key=value; write e.g. train.lr=0.01")
    *sections, last = key.split(".")
    for depth, section in enumerate(sections):
        inner = values.get(section)
        if isinstance(inner, str) and depth:
            inner = {"name": inner}
        if not isinstance(inner, dict | None):
            where = ".".join(sections[: depth + 1])
            raise UserError(f"override {text!r}: {where} = {inner!r} has no keys; give {where} keys, or leave this out")
        values[section] = dict(inner or {})
        values = values[section]
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {text!r}: value {value!r} is not valid YAML; quote it") from None
