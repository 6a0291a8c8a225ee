"""Which clients were being served when a worker died, kept in the run folder from one launch to the next.

Flower never replaces a Ray worker that died: it fails every later task that it is given. So the launch ends, and the
next one goes on from the last finished round with fresh workers, whose results are the same. The clients of the dead
worker are then asked one by one: if another worker dies, it is known whose fault it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.files import read_json, write_json


class WorkersDiedError(RuntimeError):
    """Workers ended while they served clients; a new launch goes on from here."""


class Deaths:
    """The deaths of one exchange, such as the training of round 3."""

    def __init__(self, folder: Path) -> None:
        """Read what the last launch left."""
        self.path = folder / "deaths.json"
        self.known: dict[str, Any] = read_json(self.path) if self.path.exists() else {}

    def suspects(self, exchange: str) -> set[str]:
        """Give the clients to ask one by one in an exchange."""
        return set(self.known["suspects"]) if self.known.get("exchange") == exchange else set()

    def counts(self, exchange: str) -> dict[str, int]:
        """Give client -> workers that died while they served this client alone."""
        return dict(self.known["counts"]) if self.known.get("exchange") == exchange else {}

    def add(self, exchange: str, shares: Sequence[Sequence[str]]) -> None:
        """Record the shares of clients that dead workers were serving.

        Raises:
            WorkersDiedError: Always; there is no use in asking on.
        """
        suspects, counts = self.suspects(exchange), self.counts(exchange)
        for share in shares:
            suspects.update(share)
            if len(share) == 1:
                counts[share[0]] = counts.get(share[0], 0) + 1
        write_json(self.path, {"exchange": exchange, "suspects": sorted(suspects), "counts": counts})
        names = ", ".join(sorted({name for share in shares for name in share}))
        raise WorkersDiedError(f"{exchange}: a worker died while it served {names}")
