"""Memory of this process, of those it started, and of the GPU: at its peak, and while it runs."""

import contextlib
import resource
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import torch


def peak_memory_mb() -> float:
    """Give the peak resident memory of this process in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def peak_gpu_mb(device: torch.device) -> float | None:
    """Give the peak memory allocated on a CUDA device in MB, or None elsewhere."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None


@contextlib.contextmanager
def memory_monitor(seconds: float | None, say: Callable[[str], None]) -> Iterator[None]:
    """Say every `seconds` what memory this process, those it started, and the GPU take; None says nothing."""
    if seconds is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            say(f"memory: {memory_in_use()}")

    thread = threading.Thread(target=watch, name="memory monitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def memory_in_use() -> str:
    """Give the resident memory of this process and those it started, and what is taken on the current GPU."""
    this = psutil.Process()
    resident = this.memory_info().rss
    for child in this.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # It may have ended since.
            resident += child.memory_info().rss
    if not torch.cuda.is_available():
        return f"{resident / 1e6:,.0f} MB resident"
    free, total = torch.cuda.mem_get_info()
    return f"{resident / 1e6:,.0f} MB resident, {(total - free) / 1e6:,.0f} of {total / 1e6:,.0f} MB of the GPU"
