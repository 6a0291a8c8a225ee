"""The result in a sentence or three, from the numbers and no further than they reach."""

import math
from collections.abc import Sequence

from reports.baselines import best_baseline
from reports.comparison import Comparison, Headline, advantage
from reports.numbers import metric_name, number

MAIN_DATA = {"held_out": "the held-out set", "pooled": "all clients' test sets together"}


ROUNDING = 1e-12
"""Smaller differences are those of the last bits."""


def verdict(comparison: Comparison, warnings: Sequence[str]) -> str:
    """Say what came out.

    Args:
        comparison: The runs.
        warnings: What keeps them from being compared as they stand.
    """
    if not comparison.scored:
        return "No run has a result yet."
    sentences = [_reached(comparison), _baseline(comparison), _clients(comparison)]
    if warnings and len(comparison.records) > 1:
        sentences.append("Read the warnings below first: these runs differ in more than the setting, or are not whole.")
    return " ".join(sentence for sentence in sentences if sentence)


def _reached(comparison: Comparison) -> str:
    data = comparison.main_data
    lines = [line for setting in ("federated", "centralized", "local") if (line := comparison.line(setting, data))]
    if not lines:
        return "The runs have test scores, but none on a test set that all clients share."
    first, others = lines[0], lines[1:]
    mean = first.scores[comparison.primary].mean
    metric, place = metric_name(comparison.primary), MAIN_DATA[data]
    if math.isnan(mean):
        return f"{_subject(first)}: {metric} is undefined on {place}."
    text = f"{_subject(first)} {_reaches(first)} {_with_article(number(mean), metric)} on {place}"
    compared = [_against(first, other, comparison) for other in others]
    return f"{text}{', ' if compared else ''}{' and '.join(compared)}."


def _baseline(comparison: Comparison) -> str:
    found = best_baseline(comparison)
    if not found:
        return ""
    name, score = found
    return f"Without a network, {name} on pooled training data reaches {number(score)}."


def _subject(line: Headline) -> str:
    if line.setting != "local":
        return {"federated": "Federated training", "centralized": "Pooled (centralized) training"}[line.setting]
    return "The clients' own models" if line.data == "pooled" else "The mean of the local models"


def _reaches(line: Headline) -> str:
    return "reach" if line.setting == "local" and line.data == "pooled" else "reaches"


def _with_article(value: str, metric: str) -> str:
    return f"{metric} {value}"


def _against(first: Headline, other: Headline, comparison: Comparison) -> str:
    name = {"centralized": "pooled training", "local": "the mean of the local models"}[other.setting]
    if other.setting == "local" and other.data == "pooled":
        name = "the clients' own models"
    elif other.models[0] < other.models[1]:
        name = f"{name} with a score ({other.models[0]} of {other.models[1]})"
    mean = other.scores[comparison.primary].mean
    if math.isnan(mean):
        return f"{name} undefined"
    difference = advantage(first.scores[comparison.primary].mean, mean, comparison.higher_is_better)
    if abs(difference) < ROUNDING:
        return f"the same as {name}"
    return f"{number(abs(difference))} {'better' if difference > 0 else 'worse'} than {name}"


def _clients(comparison: Comparison) -> str:
    rows = [row for row in comparison.per_client if row.gain.values]
    if not rows:
        return ""
    defined = {row.client: row.gain.mean for row in rows if not math.isnan(row.gain.mean)}
    missing = (
        f" For {len(rows) - len(defined)} of {len(rows)} clients the gain is undefined."
        if len(defined) < len(rows)
        else ""
    )
    if not defined:
        return "No client's gain from joining is defined."
    worst = min(defined, key=lambda client: (defined[client], client))
    gaining = sum(value > 0 for value in defined.values())
    if gaining == len(defined):
        who = "Every client" if not missing else f"Each of the other {len(defined)} clients"
        text = f"{who} gains from joining, {worst} least ({number(defined[worst], signed=True)})."
    else:
        text = (
            f"{gaining or 'None'} of {len(defined)} clients gain{'' if gaining != 1 else 's'} from joining; "
            f"{worst} fares worst ({number(defined[worst], signed=True)})."
        )
    return text + missing + _certainty(comparison)


def _certainty(comparison: Comparison) -> str:
    intervals = [row.gain_interval for row in comparison.per_client if row.gain_interval]
    if not intervals:
        return ""
    above, below = sum(one.low > 0 for one in intervals), sum(one.high < 0 for one in intervals)
    counted = f"above zero for {above} and below zero for {below} of {len(intervals)} clients"
    return f" The 95 % interval of the gain is {counted}."
