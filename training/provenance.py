"""Where a result comes from: code, versions, device, command."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "models", "datasets", "training", "tasks", "centralized", "fl")
"""What takes part in a run; reports may differ without changing a result."""
COMMAND = "TRIPTYCH_COMMAND"
"""Environment variable that tells the processes of a launch what was typed."""
VERSIONS = ("torch", "flwr", "ray", "numpy", "torchmetrics", "monai", "anndata", "tifffile", "pillow")
"""Packages whose versions a manifest names."""


@functools.cache
def code_digest(task: str) -> str:
    """Give the first 12 digits of the SHA-256 over the source files of a run, by relative name and content.

    Args:
        task: Its task; where that is a dotted module from elsewhere, the package around it counts, too.
    """
    digest = hashlib.sha256()
    folders = [ROOT / package for package in PACKAGES]
    for folder in [*folders, *_package_of(task)]:
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def command() -> str:
    """Give the command that started this run, which may be the launcher's instead of this process's own."""
    program = Path(sys.argv[0]).name
    own = "flwr run" if program.startswith("flwr") else shlex.join(["python", *sys.orig_argv[1:]])
    return os.environ.get(COMMAND, own)


def imported_from(task: str) -> list[Path]:
    """Give the folders from which Python imports a task that is none of ours."""
    return [place.parent for place in _package_of(task)]


def _package_of(task: str) -> list[Path]:
    """Give the folders, or the file, of the package that a task from elsewhere is in."""
    package, dot, _ = task.partition(".")
    found = importlib.util.find_spec(package) if dot and package not in PACKAGES else None
    if found is None:
        return []
    return [Path(place) for place in found.submodule_search_locations or filter(None, [found.origin])]


def provenance(device: torch.device, task: str) -> dict[str, Any]:
    """Describe code, environment and command of this process, which trained a task."""
    return {
        "command": command(),
        "code": code_digest(task),
        "git": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in VERSIONS},
    }


def _git_commit() -> str | None:
    try:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
