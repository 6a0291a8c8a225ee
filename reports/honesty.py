"""What a reader must know before believing a comparison: failures, and all that differs beside the setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.numbers import amount
from reports.outcomes import miscounted
from reports.run_folder import SETTINGS, RunRecord
from reports.stored import predicted_on
from reports.variants import fault_rate

LISTED = 8
"""Failures of clients that are told one by one."""
RESOURCES = ("workers", "cpus_per_client", "gpus_per_client")
"""Options of the federation that change how long a run takes, not what comes out."""


@dataclass(frozen=True)
class Facet:
    """Something that should be the same in all runs compared."""

    name: str
    read: Callable[[RunRecord], Any]
    consequence: str
    settings: Sequence[str] = SETTINGS
    per_seed: bool = False
    """Whether runs of different seeds may differ."""


def failures(records: Sequence[RunRecord]) -> list[str]:
    """Tell what went wrong: one line per run that is not whole, then one per failure; of many the first few."""
    labels = [record.label for record in records]
    named = [
        record.label if labels.count(record.label) == 1 else f"{record.label} ({record.folder.name})"
        for record in records
    ]
    states = {
        "running": "not finished; this report shows how far it has come.",
        "degraded": "degraded: it went on without clients that failed.",
    }
    lines = []
    for label, record in zip(named, records, strict=True):
        if record.status in ("failed", "stopped"):
            lines.append(f"{label}: {record.status}: {record.error or 'no reason recorded'}")
        elif record.status in states:
            lines.append(f"{label}: {states[record.status]}")
    told = [
        f"{label}: {one['client']} {one.get('kind', 'failed')} in {one['phase']} of step {one['step']}: "
        f"{one['message']}"
        for label, record in zip(named, records, strict=True)
        for one in record.failures
    ]
    if len(told) > LISTED:
        told = [*told[:LISTED], f"{len(told) - LISTED:,} more failures of clients; the table of failures has all."]
    return lines + told


def warnings(records: Sequence[RunRecord]) -> list[str]:
    """Tell what keeps the results of these runs from being compared or believed as they stand."""
    scored = [record for record in records if record.rows]
    found = _state_warnings(scored) + [text for record in scored for text in _prediction_warnings(record)]
    found += _undefined_warnings(scored) + _seed_warning(scored)
    facets = [*_facets(), *_data_facets(scored), *_config_facets(scored)]
    return found + [text for facet in facets for text in _differences(facet, scored)]


def _state_warnings(scored: Sequence[RunRecord]) -> list[str]:
    dry = [record for record in scored if record.manifest.get("dry_run")]
    degraded = [record for record in scored if record.status == "degraded"]
    failed = [record for record in scored if record.status in ("failed", "running")]
    suffering = [record for record in scored if record.setting == "federated" and fault_rate(record)]
    borrowing = [record for record in scored if _borrows(record)]
    texts = {
        "Dry run on a few batches: {}. The numbers show that it runs, nothing else.": dry,
        "Degraded: {}. Some clients took no part in all of it.": degraded,
        "Scored but not completed: {}. The scores may not be final.": failed,
        "Faults on purpose (federation.faults): {}. These are the scores under faults.": suffering,
        "No test split: {}. Validation samples stand for it, and they chose the epoch or round.": borrowing,
    }
    return [text.format(_named(group)) for text, group in texts.items() if group] + _memory_warning(scored)


def _borrows(record: RunRecord) -> bool:
    """Tell whether validation stands for the test of some client."""
    files = [client.get("files") or {} for client in record.manifest.get("clients", {}).values()]
    return any((one.get("test") or {}).get("borrowed_from") for one in files)


def _memory_warning(scored: Sequence[RunRecord]) -> list[str]:
    """Count the steps that were skipped for lack of memory."""
    skipped = {record.label: _total(record.manifest.get("oom_skipped")) for record in scored}
    listed = "; ".join(f"{count:,} in {label}" for label, count in skipped.items() if count)
    if not listed:
        return []
    return [f"Out of memory, training steps skipped: {listed}. Those samples were not learnt from."]


def _undefined_warnings(scored: Sequence[RunRecord]) -> list[str]:
    """Tell where the settings' scores are means over different classes or genes."""
    names = sorted({name for record in scored for row in record.rows for name in row["metrics"]})
    lines = []
    for name in (one for one in names if one.startswith("undefined_")):
        for data, place in {"held_out": "the held-out set", "pooled": "all clients' test sets together"}.items():
            counts = {setting: _undefined(scored, setting, data, name) for setting in SETTINGS}
            known = {setting: values for setting, values in counts.items() if values}
            if len({tuple(sorted(set(values))) for values in known.values()}) > 1:
                listed = ", ".join(f"{setting} {amount(values)}" for setting, values in known.items())
                lines.append(
                    f"{name.replace('_', ' ').capitalize()} on {place}: not the same: {listed}. Undefined ones are "
                    "left out of a mean, so the means are not over the same ones."
                )
    return lines


def _undefined(scored: Sequence[RunRecord], setting: str, data: str, name: str) -> list[float]:
    runs = [record for record in scored if record.setting == setting]
    values = [one.value(model, data, name) for one in runs for model in {*one.models, one.setting}]
    return [value for value in values if not np.isnan(value)]


def _total(value: Any) -> int:
    return sum(map(_total, value.values())) if isinstance(value, Mapping) else int(value or 0)


