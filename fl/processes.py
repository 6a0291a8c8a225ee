"""Ends every process of a launch by its id, whatever became of the launcher.

A launch starts this file as a script of its own (`python processes.py MARK FOLDER`). The script waits until its
standard input is closed, by the launcher's orderly end or by the system when the launcher was killed, and then ends
the processes and removes the folder. It imports only the standard library, so that it starts in milliseconds.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "TRIPTYCH_LAUNCH"
"""Environment variable that every process of a launch inherits, Ray's workers included."""
GRACE_SECONDS = 1.0
"""What a process gets between being asked and being made to end."""
PATIENCE_SECONDS = 15.0
"""After this long in all, what still lives (in an uninterruptible system call, say) is given up."""

Table = dict[int, tuple[int, str]]
"""Parent and environment of every process that is not a zombie, by process id."""


def marked(mark: str) -> set[int]:
    """Give the ids of living processes that carry a mark, and of all their descendants, which may have lost it."""
    table = _from_proc(Path("/proc")) if Path("/proc/self/environ").exists() else _from_ps()
    wanted = f"{MARK}={mark}"
    found = {pid for pid, (_, environment) in table.items() if wanted in environment}
    while grown := {pid for pid, (parent, _) in table.items() if parent in found} - found:
        found |= grown
    return found - {os.getpid()}


def end_marked(mark: str) -> set[int]:
    """End all processes that carry a mark; give the ids of those that outlived it, normally none."""
    start = time.monotonic()
    asked: set[int] = set()
    while alive := marked(mark):
        waited = time.monotonic() - start
        if waited > PATIENCE_SECONDS:
            break
        for pid in alive if waited > GRACE_SECONDS else alive - asked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if waited > GRACE_SECONDS else signal.SIGTERM)
        asked |= alive
        time.sleep(0.05)
    return alive


def _from_proc(proc: Path) -> Table:
    """Read the process table where the system shows it as files (Linux)."""
    table: Table = {}
    for folder in proc.glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                table[int(folder.name)] = (int(parent), _environment(folder))
        except OSError:  # it has ended meanwhile
            continue
    return table


def _environment(folder: Path) -> str:
    try:
        return (folder / "environ").read_bytes().decode(errors="replace")
    except OSError:  # another user's process
        return ""


def _from_ps() -> Table:
    """Ask ps, which on macOS and the BSDs appends the environment to the command."""
    command = ["ps", "axeww", "-o", "pid=,ppid=,stat=,command="]
    listing = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout
    rows = (line.split(maxsplit=3) for line in listing.splitlines())
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")}


def main(mark: str, folder: str) -> None:
    """Wait for the launch to be over, then end its processes and remove its folder."""
    sys.stdin.read()
    survivors = end_marked(mark)
    shutil.rmtree(folder, ignore_errors=True)
    print(*sorted(survivors))


if __name__ == "__main__":
    main(*sys.argv[1:])
