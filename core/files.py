"""Files that are either whole or not there: written beside their target, synced, then renamed."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from core.errors import UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it to `path`, else remove it.

    Raises:
        UserError: The folder cannot be written to, there is no room in it, or `path` is a folder itself.
    """
    make_folder(path.parent)
    if path.is_dir():
        raise UserError(f"{path}: a folder, and a file is to be written there; name a file or remove the folder")
    with writable(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        with room_for(path):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Say in one line that nothing can be written into a folder.

    Raises:
        UserError: The system refuses what the block does there.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: cannot write here ({error.strerror}); choose another output folder") from error


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Say in one line what the system says when there is no room for a file.

    Raises:
        UserError: The disk, the user's share of it, or the largest size of a file is exhausted.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        remedy = "free some space there or raise the limit, and call again; a run goes on with --resume"
        raise UserError(f"{path}: no room for this file ({error.strerror}); {remedy}") from error


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it to `path`, which is free, else remove it.

    Raises:
        UserError: The folder around it cannot be written to.
    """
    make_folder(path.parent)
    with writable(path.parent):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add to a text file, in UTF-8."""
    with room_for(path), path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, floats exact; NaN and infinity, which JSON lacks, become null."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore the file or make it anew") from error


def read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines.

    Args:
        path: The file.
        remedy: What helps where it holds something else.

    Raises:
        UserError: The file cannot be read, or it holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read this file ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no `key: value` lines; {remedy}")
    return content


def make_folder(path: Path) -> Path:
    """Make a folder and its parents.

    Raises:
        UserError: The folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot make this folder ({error.strerror}); choose another output folder") from error
    return path


def refuse_occupied(path: Path) -> None:
    """Make sure that `path` is free to become a folder: nothing is there, or an empty folder.

    Raises:
        UserError: A file is there, or a folder that holds something.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path}: not an empty folder; choose a new one, nothing is overwritten")


def sha256_json(value: Any) -> str:
    """Give the SHA-256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
