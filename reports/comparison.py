"""Several runs side by side: what federation cost, what joining gained, and for whom."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from reports.bootstrap import difference_interval, mean_interval, recomputed
from reports.numbers import Interval, Spread
from reports.predicted import Predicted
from reports.run_folder import SETTINGS, RunRecord
from reports.stored import predicted_on
from reports.variants import separated, variant

MAIN = 4
"""Metrics beside the loss that have room in a table."""
KNOWN = (
    *("accuracy", "balanced_accuracy", "f1_macro", "spearman", "pearson", "r2", "mse", "mae"),
    *("f1", "iou", "precision", "recall", "image_f1", "image_iou", "object_f1", "object_precision", "object_recall"),
    *("cross_corr_mean", "cross_a_corr_mean", "cross_b_corr_mean", "cross_a_r2", "cross_b_r2"),
)
"""In the order in which tables name them; others follow by name."""
SAME = 1e-3
"""How far a metric may be from what predictions give, relative to 1 or itself, to have an interval from them."""


@dataclass(frozen=True)
class Headline:
    """One setting on one test set."""

    setting: str
    data: str
    """`held_out`; `pooled`: all clients' test sets together; `mean`: the clients' values, weighted by their samples."""
    support: int
    scores: dict[str, Spread]
    """Metric -> value per seed; on the held-out set, local is the mean over the clients' models."""
    counts: dict[str, list[float]]
    """What has no better or worse, such as undefined genes -> value per seed and model."""
    ranges: dict[str, tuple[float, float]]
    """Metric -> lowest and highest over the clients' models and seeds, where there are several models."""
    models: tuple[int, int]
    """Models (in a mean: clients) with a defined primary metric, and all of them, over all seeds."""
    intervals: dict[str, Interval]
    """Metric -> interval over test samples, for the metrics that follow from the stored predictions."""


@dataclass(frozen=True)
class ClientRow:
    """One client's own test set under every setting, in the primary metric."""

    client: str
    support: int
    scores: dict[str, Spread]
    intervals: dict[str, Interval | None]
    counts: dict[str, dict[str, list[float]]]
    """Setting -> what has no better or worse -> value per seed."""
    price: Spread
    """Of not pooling: how much better centralized is than federated, per seed that both have."""
    gain: Spread
    """From joining: how much better federated is than local, per seed that both have."""
    gain_interval: Interval | None


@dataclass(frozen=True)
class CrossSite:
    """Primary metric of every model (rows) on every test set (columns)."""

    models: list[str]
    data: list[str]
    scores: list[list[Spread]]


@dataclass(frozen=True)
class Comparison:
    """Everything a report says about results; a single run is a comparison of one."""

    records: list[RunRecord]
    task: str
    primary: str
    higher_is_better: bool
    metrics: list[str]
    """The primary one first, the loss last."""
    counts: list[str]
    """Scalars without a direction: they are shown, and compared by no one."""
    clients: list[str]
    headline: list[Headline]
    per_client: list[ClientRow]
    cross_site: CrossSite
    study: list[RunRecord]
    """Federated runs that differ in the rate of faults, where some do. Of these, `records` has one variant alone."""

    @property
    def everyone(self) -> list[RunRecord]:
        """All runs that were given, those of a study included."""
        return [*self.records, *(record for record in self.study if record not in self.records)]

    @property
    def main_metrics(self) -> list[str]:
        """Those that have room in a table and get a curve: the first few, and the loss."""
        return [name for at, name in enumerate(self.metrics) if at < MAIN or name == "loss"]

    @property
    def main_counts(self) -> list[str]:
        """Those that say how many classes or genes a mean leaves out."""
        return [name for name in self.counts if name.startswith("undefined")]

    @property
    def settings(self) -> list[str]:
        """Settings that have a result."""
        present = {record.setting for record in self.scored}
        return [setting for setting in SETTINGS if setting in present]

    @property
    def scored(self) -> list[RunRecord]:
        """Runs that have a result."""
        return [record for record in self.records if record.rows]

    @property
    def main_data(self) -> str:
        """The test set that the verdict speaks of: the held-out set where there is one."""
        return "held_out" if any(line.data == "held_out" for line in self.headline) else "pooled"

    def line(self, setting: str, data: str) -> Headline | None:
        """Give the headline of a setting on a test set."""
        return next((line for line in self.headline if (line.setting, line.data) == (setting, data)), None)


