"""An end to what takes too long, as an exception in the middle of it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class OvertimeError(BaseException):
    """What was asked took too long.

    No `Exception`: code that reads files turns those, and above all the `OSError` that a `TimeoutError` is, into words
    about a damaged file.
    """


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt the block after a number of seconds.

    Only the main thread of a process can be interrupted, and not in the middle of a call into compiled code; there,
    the server's own patience is what ends the wait.

    Raises:
        OvertimeError: The block took longer.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise OvertimeError(f"no end after {seconds:g} s, federation.client_timeout")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
