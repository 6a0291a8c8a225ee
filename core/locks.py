"""One process at a time writes into a folder: a lock of the system's, which ends with the process however that ends."""

import contextlib
import errno
import fcntl
import os
import weakref
from pathlib import Path

from core.errors import UserError
from core.files import make_folder, writable

FILE = ".lock"
"""Empty file in a locked folder."""
_HELD: "weakref.WeakValueDictionary[Path, Lock]" = weakref.WeakValueDictionary()


class Lock:
    """What a process holds while it writes into a folder; a process that was killed holds nothing."""

    def __init__(self, folder: Path) -> None:
        """Lock a folder; see `hold`."""
        self.path = folder / FILE
        self.made = [one for one in (folder, *folder.parents) if not one.exists()]
        make_folder(folder)
        with writable(folder):
            self.stream = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(_occupied(folder)) from None
            print(f"{folder}: this file system has no locks ({error.strerror}); let no other call write here")
        if not self._in_place:  # since another process has moved or removed it meanwhile
            raise UserError(_occupied(folder))

    @property
    def _in_place(self) -> bool:
        return self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self.stream.fileno()))

    def release(self) -> None:
        """Let other processes write; leave no trace where nothing was written."""
        if self.stream.closed:
            return
        if self._in_place:
            self.path.unlink()
        with contextlib.suppress(OSError):  # from the first on that holds something
            for folder in self.made:
                folder.rmdir()
        self.stream.close()


def hold(folder: Path) -> Lock:
    """Give this process's lock on a folder, which is made if need be; it ends with its release, or unreferenced.

    Raises:
        UserError: Another process holds it, or the folder cannot be written to.
    """
    key = folder.resolve()
    lock = _HELD.get(key)
    if lock is None or lock.stream.closed:
        lock = _HELD[key] = Lock(folder)
    return lock


def is_empty(folder: Path) -> bool:
    """Tell whether a folder holds nothing, or is not there; a lock is nothing."""
    return not folder.is_dir() or all(path.name == FILE for path in folder.iterdir())


def _occupied(folder: Path) -> str:
    return f"{folder}: another process writes here; wait for its end, or end it, then call again"


def _forget() -> None:
    """Close what a fork (a worker that loads data) has copied: it may outlive its parent, and the lock must not."""
    for lock in _HELD.values():
        lock.stream.close()


os.register_at_fork(after_in_child=_forget)
