"""Train, validation and test by whole animals or replicates, as a JSON manifest that is checked when it is read.

The draw is that of scikit-learn's `train_test_split` and `GroupShuffleSplit`: sorted names, permuted by numpy's legacy
generator, the first of them for validation. A test set, strata by client and refusals are added.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import read_json, write_json
from datasets.rosette_samples import GroupBy, Sample
from datasets.unit_splits import SPLITS

LISTS = {f"{split}_sample_list": split for split in SPLITS}


@dataclass(frozen=True)
class Draw:
    """How groups are drawn.

    Attributes:
        val_fraction: Share of the groups for validation, rounded up.
        test_fraction: Share of the groups for the test, rounded up; None for no test set.
        seed: Of numpy's legacy generator.
    """

    val_fraction: float = 0.2
    test_fraction: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for name, fraction in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if fraction is not None and not 0 < fraction < 1:
                raise UserError(f"{name}: {fraction} is not between 0 and 1; give a share of the groups such as 0.2")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed: {self.seed} is outside of 0 ... {2**32 - 1}; choose another")


def draw_splits(group_of: Mapping[str, str], draw: Draw, source: str) -> dict[str, str]:
    """Deal whole groups to splits.

    Args:
        group_of: Sample -> group.
        draw: How.
        source: What is split, to name in an error.

    Returns:
        Sample -> split.

    Raises:
        UserError: There are too few groups.
    """
    groups = sorted(set(group_of.values()))
    n_val, n_test = (math.ceil((fraction or 0) * len(groups)) for fraction in (draw.val_fraction, draw.test_fraction))
    if n_val + n_test >= len(groups):
        shown = ", ".join(groups[:4]) + (", ..." if len(groups) > 4 else "")
        raise UserError(
            f"{source}: {len(groups)} groups ({shown}) are too few for {n_val} in val, {n_test} in test and one or "
            "more in train; lower the fractions or add groups"
        )
    drawn = [groups[at] for at in np.random.RandomState(draw.seed).permutation(len(groups))]
    val, test = set(drawn[:n_val]), set(drawn[n_val : n_val + n_test])
    return {name: "val" if group in val else "test" if group in test else "train" for name, group in group_of.items()}


def manifest_path(folder: Path, experiment: str) -> Path:
    """Give the file of an experiment's split."""
    return folder / f"split_manifest_{experiment}.json"


def write_manifest(
    path: Path,
    samples: Sequence[Sample],
    draw: Draw,
    *,
    group_by: GroupBy = "animal",
    client_key: str | None = None,
) -> dict[str, Any]:
    """Split a study and write the manifest.

    Args:
        path: The manifest, see `manifest_path`.
        samples: What is split, see `read_samples`.
        draw: How groups are drawn.
        group_by: What is never split.
        client_key: Column, or "animal", that names the data holder; each holder's groups are then drawn by themselves.

    Returns:
        What was written.

    Raises:
        UserError: The file is there already, there are too few groups, a group is at two clients, or the file cannot
            be written.
    """
    if path.exists():
        raise UserError(f"{path}: exists already, and runs may rest on it; choose another name, or remove it first")
    client_of = {one.name: one.value(client_key) if client_key else "" for one in samples}
    group_of = {one.name: one.unit(group_by) for one in samples}
    refuse_divided(group_of, client_of, f"{path}: {group_by}", "client")
    split_of: dict[str, str] = {}
    for client in sorted(set(client_of.values())):
        own = {name: group for name, group in group_of.items() if client_of[name] == client}
        split_of |= draw_splits(own, draw, f"{path}: client {client!r}" if client else str(path))
    lists = {key: sorted(name for name in split_of if split_of[name] == split) for key, split in LISTS.items()}
    members: dict[str, list[str]] = {}
    for name in sorted(group_of) if group_by != "none" else ():
        members.setdefault(group_of[name], []).append(name)
    content = {
        "split_created": datetime.now(UTC).isoformat(timespec="seconds"),
        "total_samples": len(split_of),
        **{f"{split}_samples": len(lists[key]) for key, split in LISTS.items()},
        "test_size": draw.val_fraction,
        "test_fraction": draw.test_fraction,
        "random_state": draw.seed,
        "sample_order_hash": order_hash(split_of),
        "split_hash": split_hash(split_of),
        "group_by": group_by,
        "client_key": client_key,
        **lists,
        "groups": dict(sorted(members.items())),
    }
    write_json(path, content)
    return content


