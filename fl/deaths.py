"""Which clients were being served when a worker died, kept in the run folder from one launch to the next.

Flower never replaces a Ray worker that died: it fails every later task that it is given. So the launch ends, and the
next one goes on from the last finished round with fresh workers, whose results are the same. The clients of the dead
worker are then asked one by one: if another worker dies, it is known whose fault it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json, write_json


class WorkersDiedError(RuntimeError):
    """Workers ended while they served clients; a new launch goes on from here."""


class Deaths:
    """The deaths since the last finished round, by exchange, such as the training of round 3.

    What is known of one exchange outlives deaths in another: each launch opens the data anew, and a client that kills
    workers there must not be tried again because of what happened later.
    """

    def __init__(self, folder: Path) -> None:
        """Name the file, which is there once a worker has died."""
        self.path = folder / "deaths.json"

    def suspects(self, exchange: str) -> set[str]:
        """Give the clients to ask one by one in an exchange."""
        return set(self._of(exchange).get("suspects", ()))

    def counts(self, exchange: str) -> dict[str, int]:
        """Give client -> workers that died while they served this client alone."""
        return dict(self._of(exchange).get("counts", {}))

    def launches(self, exchange: str) -> int:
        """Count the launches that ended in an exchange."""
        return int(self._of(exchange).get("launches", 0))

    def add(self, exchange: str, shares: Sequence[Sequence[str]]) -> None:
        """Record the shares of clients that dead workers were serving."""
        suspects, counts = self.suspects(exchange), self.counts(exchange)
        for share in shares:
            suspects.update(share)
            if len(share) == 1:
                counts[share[0]] = counts.get(share[0], 0) + 1
        found = {"launches": self.launches(exchange) + 1, "suspects": sorted(suspects), "counts": counts}
        write_json(self.path, {**self._known(), exchange: found})

    def forget(self) -> None:
        """Suspect nobody any more: a round is finished, or a user goes on with a run and may have mended its cause."""
        self.path.unlink(missing_ok=True)

    def _known(self) -> dict[str, Any]:
        known = read_json(self.path) if self.path.exists() else {}
        if not (isinstance(known, dict) and all(isinstance(one, dict) for one in known.values())):
            raise UserError(f"{self.path}: not written by a run; remove the file, then nobody is suspected")
        return known

    def _of(self, exchange: str) -> dict[str, Any]:
        return self._known().get(exchange, {})  # type: ignore[no-any-return]
