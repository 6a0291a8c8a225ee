"""The features that all clients with a platform have, in one order.

The order is that of the sorted names: it depends on no file and no client, and a party that sees only its own files
comes to the same one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.errors import UserError
from datasets.proteomics_files import Matrix, looks_swapped, swapped
from datasets.proteomics_layout import PLATFORMS

Features = dict[str, tuple[str, ...]]


def shared_names(counts: Mapping[str, int], holders: int) -> tuple[str, ...]:
    """Give the names that all holders have, sorted, from counts that clients add up."""
    return tuple(sorted(name for name, count in counts.items() if count == holders))


def agreed_features(clients: Mapping[str, Mapping[str, Matrix]], data: Path) -> Features:
    """Give the features of each platform that every client with that platform has; none where nobody has it.

    Args:
        clients: Client to platform to what it measured.
        data: Name of the study, for messages.

    Raises:
        UserError: The holders of a platform share no feature, or a client's files are swapped.
    """
    _refuse_swapped(clients)
    features = {}
    for platform in PLATFORMS:
        holders = {name: matrices[platform] for name, matrices in clients.items() if platform in matrices}
        counts = Counter(name for matrix in holders.values() for name in matrix.features)
        features[platform] = shared_names(counts, len(holders))
        if holders and not features[platform]:
            raise UserError(
                f"{data}: clients {', '.join(holders)} share no feature of platform {platform}; name features alike"
            )
    return features


def left_out(matrices: Mapping[str, Matrix], features: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Give the features of a client's files that are not used, by platform."""
    return {platform: sorted(set(matrix.features) - set(features[platform])) for platform, matrix in matrices.items()}


def _refuse_swapped(clients: Mapping[str, Mapping[str, Matrix]]) -> None:
    for name, matrices in clients.items():
        others = [other for client, other in clients.items() if client != name]
        known = {
            platform: {feature for other in others if platform in other for feature in other[platform].features}
            for platform in PLATFORMS
        }
        for platform, matrix in matrices.items():
            elsewhere = known["b" if platform == "a" else "a"]
            if looks_swapped(matrix.features, known[platform], elsewhere):
                raise swapped(matrix.source, platform)
