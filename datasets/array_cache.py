"""The slices, tiles or images read last, decoded, up to a number of bytes: one cache per process, for all datasets."""

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy.typing as npt

DEFAULT_BYTES = 256 * 1024**2
Key = TypeVar("Key", bound=Hashable)


class ArrayCache:
    """Least recently used arrays go first when the limit is passed.

    Attributes:
        limit: Bytes that may be held.
        size: Bytes held now.
        reads: Arrays that were not there and had to be read.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        """Start empty."""
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget everything, the lock too: a forked process may have got it locked."""
        self.size = self.reads = 0
        self._arrays: OrderedDict[Hashable, npt.NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, read: Callable[[Key], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Give the array of a key, such as a path, read where it is not held. Nobody may write to it."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        values = read(key)
        values.setflags(write=False)
        with self._lock:
            self.reads += 1
            if key not in self._arrays:
                self._arrays[key] = values
                self.size += values.nbytes
            while self.size > self.limit:
                _, oldest = self._arrays.popitem(last=False)
                self.size -= oldest.nbytes
        return values


@functools.cache
def process_cache() -> ArrayCache:
    """Give the cache of this process; a forked loader worker starts with an empty one of the same limit."""
    cache = ArrayCache()
    os.register_at_fork(after_in_child=cache.clear)
    return cache
