"""Parts that train later or slower, steps left out for lack of memory, and what is said of memory meanwhile."""

import re
import time
from pathlib import Path

import pytest
import torch
from pydantic import PrivateAttr
from torch import nn

from tests.conftest import Go
from tests.test_training import CPU, samples
from tests.toy_task import Points
from training.config import Train
from training.engine import OutOfMemoryError, Trainer
from training.memory import memory_in_use, memory_monitor
from training.task import Batch, Loss


def prepared(options: Train, task: Points) -> tuple[nn.Module, Trainer]:
    torch.manual_seed(0)
    network = task.network(None)
    return network, Trainer(task, network, options, seed=3, client="ada", epochs=4, device=CPU)


def copy(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before: dict[str, torch.Tensor], network: nn.Module) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}


def test_a_part_that_waits_keeps_weights_and_statistics_until_its_epoch() -> None:
    task = Points(data=Path("none"), batchnorm=True, thaw_front=2)
    network, trainer = prepared(Train(batch_size=4, optimizer={"name": "adamw", "weight_decay": 0.1}), task)
    before = copy(network)
    for epoch in range(2):
        trainer.run_epoch(samples(), epoch)
    assert changed(before, network) == {"head.weight", "head.bias"}
    trainer.run_epoch(samples(), 2)
    assert changed(before, network) == set(before)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_first_step_of_adam_is_the_rate_times_the_factor() -> None:
    steps = {}
    for factor in (1.0, 0.1):
        task = Points(data=Path("none"), batchnorm=True, head_factor=factor)
        network, trainer = prepared(Train(batch_size=13, lr=0.01, optimizer="adam"), task)
        before = copy(network)
        summary = trainer.run_epoch(samples(), 0)
        assert summary.lr == 0.01
        steps[factor] = {name: float((network.state_dict()[name] - before[name]).abs().max()) for name in before}
    assert steps[1.0]["head.weight"] == pytest.approx(0.01, rel=1e-3)
    assert steps[0.1]["head.weight"] == pytest.approx(0.001, rel=1e-3)
    assert steps[0.1]["front.0.weight"] == pytest.approx(0.01, rel=1e-3)


class Scarce(Points):
    """Memory runs out in the training batches whose numbers are given."""

    short: tuple[int, ...] = ()
    _calls: list[int] = PrivateAttr(default_factory=list)

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        if outputs["logits"].requires_grad:
            self._calls.append(len(self._calls))
            if self._calls[-1] in self.short:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(outputs, batch)


def test_steps_without_memory_are_left_out_and_counted() -> None:
    """Batches 2 and 3 make the second step; it fails in its first batch, and the other one is passed over."""
    task = Scarce(data=Path("none"), short=(2,))
    _, trainer = prepared(Train(batch_size=2, accumulate=2, oom_limit=1), task)
    summary = trainer.run_epoch(samples(12), 0)
    assert (summary.skipped, summary.steps, summary.samples) == (1, 2, 8)
    assert len(task._calls) == 5


@pytest.mark.parametrize(("limit", "short"), [(1, (0, 2)), (9, tuple(range(9)))])
def test_too_many_steps_without_memory_end_training_in_one_line(limit: int, short: tuple[int, ...]) -> None:
    _, trainer = prepared(Train(batch_size=2, oom_limit=limit), Scarce(data=Path("none"), short=short))
    with pytest.raises(OutOfMemoryError, match=r"ada: GPU memory ran out in \d of 6 steps .* lower train.batch_size"):
        trainer.run_epoch(samples(12), 0)


class Narrow(Points):
    """Memory holds no more than some samples at a time."""

    room: int = 3

    def loss(self, outputs: Batch, batch: Batch) -> Loss:
        if outputs["logits"].requires_grad and len(batch["y"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(outputs, batch)


def test_a_step_without_memory_is_made_in_smaller_parts_with_the_same_result() -> None:
    """Twelve samples do not fit, nor do six; three do, and the gradients add up."""
    whole, plain = prepared(Train(batch_size=12, optimizer="sgd"), Points(data=Path("none")))
    parted, trainer = prepared(Train(batch_size=12, optimizer="sgd"), Narrow(data=Path("none")))
    one, other = plain.run_epoch(samples(24), 0), trainer.run_epoch(samples(24), 0)
    assert (one.parts, other.parts, other.skipped, other.samples) == (1, 4, 0, 24)
    assert other.losses["loss"] == pytest.approx(one.losses["loss"], rel=1e-6)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parted.state_dict()[name], atol=1e-6)


@pytest.mark.parametrize(("batchnorm", "samples_left"), [(False, 1), (True, 2)])
def test_parts_that_cannot_become_smaller_end_training_in_one_line(batchnorm: bool, samples_left: int) -> None:
    task = Narrow(data=Path("none"), room=0, batchnorm=batchnorm)
    _, trainer = prepared(Train(batch_size=4), task)
    with pytest.raises(OutOfMemoryError, match=f"ada: GPU memory ran out with {samples_left} samples at a time; "):
        trainer.run_epoch(samples(12), 0)


def test_the_monitor_says_what_memory_is_taken_and_stops() -> None:
    said: list[str] = []
    with memory_monitor(0.01, said.append):
        time.sleep(0.2)
    count = len(said)
    time.sleep(0.05)
    assert len(said) == count > 1
    assert all(re.fullmatch(r"memory: [\d,]+ MB resident(, .*)?", line) for line in said)
    ballast = bytearray(200_000_000)
    resident = [
        int(text.split(" ")[0].replace(",", "")) for text in (memory_in_use(), said[0].removeprefix("memory: "))
    ]
    assert resident[0] - resident[1] > 150 and ballast


@pytest.mark.parametrize("setting", ["centralized", "federated"])
def test_a_run_keeps_the_monitors_lines_in_its_log(go: Go, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = go(setting, "train.memory_monitor=0.01")
    assert "MB resident" in (run.folder / "log.txt").read_text()
    assert "MB resident" not in capsys.readouterr().out
