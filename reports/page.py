"""One self-contained HTML page: no script, no network, readable on a phone and in print."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.axis import axis_scores, axis_table
from reports.baselines import baseline_table
from reports.comparison import Comparison
from reports.costs import costs
from reports.drawing import DPI, LABELS
from reports.failure_table import failure_table
from reports.fault_study import fault_table
from reports.honesty import failures
from reports.numbers import metric_name
from reports.run_folder import RunRecord
from reports.tables import DATA_NAMES, Cell, Table, client_table, cost_table, data_table, further_table, headline_table
from reports.thresholds import threshold_table
from reports.units import unit_table
from reports.verdict import verdict

TEMPLATE = "template.html.j2"
CAPTIONS = {
    "per_client_bars": "Each client's own test set under every setting. Whiskers: 95 % interval, else ± sd over seeds.",
    "per_client_gain": "What each client gains by joining (line: 95 % interval), and pays because data is not pooled.",
    "per_client_curves": "Validation per client during training.",
    "true_against_predicted": "The best and the worst, with the score. The line: prediction equals truth.",
    "cross_site": "Every model on every test set. The diagonal of the clients' models is the local setting.",
    "faults": "Marker: mean over seeds; line through it: lowest to highest. Cross at the foot: runs that failed.",
    "precision_recall": "Precision against recall over all thresholds. Marker: the threshold used. Grey: equal F1.",
    "f1_by_threshold": "F1 at every threshold. Marker, dashed line: the threshold used. Local: mean over its models.",
    "images": (
        "The best, the median and the worst image of each setting by the F1 of the image; first seed, on the test set "
        "that the verdict speaks of. Of several local models the one with the middle score. Images with nothing to "
        "find and nothing found are left out."
    ),
    "bytes_per_round": "Bytes exchanged per round, all clients together.",
}
CURVE_NOTE = (
    "Solid: validation on all clients together (local: mean over the clients' models, weighted by samples). "
    "Dotted: training. Bands: lowest to highest seed."
)


@dataclass(frozen=True)
class Picture:
    """An image inside the page, with its width in CSS pixels: all pictures show their text in one size."""

    uri: str
    caption: str
    width: int


@dataclass(frozen=True)
class Tile:
    """The main number of a setting."""

    setting: str
    name: str
    value: str
    small: str


def render(comparison: Comparison, warnings: Sequence[str], pictures: Mapping[str, bytes], out: Path) -> str:
    """Write the page.

    Args:
        comparison: The runs.
        warnings: What keeps them from being compared as they stand.
        pictures: File stem -> PNG, see `reports.plots.plots`.
        out: Folder that the page is for.
    """
    scores = axis_scores(comparison)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=_title(comparison),
        subtitle=_subtitle(comparison),
        verdict=verdict(comparison, warnings),
        failures=failures(comparison.everyone),
        warnings=warnings,
        tiles=_tiles(comparison),
        headline=headline_table(comparison),
        further=further_table(comparison),
        baselines=baseline_table(comparison),
        faults=fault_table(comparison),
        failed=failure_table(comparison.everyone, out),
        clients=client_table(comparison),
        noun=scores.noun if scores else "",
        axis=axis_table(scores, comparison) if scores else Table([]),
        units=unit_table(comparison),
        thresholds=threshold_table(comparison),
        cost=cost_table(costs(comparison.records)),
        data=_data(comparison),
        environment=_environment(comparison),
        configs=_configs(comparison),
        curve_note=CURVE_NOTE,
        **_sections(pictures),
    )


def _title(comparison: Comparison) -> str:
    settings = {record.setting for record in comparison.records}
    task = comparison.task.rpartition(".")[2]
    if len(comparison.records) == 1:
        return f"{task}, {comparison.records[0].setting}"
    return f"{task}: {', '.join(setting for setting in LABELS if setting in settings)}"


def _subtitle(comparison: Comparison) -> str:
    seeds = sorted({record.seed for record in comparison.records})
    count = len(comparison.clients)
    parts = [
        f"{len(comparison.everyone)} run{'s' * (len(comparison.everyone) > 1)}",
        f"{count} client{'s' * (count != 1)}",
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
    ]
    if comparison.primary:
        direction = "higher" if comparison.higher_is_better else "lower"
        parts.append(f"{metric_name(comparison.primary)} ({direction} is better)")
    return " · ".join(parts)


def _tiles(comparison: Comparison) -> list[Tile]:
    tiles = []
    for setting in LABELS:
        line = comparison.line(setting, comparison.main_data)
        if line:
            where = f"{metric_name(comparison.primary)}, {DATA_NAMES[line.data]}"
            interval = line.intervals.get(comparison.primary)
            small = where + (f"\n95 % interval {interval.text()}" if interval else "")
            tiles.append(Tile(setting, LABELS[setting], line.scores[comparison.primary].text(), small))
    return tiles


def _sections(pictures: Mapping[str, bytes]) -> dict[str, list[Picture]]:
    def chosen(*stems: str) -> list[Picture]:
        return [_picture(pictures[stem], CAPTIONS.get(stem, "")) for stem in stems if stem in pictures]

    curves = [stem for stem in pictures if stem.endswith("_curve")]
    axes = [
        stem
        for stem in pictures
        if stem == "true_against_predicted" or (stem.startswith("per_") and not stem.startswith("per_client"))
    ]
    matrices = [stem for stem in pictures if stem.startswith("confusion_matrix")]
    return {
        "fault_pictures": chosen("faults"),
        "client_pictures": chosen("per_client_bars", "per_client_gain"),
        "axis_pictures": chosen(*axes),
        "threshold_pictures": chosen("precision_recall", "f1_by_threshold"),
        "image_pictures": chosen("images"),
        "curve_pictures": chosen(*curves, "per_client_curves"),
        "confusion_pictures": chosen(*matrices),
        "cross_site_pictures": chosen("cross_site"),
        "byte_pictures": chosen("bytes_per_round"),
    }


def _picture(png: bytes, caption: str) -> Picture:
    pixels = int.from_bytes(png[16:20], "big")  # The width field of the PNG header.
    return Picture("data:image/png;base64," + base64.b64encode(png).decode(), caption, round(pixels * 96 / DPI))


def _data(comparison: Comparison) -> Table:
    described = [record for record in comparison.records if record.manifest]
    return data_table(described[0]) if described else Table([])


def _environment(comparison: Comparison) -> Table:
    table = Table(
        [
            *("run", "status", "command", "code", "git", "python", "device", "threads"),
            *("precision", "packages", "weights kept"),
        ]
    )
    for record in comparison.everyone:
        facts: Mapping[str, Any] = record.manifest.get("environment", {})
        versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items() if version)
        values = [str(facts.get(key) or "") for key in ("command", "code", "git", "python", "device", "threads")]
        precision = str(record.manifest.get("precision") or "")
        cells = [record.label, record.status, *values, precision, versions, _selected(record)]
        table.rows.append([Cell(value, "text") for value in cells])
    return table


def _selected(record: RunRecord) -> str:
    """Say which epoch or round gave the final weights, by which rule."""
    steps = record.manifest.get("selected", {})
    if not steps:
        return ""
    named = (
        ", ".join(f"{model} {step}" for model, step in steps.items()) if len(steps) > 1 else next(iter(steps.values()))
    )
    return f"{record.manifest.get('select')} {record.manifest.get('monitor')}: {record.unit} {named}"


def _configs(comparison: Comparison) -> dict[str, str]:
    """Give the config of the first run of each setting."""
    first = {record.setting: record for record in reversed(comparison.records)}
    return {
        first[setting].label: yaml.safe_dump(dict(first[setting].config), sort_keys=False)
        for setting in LABELS
        if setting in first
    }
