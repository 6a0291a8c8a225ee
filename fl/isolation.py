"""A Flower installation for one launch alone: own home, own environment, and an end that leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl import processes
from training.provenance import COMMAND, command

TEMPORARY_LIMIT = 17
"""Bytes the path of the temporary folder may have: Ray's sockets lie 86 deeper, and macOS allows 103, Linux 107."""


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
def isolated(imports: Sequence[Path] = ()) -> Iterator[Isolation]:
    """Give a home and an environment; at the end, end all processes started with them and remove the home.

    Python there looks for modules in `imports`, too, since the working directory is another.
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
            yield Isolation(home, _environment(home, mark, imports))
    finally:
        survivors, _ = watch.communicate()
        if survivors.strip():
            print(f"processes that could not be ended: {survivors.strip()}", file=sys.stderr)


def executables() -> Path:
    """Give the folder of the running Python's commands, whether or not its virtual environment is activated."""
    return Path(sys.executable).parent


def _environment(home: Path, mark: str, imports: Sequence[Path]) -> dict[str, str]:
    """Give the caller's environment without what points at another Flower or Ray, and with what isolates this one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_") and key != "RAY_ADDRESS"}
    direct = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")), "127.0.0.1,localhost"]))
    return kept | {
        "no_proxy": direct,  # Flower's commands would ask a proxy for their own SuperLink
        "NO_PROXY": direct,
        processes.MARK: mark,
        COMMAND: command(),
        "PATH": os.pathsep.join([str(executables()), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": _absolute([*os.environ.get("PYTHONPATH", "").split(os.pathsep), *map(str, imports)]),
        "PYTHONUNBUFFERED": "1",  # else the stream of a run arrives only at its end
        "FLWR_HOME": str(home / "flower"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # seconds; the default of 1 delays the start
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then listens on loopback only, on Linux too
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a share of 0 limits nothing, rather than hiding the GPU
    }


def _absolute(paths: Iterable[str]) -> str:
    return os.pathsep.join(str(Path(path).absolute()) for path in paths if path)


def _short_temporary_folder() -> str:
    configured = tempfile.gettempdir()
    return configured if len(os.fsencode(configured)) <= TEMPORARY_LIMIT else str(Path(os.sep) / "tmp")


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