def compare(records: Sequence[RunRecord]) -> Comparison:
    """Put runs of one task side by side; federated ones that differ in the rate of faults become a study.

    Raises:
        UserError: The runs are of several tasks, or two results have the same setting and seed.
    """
    _check_comparable(records)
    compared, study = separated(records)
    ordered = sorted(compared, key=lambda record: (SETTINGS.index(record.setting), record.seed))
    scored = [record for record in ordered if record.rows]
    primary = str(scored[0].evaluation["primary"]) if scored else ""
    directions = _directions(scored)
    names = {name for record in scored for row in record.rows for name in row["metrics"]}
    directed = {name for name in names if name in directions or not directions or name == primary}
    metrics = sorted(directed, key=lambda name: (name != primary, name == "loss", _rank(name), name))
    counts = sorted(names - directed)
    clients = sorted({client for record in ordered for client in record.clients})
    by_setting = {setting: [one for one in scored if one.setting == setting] for setting in SETTINGS}
    higher = directions.get(primary, True)
    return Comparison(
        records=ordered,
        task=ordered[0].task,
        primary=primary,
        higher_is_better=higher,
        metrics=metrics,
        counts=counts,
        clients=clients,
        headline=_headlines(by_setting, metrics, counts, primary),
        per_client=[_client_row(client, by_setting, counts, primary, higher) for client in clients] if scored else [],
        cross_site=_cross_site(scored, clients, primary),
        study=study,
    )


def _rank(name: str) -> int:
    return KNOWN.index(name) if name in KNOWN else len(KNOWN)


def _directions(scored: Sequence[RunRecord]) -> dict[str, bool]:
    known: dict[str, bool] = {}
    for record in scored:
        known |= record.evaluation.get("higher_is_better") or {}
    return known


def advantage(first: float, second: float, higher_is_better: bool) -> float:
    """Give how much better `first` is than `second`: positive is better, whatever the direction of the metric."""
    return first - second if higher_is_better else second - first


def paired(
    first: Sequence[RunRecord], second: Sequence[RunRecord]
) -> tuple[list[RunRecord], list[RunRecord]]:  # fmt: skip
    """Give the runs of both lists whose seed both have, in the same order of seeds."""
    seeds = {one.seed for one in first} & {one.seed for one in second}
    return [one for one in first if one.seed in seeds], [one for one in second if one.seed in seeds]


def setting_values(record: RunRecord, data: str, metric: str) -> list[float]:
    """Give a metric of a setting on a common test set: one value, or one per client's model."""
    if data == "held_out" and record.setting == "local":
        return [record.value(client, data, metric) for client in record.clients]
    return [record.value(record.setting, data, metric)]


def _check_comparable(records: Sequence[RunRecord]) -> None:
    if not records:
        raise UserError("RUN: no run folder was named; name at least one")
    study = bool(separated(records)[1])
    seen: dict[tuple[str, int, str], RunRecord] = {}
    for record in records:
        if record.task != records[0].task:
            raise UserError(
                f"{record.folder}: task {record.task} but {records[0].folder} has {records[0].task}; "
                "compare runs of one task"
            )
        key = (record.setting, record.seed, variant(record) if study else "")
        if record.rows and key in seen:
            raise UserError(f"{record.folder}: {record.label} like {seen[key].folder}; leave one of the two out")
        if record.rows:
            seen[key] = record


def _headlines(
    by_setting: dict[str, list[RunRecord]], metrics: list[str], counts: list[str], primary: str
) -> list[Headline]:
    lines = []
    for data in ("held_out", "pooled"):
        for setting, records in by_setting.items():
            if any(row["data"] == data for record in records for row in record.rows):
                lines.append(_headline(setting, data, records, metrics, counts, primary))
    for setting, records in by_setting.items():
        if any(len(record.clients) > 1 for record in records):
            lines.append(_client_mean(setting, records, metrics, primary))
    return lines


def _headline(
    setting: str, data: str, records: list[RunRecord], metrics: list[str], counts: list[str], primary: str
) -> Headline:
    scores, ranges = {}, {}
    for metric in metrics:
        values = [setting_values(record, data, metric) for record in records]
        scores[metric] = Spread(tuple(Spread(tuple(one)).mean for one in values))
        several = [value for one in values if len(one) > 1 for value in one if not math.isnan(value)]
        if several:
            ranges[metric] = (min(several), max(several))
    every = [value for record in records for value in setting_values(record, data, primary)]
    return Headline(
        setting=setting,
        data=data,
        support=max(record.support(data) for record in records),
        scores=scores,
        counts={name: [one for record in records for one in setting_values(record, data, name)] for name in counts},
        ranges=ranges,
        models=(sum(not math.isnan(value) for value in every), len(every)),
        intervals=_intervals(records, data, metrics),
    )


