"""A Flower installation for one launch alone: own home, own environment, and an end that leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fl import processes

RAY_ROOT_LIMIT = 17
"""Characters a temporary folder may have: Ray's socket paths lie 90 deeper, and the system allows 103 to 107."""


@dataclass(frozen=True)
class Isolation:
    """Where the processes of one launch live.

    Attributes:
        home: Temporary folder; Flower's and Ray's files go there.
        environment: What every process of the launch is started with.
    """

    home: Path
    environment: dict[str, str]


@contextlib.contextmanager
def isolated() -> Iterator[Isolation]:
    """Give a home and an environment; at the end, end all processes started with them and remove the home.

    That also happens on Ctrl-C and SIGTERM, which arrives as KeyboardInterrupt, and when this process is killed.
    """
    mark = uuid.uuid4().hex
    home = Path(tempfile.mkdtemp(prefix="triptych-", dir=_short_temporary_folder()))
    watch = subprocess.Popen(
        [sys.executable, "-I", "-S", processes.__file__, mark, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C in the terminal must not reach it
    )
    try:
        with _terminable():
            yield Isolation(home, _environment(home, mark))
    finally:
        survivors, _ = watch.communicate()
        if survivors.strip():
            print(f"processes that could not be ended: {survivors.strip()}", file=sys.stderr)


def executables() -> Path:
    """Give the folder of the running Python's commands, whether or not its virtual environment is activated."""
    return Path(sys.executable).parent


def _environment(home: Path, mark: str) -> dict[str, str]:
    """Give the caller's environment without what points at another Flower or Ray, and with what isolates this one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_") and key != "RAY_ADDRESS"}
    return kept | {
        processes.MARK_VARIABLE: mark,
        "PATH": os.pathsep.join([str(executables()), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",  # else the stream of a run arrives only at its end
        "FLWR_HOME": str(home / "flower"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # seconds; the default of 1 delays the start
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then listens on loopback only, on Linux too
    }


def _short_temporary_folder() -> str:
    own = tempfile.gettempdir()
    return own if len(os.fsencode(own)) <= RAY_ROOT_LIMIT else "/tmp"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt; only the main thread may set that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
