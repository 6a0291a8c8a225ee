"""Federated runs of one experiment that suffer faults on purpose, at several rates and under several strategies."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports.run_folder import RunRecord

WHEN = ("kind", "client", "round", "rate")
"""Options of a fault that say whom it strikes, and when; all others say what it does."""
NO_FAULTS = "no faults"


def fault_rate(record: RunRecord) -> float:
    """Give the share of the requests to train that a fault is expected to strike, over clients and rounds."""
    rules, rounds = _rules(record), int(_federation(record).get("rounds") or 1)
    clients = record.clients or [""]
    spared = [
        math.prod(1 - _probability(rule, client, number) for rule in rules)
        for client in clients
        for number in range(1, rounds + 1)
    ]
    return 1 - sum(spared) / len(spared)


def fault_kinds(record: RunRecord) -> str:
    """Say what the faults do: `exception`, `scaled, factor 10.0`, ..."""
    texts = []
    for rule in _rules(record):
        options = [f"{name} {value}" for name, value in rule.items() if name not in WHEN and value is not None]
        texts.append(", ".join([str(rule.get("kind")), *options]))
    return " and ".join(dict.fromkeys(texts)) or NO_FAULTS


def strategy_name(record: RunRecord, among: Sequence[RunRecord]) -> str:
    """Name the strategy of a run, with its options where others among the runs have other ones."""
    own = _strategy(record)
    same_name = [_strategy(other) for other in among if _strategy(other).get("name") == own.get("name")]
    options = [f"{key} {value}" for key, value in own.items() if any(other.get(key) != value for other in same_name)]
    return ", ".join([str(own.get("name", "strategy unknown")), *options])


def variant(record: RunRecord) -> str:
    """Give what tells federated runs with one seed apart; empty for the other settings."""
    if record.setting != "federated":
        return ""
    return json.dumps([_strategy(record), _rules(record)], sort_keys=True, default=str)


def separated(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[RunRecord]]:
    """Tell the runs to compare from those of a study of faults.

    Returns:
        All runs, but of the federated ones only those of one variant: the one with a result that suffers least, and of
        several the one with most seeds. Then all federated runs, where they differ in the rate of faults; none where
        they do not, and nothing is left out.
    """
    federated = [record for record in records if record.setting == "federated"]
    if len({round(fault_rate(record), 9) for record in federated}) < 2:
        return list(records), []
    groups: dict[str, list[RunRecord]] = {}
    for record in federated:
        groups.setdefault(variant(record), []).append(record)

    def rank(name: str) -> tuple[bool, float, int]:
        scored = [record for record in groups[name] if record.rows]
        return not scored, fault_rate(groups[name][0]), -len(scored)

    chosen = min(groups, key=rank)
    return [record for record in records if variant(record) in ("", chosen)], federated


def _probability(rule: Mapping[str, Any], client: str, number: int) -> float:
    if rule.get("client") not in (None, client):
        return 0.0
    rate = rule.get("rate")
    return float(rule.get("round") == number) if rate is None else float(rate)


def _federation(record: RunRecord) -> Mapping[str, Any]:
    return record.config.get("federation") or {}


def _rules(record: RunRecord) -> list[Mapping[str, Any]]:
    return list(_federation(record).get("faults") or [])


def _strategy(record: RunRecord) -> Mapping[str, Any]:
    known = _federation(record).get("strategy") or {}
    return known if isinstance(known, Mapping) else {"name": known}
