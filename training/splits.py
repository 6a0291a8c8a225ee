"""Who is in which split of which client, as one hash that is the same wherever it is computed."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from core.files import sha256_json
from training.task import Task

Levels = Mapping[str, Sequence[str]]
"""Level (cell, donor, ...) -> ids."""
Members = Mapping[tuple[str, str], Levels]
"""(client, split) -> who is there; the held-out set is the test split of `held_out`."""


def members_of(task: Task, clients: Sequence[str]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Give all places of a study with the ids found there."""
    members = {(client, split): levels for client in clients for split, levels in task.identities(client).items()}
    held_out = task.held_out_identities()
    return {**members, ("held_out", "test"): held_out} if held_out else members


def hashed(levels: Levels) -> dict[str, list[str]]:
    """Give level -> ids, such that equal ids can be told to be equal and nothing else."""
    return {level: [_hash(level, value) for value in values] for level, values in levels.items()}


def split_sha256(members: Members) -> str | None:
    """Give the SHA-256 of who is in which split; None where the task names nobody.

    Args:
        members: With ids that are `hashed`, so that a server that is shown no others gets the same number.
    """
    places = {
        f"{client}/{split}": {level: sorted(set(ids)) for level, ids in levels.items() if len(ids)}
        for (client, split), levels in members.items()
    }
    known = {place: levels for place, levels in places.items() if levels}
    return sha256_json(known) if known else None


def plain_split_sha256(members: Members) -> str | None:
    """Do the same for ids as they are."""
    return split_sha256({place: hashed(levels) for place, levels in members.items()})


def _hash(level: str, value: str) -> str:
    return hashlib.sha256(json.dumps([level, value]).encode()).hexdigest()[:20]
