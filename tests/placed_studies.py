"""Where the samples of a study are: each at one place, and no unit at two."""

from datasets.leakage import check_disjoint
from datasets.nuclei import NucleiStudy
from datasets.placed import Placed


def places(study: Placed | NucleiStudy) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Give (client, split) -> level -> ids, of the held-out set too."""
    names = [*study.clients, *(["held_out"] if study.has_held_out else [])]
    return {(name, split): levels for name in names for split, levels in study.identities(name).items()}


def check_whole(study: Placed | NucleiStudy, count: int) -> None:
    """Check that so many samples are placed, each once, and that no unit is in two places."""
    found = places(study)
    check_disjoint(found, "study")
    assert sum(len(next(iter(levels.values()))) for levels in found.values()) == count
