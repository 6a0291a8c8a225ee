"""Where a result comes from: code, versions, device, command."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "models", "datasets", "training", "tasks", "centralized", "fl")
"""What takes part in a run; reports may differ without changing a result."""
VERSIONS = ("torch", "flwr", "ray", "numpy", "torchmetrics", "monai", "anndata", "tifffile", "pillow")
"""Packages whose versions a manifest names."""


@functools.cache
def code_digest() -> str:
    """Give the first 12 digits of the SHA-256 over our source files, by relative name and content."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def provenance(device: torch.device) -> dict[str, Any]:
    """Describe code, environment and command of this process."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "code": code_digest(),
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
