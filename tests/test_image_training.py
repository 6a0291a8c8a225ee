"""The training loop reaches the recorded weights of the regression task: accumulation, its rest, and the statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import training.engine
from tests.toy_task import Points
from training.config import Train
from training.engine import EpochSummary, Trainer
from training.loading import InMemory
from training.optimizers import AdamW
from training.regression import RegressionScores
from training.task import Batch, Loss

RECORDED = torch.load(Path(__file__).parent / "fixtures" / "image_expression" / "grad_accum.pt", weights_only=True)
CASES = sorted(RECORDED)


class Regression(Points):
    """Just what the training loop asks of a task."""

    def forward(self, network: nn.Module, batch: Batch) -> Batch:
        return {"predicted": network(batch["x"])}

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        return Loss(mse_loss(outputs["predicted"], batch["y"]), len(batch["y"]), {})


class Net(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.b(self.a(x).tanh())
        return output


def trained(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Net, EpochSummary]:
    """Train an epoch on the recorded batches in their order."""
    rows = iter(range(sum(map(len, case["x"]))))
    batches = [[next(rows) for _ in part] for part in case["x"]]
    monkeypatch.setattr(training.engine, "shuffled_batches", lambda *args, **settings: batches)
    options = Train(
        lr=case["lr"],
        optimizer=AdamW(weight_decay=case["weight_decay"]),
        accumulate=case["grad_accum_steps"],
        batch_size=4,
    ).model_copy(update=changes)
    network = Net(case["state_before"])
    task = Regression(data=Path("none"))
    trainer = Trainer(task, network, options, seed=0, client="a", epochs=1, device=torch.device("cpu"))
    samples = InMemory({"x": torch.cat(case["x"]), "y": torch.cat(case["y"])})
    return network, trainer.run_epoch(samples, 0)


def largest_difference(network: nn.Module, expected: dict[str, Tensor]) -> float:
    return max(float((value - expected[name]).abs().max()) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_the_loop_reaches_the_recommended_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = RECORDED[name]
    network, summary = trained(case, monkeypatch)
    assert largest_difference(network, case["state_after_recommended"]) < 1e-6
    assert largest_difference(network, case["state_before"]) > 1e-3
    assert summary.losses["loss"] == pytest.approx(case["train_stats"]["train_loss"], abs=1e-6)
    assert summary.samples == case["train_stats"]["train_samples"]
    assert summary.steps == -(-len(case["x"]) // case["grad_accum_steps"])


def by_the_published_rule(case: dict[str, Any]) -> Net:
    """Divide every micro-batch by the number of accumulation steps, also where fewer are left."""
    network = Net(case["state_before"])
    optimizer = torch.optim.AdamW(network.parameters(), lr=case["lr"], weight_decay=case["weight_decay"])
    for number, (x, y) in enumerate(zip(case["x"], case["y"], strict=True), start=1):
        (mse_loss(network(x), y) / case["grad_accum_steps"]).backward()
        if number % case["grad_accum_steps"] == 0 or number == len(case["x"]):
            optimizer.step()
            optimizer.zero_grad()
    return network


@pytest.mark.parametrize("name", CASES)
def test_the_published_rule_differs_only_where_batches_are_left_over(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = RECORDED[name]
    assert largest_difference(by_the_published_rule(case), case["state_after_original"]) < 1e-6
    ours, _ = trained(case, monkeypatch)
    assert (largest_difference(ours, case["state_after_original"]) > 1e-5) == (name == "leftover")


@pytest.mark.parametrize("name", CASES)
def test_a_group_of_batches_equals_one_batch_of_all_its_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = RECORDED[name]
    every = case["grad_accum_steps"]
    joined = {
        key: [torch.cat(case[key][start : start + every]) for start in range(0, len(case[key]), every)] for key in "xy"
    }
    network, _ = trained({**case, **joined, "grad_accum_steps": 1}, monkeypatch)
    assert largest_difference(network, case["state_after_recommended"]) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_evaluation_gives_the_recorded_statistics(name: str) -> None:
    case = RECORDED[name]
    network = Net(case["state_after_original"])
    metric, total, count = RegressionScores(np.zeros(5)), 0.0, 0
    with torch.inference_mode():
        for x, y in zip(case["x"], case["y"], strict=True):
            predicted = network(x)
            metric.update(predicted, y)
            total, count = total + float(mse_loss(predicted, y)) * len(y), count + len(y)
    expected, found = case["eval_stats_of_original_after"], metric.compute()
    assert (len(case["x"]), count) == (expected["val_batches"], expected["val_samples"])
    assert total / count == pytest.approx(expected["val_loss"], abs=1e-6)
    for measure in ("spearman", "pearson", "samplewise_spearman"):
        assert float(found[measure]) == pytest.approx(expected[f"val_{measure}"], abs=1e-6)