def read_manifest(path: Path, samples: Sequence[Sample], group_by: GroupBy) -> dict[str, str]:
    """Read a manifest and check it against itself and against the study.

    Args:
        path: The manifest.
        samples: All samples of the study.
        group_by: What must not be split.

    Returns:
        Sample -> split, for the samples that the manifest lists.

    Raises:
        UserError: The lists are not those that were counted and hashed, name a sample twice or one that is not in the
            study, or put a group into two splits. The message names the file.
    """
    content = read_json(path)
    split_of = _listed(path, content)
    recorded = _recorded_groups(path, content)
    refuse_divided(recorded, split_of, f"{path}: {content.get('group_by')}", "split")
    _refuse_changed(path, content, split_of)
    group_of = {one.name: one.unit(group_by) for one in samples}
    unknown = sorted(set(split_of) - set(group_of))
    if unknown:
        more = f", nor are {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(f"{path}: sample {unknown[0]!r} is not in the study{more}; restore it or make the split anew")
    refuse_divided(group_of, split_of, f"{path}: {group_by}", "split")
    return split_of


def order_hash(samples: Iterable[str]) -> str:
    """Give the SHA-256 of the sorted ids, one a line."""
    return hashlib.sha256("\n".join(sorted(samples)).encode()).hexdigest()


def split_hash(split_of: Mapping[str, str]) -> str:
    """Give the SHA-256 of the sorted ids, one a line, each behind its split and a tab."""
    lines = [f"{split_of[name]}\t{name}" for name in sorted(split_of)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def refuse_divided(group_of: Mapping[str, str], place_of: Mapping[str, str], source: str, kind: str) -> None:
    """Refuse a group whose samples are in two places.

    Args:
        group_of: Sample -> group.
        place_of: Sample -> client or split; samples that are in no place do not count.
        source: File, and what the groups are, to begin an error with.
        kind: What the places are.

    Raises:
        UserError: Names the first such group, and a sample in each of two places.
    """
    first: dict[str, str] = {}
    for name in sorted(set(group_of) & set(place_of)):
        other = first.setdefault(group_of[name], name)
        if place_of[other] != place_of[name]:
            raise UserError(
                f"{source} {group_of[name]!r} is in two places: {kind} {place_of[other]!r} ({other}) and "
                f"{place_of[name]!r} ({name}); it goes to one of them as a whole"
            )


def _refuse_changed(path: Path, content: Mapping[str, Any], split_of: Mapping[str, str]) -> None:
    """Hold the lists against what a manifest says of them; one of the published form has no `split_hash`."""
    counts = Counter(split_of.values())
    found = {
        "sample_order_hash": order_hash(split_of),
        "split_hash": split_hash(split_of),
        "total_samples": len(split_of),
        **{f"{split}_samples": counts[split] for split in SPLITS},
    }
    for key, value in found.items():
        stored = content.get(key)
        if stored != value and (key in content or key == "sample_order_hash"):
            raise UserError(
                f"{path}: {key} is {stored!r} but the lists give {value!r}; restore the file or make it anew"
            )


def _recorded_groups(path: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """Give sample -> group as a manifest has it."""
    groups = content.get("groups", {})
    if not isinstance(groups, dict) or not all(isinstance(names, list) for names in groups.values()):
        raise UserError(f"{path}: groups is no mapping of a group to a list of sample ids; make the split anew")
    return {str(name): group for group, names in groups.items() for name in names}


def _listed(path: Path, content: Any) -> dict[str, str]:
    """Give sample -> split of the lists of a manifest."""
    split_of: dict[str, str] = {}
    for key, split in LISTS.items():
        optional = split == "test"
        names = content.get(key, [] if optional else None) if isinstance(content, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {key} is no list of sample ids; make the split anew")
        for name in names:
            if name in split_of:
                both = f"in {split_of[name]} and {split}" if split_of[name] != split else f"twice in {split}"
                raise UserError(f"{path}: sample {name!r} is {both}; keep one")
            split_of[name] = split
    return split_of