def _client_mean(setting: str, records: list[RunRecord], metrics: list[str], primary: str) -> Headline:
    """Average the clients' own values, which for a correlation or an F1 is another number than the pooled one."""

    def own(record: RunRecord, metric: str) -> list[tuple[float, int]]:
        rows = [(client, record.row(record.model_of(client), client)) for client in record.clients]
        found = [(name, row.get("supports", {}).get(metric, row["support"])) for name, row in rows if row]
        return [(record.value(record.model_of(name), name, metric), int(support)) for name, support in found]

    def mean(record: RunRecord, metric: str) -> float:
        defined = [(value, support) for value, support in own(record, metric) if not math.isnan(value)]
        support = sum(support for _, support in defined)
        return sum(value * count for value, count in defined) / support if support else math.nan

    every = [value for record in records for value, _ in own(record, primary)]
    return Headline(
        setting=setting,
        data="mean",
        support=max(sum(support for _, support in own(record, primary)) for record in records),
        scores={metric: Spread(tuple(mean(record, metric) for record in records)) for metric in metrics},
        counts={},
        ranges={},
        models=(sum(not math.isnan(value) for value in every), len(every)),
        intervals={},
    )


def _intervals(records: Sequence[RunRecord], data: str, metrics: Sequence[str]) -> dict[str, Interval]:
    """Give the intervals of means over the models that have a score, which is what the means themselves are over."""
    models = [(one, model) for one in records for model in (one.models if data == "held_out" else [one.setting])]
    stored = [(record.row(model, data), predicted_on(record, model, data)) for record, model in models]
    scored = {
        metric: [
            _faithful(row, predicted, metric)
            for (record, model), (row, predicted) in zip(models, stored, strict=True)
            if not row or metric not in row["metrics"] or not math.isnan(record.value(model, data, metric))
        ]
        for metric in metrics
    }
    found = {metric: mean_interval(several, metric) for metric, several in scored.items() if several}
    return {metric: interval for metric, interval in found.items() if interval}


def _faithful(row: Mapping[str, Any] | None, predicted: Predicted | None, metric: str) -> Predicted | None:
    """Give stored predictions, or None where the metric that the run reports does not follow from them."""
    reported = row["metrics"].get(metric) if row else None
    if predicted is None or reported is None or math.isnan(reported):
        return None
    return predicted if abs(recomputed(predicted, metric) - reported) <= SAME * max(1, abs(reported)) else None


def _client_row(
    client: str, by_setting: dict[str, list[RunRecord]], counts: list[str], metric: str, higher: bool
) -> ClientRow:
    def own(records: Sequence[RunRecord]) -> Spread:
        return Spread(tuple(record.value(record.model_of(client), client, metric) for record in records))

    def predicted(records: Sequence[RunRecord]) -> list[Predicted | None]:
        owners = [(record, record.model_of(client)) for record in records]
        return [_faithful(one.row(model, client), predicted_on(one, model, client), metric) for one, model in owners]

    def counted(records: Sequence[RunRecord]) -> dict[str, list[float]]:
        return {name: [one.value(one.model_of(client), client, name) for one in records] for name in counts}

    federated, local = paired(by_setting["federated"], by_setting["local"])
    return ClientRow(
        client=client,
        support=max((record.support(client) for records in by_setting.values() for record in records), default=0),
        scores={setting: own(records) for setting, records in by_setting.items() if records},
        intervals={s: mean_interval(predicted(records), metric) for s, records in by_setting.items() if records},
        counts={setting: counted(records) for setting, records in by_setting.items()},
        price=_differences(*paired(by_setting["centralized"], by_setting["federated"]), own, higher),
        gain=_differences(federated, local, own, higher),
        gain_interval=difference_interval(predicted(federated), predicted(local), metric),
    )


def _differences(
    first: Sequence[RunRecord], second: Sequence[RunRecord], own: Callable[[Sequence[RunRecord]], Spread], higher: bool
) -> Spread:
    pairs = zip(own(first).values, own(second).values, strict=True)
    return Spread(tuple(advantage(one, other, higher) for one, other in pairs))


def _cross_site(scored: list[RunRecord], clients: list[str], metric: str) -> CrossSite:
    present = {(row["model"], row["data"]) for record in scored for row in record.rows}
    models = [name for name in ("centralized", "federated", *clients) if any(model == name for model, _ in present)]
    data = [name for name in (*clients, "pooled", "held_out") if any((model, name) in present for model in models)]
    scores = [
        [
            Spread(tuple(one.value(model, name, metric) for one in scored if one.row(model, name)))
            for name in data
        ]
        for model in models
    ]  # fmt: skip
    return CrossSite(models, data, scores)
