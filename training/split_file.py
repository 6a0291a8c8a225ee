"""The split of an experiment as a file: who is where, with a hash, for people to read and for runs to be held to."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json, write_json
from datasets.leakage import check_disjoint
from datasets.unit_splits import SPLITS
from training.config import Experiment
from training.preparation import check_names
from training.splits import members_of, plain_split_sha256

Members = dict[tuple[str, str], dict[str, list[str]]]
COMMAND = "`python -m tasks split`"


def write_split(path: Path, experiment: Experiment, config: str) -> str:
    """Write client -> split -> level -> ids, with the samples of each split and the SHA-256 of all.

    Args:
        path: JSON file to write.
        experiment: Whose data is split as its options say.
        config: The file it was read from, for the record.

    Returns:
        The SHA-256, the one that manifests of runs on this split carry.

    Raises:
        UserError: The data cannot be used, a unit stands in two places, the task names none, or something else than
            an earlier split of this task is where it would go.
    """
    _check_target(path, experiment.task)
    task = experiment.build_task()
    clients = check_names(task.clients(), str(task.data))
    members = members_of(task, clients)
    check_disjoint(members, str(task.data))
    digest = plain_split_sha256(members)
    if digest is None:
        raise UserError(f"task = {experiment.task!r}: names no samples, so there is no split to write; leave it out")
    samples = {client: _sizes(task.describe(client)) for client in clients}
    content = {
        "config": config,
        "experiment": experiment.experiment,
        "task": experiment.task,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "split_sha256": digest,
        "samples": {split: sum(sizes[split] for sizes in samples.values()) for split in SPLITS},
        "samples_per_client": samples,
        "clients": _nested(members),
    }
    write_json(path, content)
    return digest


def check_split(path: Path, experiment: Experiment) -> None:
    """Refuse an experiment whose data is not split as a file says.

    Raises:
        UserError: It is split otherwise, or the file cannot be used.
    """
    recorded = _read_split(path)
    task = experiment.build_task()
    now = members_of(task, check_names(task.clients(), str(task.data)))
    differences = _differences(recorded, now)
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        remedy = f"restore data and options, or make the file anew with {COMMAND}"
        raise UserError(f"{path}: the data splits otherwise now: {differences[0]}{more}; {remedy}")


def _check_target(path: Path, task: str) -> None:
    """Make sure that nothing is lost where a split is written: what a run, a person or another task has put there."""
    if path.suffix != ".json" or path.is_dir():
        raise UserError(f"--out {path}: not the name of a JSON file; name one, such as split.json")
    if not path.exists():
        return
    content = read_json(path)
    if not isinstance(content, dict) or not {"split_sha256", "samples_per_client"} <= content.keys():
        raise UserError(f"--out {path}: holds something else than a split; choose another file or remove it")
    if content.get("task") != task:
        raise UserError(
            f"--out {path}: holds a split of task {content.get('task')!r}; choose another file or remove it"
        )


def _read_split(path: Path) -> Members:
    content = read_json(path)
    try:
        members = {
            (client, split): {level: [str(value) for value in ids] for level, ids in levels.items()}
            for client, splits in content["clients"].items()
            for split, levels in splits.items()
        }
        intact = plain_split_sha256(members) == content["split_sha256"]
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: holds no split; make it with {COMMAND}") from None
    if not intact:
        raise UserError(f"{path}: split_sha256 is not that of the ids there; make the file anew with {COMMAND}")
    return members


def _sizes(described: Mapping[str, Any]) -> dict[str, int]:
    return {split: int(described.get(split, 0)) for split in SPLITS}


def _nested(members: Mapping[tuple[str, str], Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    nested: dict[str, dict[str, dict[str, list[str]]]] = {}
    for (client, split), levels in members.items():
        nested.setdefault(client, {})[split] = {level: sorted(set(ids)) for level, ids in levels.items()}
    return nested


def _differences(recorded: Members, now: Members) -> list[str]:
    """Say of every id that is in one of the two only where it stands in which."""
    then, today = _placed(recorded), _placed(now)
    gone = [f"{level} {value!r} was in {client}/{split}" for client, split, level, value in sorted(then - today)]
    new = [f"{level} {value!r} is in {client}/{split}" for client, split, level, value in sorted(today - then)]
    return [*gone, *new]


def _placed(members: Members) -> set[tuple[str, str, str, str]]:
    return {
        (client, split, level, str(value))
        for (client, split), levels in members.items()
        for level, ids in levels.items()
        for value in ids
    }
