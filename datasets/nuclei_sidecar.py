"""What was found out about a nucleus, kept beside the data and found out again only where its stamp has changed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json, write_json
from core.progress import bar

VERSION = 1
"""Raised whenever the same files would give other entries, so that old ones are not used."""


def remember(path: Path, stamps: Mapping[str, str], compute: Callable[[str], Any], text: str) -> dict[str, Any]:
    """Give the entry of every name, from the file where it is there with the same stamp, else computed.

    Entries computed before an error are kept. A file that cannot be read or written costs time, nothing else.

    Args:
        path: JSON file for the entries.
        stamps: Name to stamp: what tells whether an entry still holds.
        compute: Makes the entry of a name, fit for JSON.
        text: What the progress bar says.
    """
    stored = _load(path)
    fresh: dict[str, Any] = {}
    missing = [name for name, stamp in stamps.items() if stored.get(name, {}).get("stamp") != stamp]
    try:
        for name in bar(missing, len(missing), text):
            fresh[name] = {"stamp": stamps[name], "entry": compute(name)}
    finally:
        if fresh:
            _save(path, fresh)
    return {name: {**stored, **fresh}[name]["entry"] for name in stamps}


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (UserError, OSError):
        return {}
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return {}
    entries = content.get("entries")
    if not isinstance(entries, dict):
        return {}
    return {name: one for name, one in entries.items() if isinstance(one, dict) and {"stamp", "entry"} <= one.keys()}


def _save(path: Path, fresh: Mapping[str, Any]) -> None:
    # Read once more: another process may have added entries meanwhile.
    entries = {**_load(path), **fresh}
    try:
        write_json(path, {"version": VERSION, "entries": dict(sorted(entries.items()))})
    except (UserError, OSError):
        return