def _prediction_warnings(record: RunRecord) -> list[str]:
    texts = {
        "stored predictions give other results than reported": [
            f"{row['model']} on {row['data']}" for row in record.rows if not _agrees(record, row)
        ],
        "the stored counts tp, fp and fn are not those of the stored pixels": miscounted(record),
    }
    return [f"{record.label}: {text}: {', '.join(wrong)}." for text, wrong in texts.items() if wrong]


def _agrees(record: RunRecord, row: Mapping[str, Any]) -> bool:
    predicted = predicted_on(record, row["model"], row["data"])
    return predicted is None or predicted.agrees(row["metrics"], record.arrays(row["model"], row["data"]))


def _seed_warning(scored: Sequence[RunRecord]) -> list[str]:
    seeds = {setting: [one.seed for one in scored if one.setting == setting] for setting in SETTINGS}
    present = {setting: sorted(values) for setting, values in seeds.items() if values}
    if len({tuple(values) for values in present.values()}) < 2:
        return []
    listed = "; ".join(f"{setting} {', '.join(map(str, values))}" for setting, values in present.items())
    return [f"Seeds differ: {listed}. Means are over different seeds; price and gain use the seeds that both have."]


def _facets() -> list[Facet]:
    def first_fitted(record: RunRecord) -> Any:
        return next(iter(record.manifest.get("fitted_sha256", {}).values()), None)

    def environment(key: str) -> Callable[[RunRecord], Any]:
        return lambda record: record.manifest.get("environment", {}).get(key)

    def manifest(key: str) -> Callable[[RunRecord], Any]:
        return lambda record: record.manifest.get(key)

    pooled = ("centralized", "federated")
    return [
        Facet("Samples seen in training", lambda record: record.manifest["budget"].get("samples"),
              "The budgets are unequal, so a difference in score is not the effect of the setting alone."),
        Facet("Initial weights", manifest("initial_sha256"), "The runs did not start alike.", per_seed=True),
        Facet("Fitted preprocessing", first_fitted, "Their inputs were prepared differently.", pooled, per_seed=True),
        Facet("Rule for the final weights (select)", manifest("select"), "Checkpoints were chosen by different rules."),
        Facet("Monitored metric", manifest("monitor"), "Checkpoints were chosen by different metrics."),
        Facet("Code", environment("code"), "The runs were made by different versions of the source code."),
        Facet("Held-out samples", manifest("held_out"), "Scores on the held-out set are not comparable."),
        Facet("Device", environment("device"), "Times are not comparable, and the last bits of the scores may differ."),
        Facet("Package versions", environment("versions"), "The last bits of the scores may differ."),
    ]  # fmt: skip


def _data_facets(scored: Sequence[RunRecord]) -> list[Facet]:
    def digest(client: str) -> Callable[[RunRecord], Any]:
        return lambda record: record.manifest.get("data", {}).get(client)

    everyone = set.intersection(*(set(one.clients) for one in scored)) if scored else set()
    consequence = "The runs did not learn from, or were not scored on, the same data."
    return [
        Facet("Clients", lambda record: ", ".join(sorted(record.clients)), consequence),
        *[Facet(f"Data of {client}", digest(client), consequence) for client in sorted(everyone)],
    ]


def _config_facets(scored: Sequence[RunRecord]) -> list[Facet]:
    def option(section: str, key: str) -> Callable[[RunRecord], Any]:
        return lambda record: _flat(record.config.get(section), section).get(key)

    def keys(section: str, settings: Sequence[str]) -> list[str]:
        return sorted(
            {key for one in scored if one.setting in settings for key in _flat(one.config.get(section), section)}
        )

    consequence = "The runs are not one experiment."
    facets = [
        Facet(key, option(section, key), consequence)
        for section in ("train", "options")
        for key in keys(section, SETTINGS)
    ]
    federated = [key for key in keys("federation", ["federated"]) if key.rpartition(".")[2] not in RESOURCES]
    return facets + [Facet(key, option("federation", key), consequence, ["federated"]) for key in federated]


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    """Name every leaf of nested options by its dotted key."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, f"{prefix}.{name}").items()}


def _differences(facet: Facet, scored: Sequence[RunRecord]) -> list[str]:
    """Write one sentence for a facet that is not the same in all runs (or all runs of a seed)."""
    records = [record for record in scored if record.setting in facet.settings]
    seeds = sorted({record.seed for record in records}) if facet.per_seed else [None]
    differing: list[RunRecord] = []
    for seed in seeds:
        group = [record for record in records if seed is None or record.seed == seed]
        if len({_shown(facet.read(record)) for record in group}) > 1:
            differing += group
    if not differing:
        return []
    holders: dict[str, list[RunRecord]] = {}
    for record in differing:
        holders.setdefault(_shown(facet.read(record)), []).append(record)
    listed = "; ".join(f"{value} in {_named(group)}" for value, group in holders.items())
    return [f"{facet.name}: not the same: {listed}. {facet.consequence}"]


def _named(records: Sequence[RunRecord]) -> str:
    seeds: dict[str, list[str]] = {}
    for record in records:
        seeds.setdefault(record.setting, []).append(str(record.seed))
    return ", ".join(f"{setting} (seed {', '.join(values)})" for setting, values in seeds.items())


def _shown(value: Any) -> str:
    """Write a value so that equal ones look equal; hashes by their first twelve digits."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in sorted(value.items()))
    text = f"{value:,}" if isinstance(value, int) else str(value)
    is_hash = len(text) == 64 and all(digit in "0123456789abcdef" for digit in text)
    return text[:12] if is_hash else text
