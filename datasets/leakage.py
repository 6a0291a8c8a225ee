"""Proof that no cell, donor or section stands in two places."""

from collections.abc import Mapping, Sequence

import numpy as np

from core.errors import UserError

REMEDY = "split by the unit that repeats, remove duplicates, or give ids that are unique in the whole study"


def check_disjoint(members: Mapping[tuple[str, str], Mapping[str, Sequence[str]]], source: str) -> None:
    """Refuse a study in which something occurs in two (client, split) pairs.

    Args:
        members: (client, split) to level, such as "cell" or "donor", to the ids found there. An id may repeat within
            its own place: many cells share a donor.
        source: File or folder to name in an error.

    Raises:
        UserError: An id of one level occurs in two places; names the first and says how many more there are.
    """
    levels = dict.fromkeys(level for ids in members.values() for level in ids)
    for level in levels:
        seen: dict[str, tuple[str, str]] = {}
        shared: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {}
        for place, ids in members.items():
            for name in np.unique(np.asarray(ids.get(level, ()), dtype=np.str_)).tolist():
                first = seen.setdefault(name, place)
                if first != place:
                    shared.setdefault(name, (first, place))
        if shared:
            raise _overlap(level, shared, source)


def _overlap(level: str, shared: Mapping[str, tuple[tuple[str, str], tuple[str, str]]], source: str) -> UserError:
    name, (first, second) = next(iter(shared.items()))
    more = f", and {len(shared) - 1} more" if len(shared) > 1 else ""
    places = f"{first[0]}/{first[1]} and {second[0]}/{second[1]}"
    return UserError(f"{source}: {level} {name!r} is in both {places}{more}; {REMEDY}")
