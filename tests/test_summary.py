"""metrics.json where models differ in their best epoch, or have no samples that a number is about."""

import math
from typing import Any

from training.summary import summary


def entry(score: float | None, pairs: int, loss: float = 1.0) -> dict[str, Any]:
    return {"metrics": {"loss": loss, "cross": score}, "support": 10, "supports": {"cross": pairs}}


def step(number: int, **val: dict[str, Any]) -> dict[str, Any]:
    train = {"metrics": {"loss": 2.0}, "support": 10, "lr": 0.1}
    return {"step": number, "train": dict.fromkeys(val, train), "val": val}


def test_models_without_pairs_are_left_out_of_the_mean_and_named() -> None:
    history = [step(1, coast=entry(None, 0), north=entry(0.5, 8), south=entry(0.75, 4))]
    found = summary("r", history, "cross", {"coast": 1, "north": 1, "south": 1})
    assert found["best_primary"] == found["best"]["val_cross"] == 0.625 and found["best"]["val_loss"] == 1.0
    assert found["without"] == {"val_cross": ["coast"]}


def test_a_score_undefined_for_any_other_reason_is_not_hidden() -> None:
    history = [step(1, north=entry(0.5, 8), south=entry(None, 4))]
    found = summary("r", history, "cross", {"north": 1, "south": 1})
    assert math.isnan(found["best_primary"]) and found["without"] == {}


def test_clients_of_a_round_are_weighted_by_what_a_number_is_about() -> None:
    lacking = {"metrics": {"loss": 1.0}, "support": 10, "lr": 0.1}
    train = {"coast": lacking, "north": {**entry(0.5, 6), "lr": 0.1}, "south": {**entry(1.0, 2), "lr": 0.1}}
    history = [{"step": 1, "train": train, "val": {"pooled": entry(0.7, 8)}}]
    found = summary("r", history, "cross", {"federated": 1})
    assert found["best"]["train_cross"] == (0.5 * 6 + 1.0 * 2) / 8 and found["best"]["train_loss"] == 1.0
    assert found["best_primary"] == 0.7


def test_epochs_of_several_models_are_no_number_where_they_differ() -> None:
    history = [step(number, north=entry(0.5, 8)) for number in (1, 2, 3)]
    history[1] = step(2, north=entry(0.5, 8), south=entry(0.75, 4))
    found = summary("r", history, "cross", {"north": 3, "south": 2})
    assert (found["best"]["epoch"], found["last"]["epoch"]) == ("2 to 3", "2 to 3")
    found = summary("r", history, "cross", {"north": 2, "south": 2})
    assert (found["best"]["epoch"], found["last"]["epoch"]) == (2, "2 to 3")
