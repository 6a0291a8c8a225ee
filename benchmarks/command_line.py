"""`python -m fl` and its relatives as processes of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.provenance import ROOT

PATIENCE = 600.0
"""Seconds after which a run counts as hanging."""


@dataclass(frozen=True)
class Command:
    """`python -m fl` on an experiment, with its run folder in a folder of its own."""

    config: Path
    stem: str
    results: Path
    engine: str
    overrides: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.results / self.stem / "run"

    def start(self, *, resume: bool = False) -> "subprocess.Popen[str]":
        """Start the command; it goes on with the run folder where `resume` is set."""
        words = [str(self.config), *self.overrides, "--results", str(self.results), "--name", "run"]
        words = ["--resume", str(self.folder)] if resume else words
        return python("fl", *words, "--engine", self.engine, **self.environment)

    def run(self) -> tuple[int, str]:
        """Run to the end; give the exit code and what was written to stderr."""
        return end(self.start())


def python(module: str, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """Start a module of the project as a command."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for a command; give the exit code and what was written to stderr.

    Raises:
        subprocess.TimeoutExpired: It hangs.
    """
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors.strip()
