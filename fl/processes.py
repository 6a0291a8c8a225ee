"""Ending everything that a launch started, by process id.

Ray's daemons leave the process tree of whoever started them, so each launch marks its processes through an
environment variable that children inherit; what carries the mark, and what descends from it, belongs to the launch.
"""

import contextlib

import psutil

MARK = "TRIPTYCH_LAUNCH"


def marked(mark: str) -> list[psutil.Process]:
    """Give the running processes that carry a mark, with all their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
    return list(found.values())


def end_marked(mark: str, grace: float = 3.0) -> None:
    """End a launch's processes: ask, wait for a moment, then insist. Repeats until none is left."""
    for _ in range(5):
        processes = marked(mark)
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=grace)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=grace)
