"""The training loop against algebra, recorded schedules and itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import UserError
from tests.toy_task import Points
from training.config import Train
from training.engine import NotFiniteError, Trainer
from training.loading import InMemory, Pool, fetch, load_batches, shuffled_batches
from training.parameters import count_parameters, trainable_state, training_mode, weights_hash
from training.schedules import Constant, Cosine, Step
from training.selection import Selection
from training.task import Batch

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "nicheformer" / "finetune.npz")
CPU = torch.device("cpu")


def trained(options: Train, samples: InMemory, epochs: int = 1, **task_options: object) -> nn.Module:
    task = Points(data=Path("none"), **task_options)
    torch.manual_seed(0)
    network = task.network(None)
    trainer = Trainer(task, network, options, seed=3, client="ada", epochs=epochs, device=CPU)
    for epoch in range(epochs):
        trainer.run_epoch(samples, epoch)
    return network


def samples(count: int = 13) -> InMemory:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 4, generator=draw)
    return InMemory({"x": x, "y": torch.randint(0, 3, (count,), generator=draw)})


def test_accumulated_groups_equal_large_batches_also_when_the_last_is_uneven() -> None:
    sgd = {"optimizer": "sgd", "lr": 0.5}
    large = trained(Train(batch_size=8, **sgd), samples(13))
    small = trained(Train(batch_size=2, accumulate=4, **sgd), samples(13))
    for name, value in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_one_full_batch_step_of_sgd_is_the_gradient_step() -> None:
    data, task = samples(), Points(data=Path("none"))
    torch.manual_seed(0)
    network = task.network(None)
    loss = task.loss(task.forward(network, data.batch), data.batch).total
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    expected = [p.detach() - 0.5 * g for p, g in zip(network.parameters(), gradients, strict=True)]
    after = trained(Train(batch_size=100, lr=0.5, optimizer="sgd"), data)
    for parameter, value in zip(after.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_step() -> None:
    before = trained(Train(batch_size=100, lr=1e-9, optimizer="sgd"), samples())
    after = trained(Train(batch_size=100, lr=1.0, optimizer="sgd", clip_grad_norm=0.01), samples())
    squares = [(a - b).square().sum() for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_dropout_and_order_are_functions_of_the_seed_alone() -> None:
    options = Train(batch_size=4)
    first = weights_hash(trained(options, samples(), 3, dropout=0.5).state_dict())
    torch.manual_seed(123)
    torch.rand(7)
    assert weights_hash(trained(options, samples(), 3, dropout=0.5).state_dict()) == first


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_processes_change_nothing(workers: int) -> None:
    network = trained(Train(batch_size=4, loader_workers=workers), samples(), 2)
    assert weights_hash(network.state_dict()) == weights_hash(trained(Train(batch_size=4), samples(), 2).state_dict())


def test_bfloat16_trains_and_differs_from_float32() -> None:
    half = trained(Train(batch_size=4, precision="bf16"), samples(), 2).state_dict()
    full = trained(Train(batch_size=4), samples(), 2).state_dict()
    assert all(torch.isfinite(value).all() for value in half.values())
    assert weights_hash(half) != weights_hash(full)
    torch.testing.assert_close(half["head.weight"], full["head.weight"], rtol=0.05, atol=0.05)


def test_fp16_is_no_operation_on_a_cpu() -> None:
    half, full = (trained(Train(batch_size=4, precision=p), samples()) for p in ("fp16", "fp32"))
    assert weights_hash(half.state_dict()) == weights_hash(full.state_dict())


def test_a_loss_that_is_not_a_number_ends_training_by_name() -> None:
    bad = samples()
    bad.batch["x"][0] = torch.nan
    with pytest.raises(NotFiniteError, match="ada: loss nan in epoch 1"):
        trained(Train(batch_size=4), bad)


def test_frozen_modules_are_in_eval_mode_and_leave_no_trace_in_what_travels() -> None:
    network = Points(data=Path("none"), frozen_front=True, batchnorm=True).network(None)
    training_mode(network)
    assert not network["front"].training and network["head"].training
    assert sorted(trainable_state(network)) == ["head.bias", "head.weight"]
    assert count_parameters(network) == {"trainable": 27, "total": 27 + 40 + 16}


def test_trainer_state_goes_on_exactly() -> None:
    task, data = Points(data=Path("none"), dropout=0.2), samples()
    options = Train(batch_size=4, schedule={"name": "plateau", "patience": 0})
    straight = trained(options, data, 4, dropout=0.2)
    torch.manual_seed(0)
    network = task.network(None)
    first = Trainer(task, network, options, seed=3, client="ada", epochs=4, device=CPU)
    for epoch in range(2):
        first.run_epoch(data, epoch)
    second = Trainer(task, network, options, seed=3, client="ada", epochs=4, device=CPU)
    second.load_state_dict(first.state_dict())
    for epoch in range(2, 4):
        second.run_epoch(data, epoch)
    assert weights_hash(network.state_dict()) == weights_hash(straight.state_dict())


def test_plateau_lowers_the_rate_after_bad_validations() -> None:
    task = Points(data=Path("none"))
    options = Train(lr=1.0, schedule={"name": "plateau", "patience": 1, "factor": 0.5})
    trainer = Trainer(task, task.network(None), options, seed=0, client="a", epochs=9, device=CPU)
    rates = []
    for value in [0.5, 0.6, 0.6, 0.6, 0.6, 0.7]:
        trainer.validated(value, True)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_cosine_with_warmup_matches_the_recorded_schedule_and_is_clamped_after_its_end() -> None:
    base, warmup, length = (FIXTURE[f"schedule.{name}"].item() for name in ("base_lr", "warmup", "max_epochs"))
    schedule = Cosine(warmup=int(warmup), total=int(length), min_lr=1e-5)
    recorded = FIXTURE["schedule.lrs"]
    ours = np.array([schedule.rate(base, step, 0) for step in range(len(recorded))])
    inside = int(length) + 1
    np.testing.assert_allclose(ours[:inside], recorded[:inside], rtol=0, atol=1e-12)
    assert len(recorded) > inside
    np.testing.assert_array_equal(ours[inside:], 1e-5)


def test_step_and_warmup_by_hand() -> None:
    rates = [Step(every=2, gamma=0.5).rate(1.0, position, 9) for position in range(5)]
    assert rates == [1, 1, 0.5, 0.5, 0.25]
    assert [Constant(warmup=2).rate(1.0, position, 9) for position in range(4)] == [0, 0.5, 1, 1]


def test_selection_keeps_the_first_best_and_counts_stale_steps() -> None:
    selection = Selection(higher_is_better=True, patience=2)
    assert [selection.update(step, value) for step, value in enumerate([0.1, 0.3, 0.3, 0.2], 1)] == [
        True,
        True,
        False,
        False,
    ]
    assert (selection.best_step, selection.exhausted) == (2, True)
    fresh = Selection(True, 2)
    fresh.load_state_dict(selection.state_dict())
    assert fresh.exhausted
    assert not Selection(False, None).update(1, float("nan"))


def test_shuffled_batches_are_a_seeded_permutation() -> None:
    batches = shuffled_batches(10, 4, seed=1, client="ada", epoch=0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    assert batches == shuffled_batches(10, 4, 1, "ada", 0)
    assert batches != shuffled_batches(10, 4, 1, "ada", 1) != shuffled_batches(10, 4, 1, "bob", 1)


def test_a_last_batch_of_one_sample_joins_the_one_before() -> None:
    assert [len(batch) for batch in shuffled_batches(9, 4, 1, "ada", 0)] == [4, 5]
    assert [len(batch) for batch in shuffled_batches(3, 1, 1, "ada", 0)] == [1, 1, 1]
    assert [len(batch) for batch in shuffled_batches(1, 4, 1, "ada", 0)] == [1]


def test_gradients_of_a_trainer_that_failed_are_forgotten() -> None:
    task, data = Points(data=Path("none")), samples()
    hashes = []
    for left_behind in (False, True):
        torch.manual_seed(0)
        network = task.network(None)
        if left_behind:
            network["head"].weight.grad = torch.ones_like(network["head"].weight)
        Trainer(task, network, Train(batch_size=4), seed=3, client="a", epochs=1, device=CPU).run_epoch(data, 0)
        hashes.append(weights_hash(network.state_dict()))
    assert hashes[0] == hashes[1]


def test_a_pool_gives_its_parts_in_the_order_asked_for() -> None:
    parts = [InMemory({"x": torch.arange(start, start + 3)}) for start in (0, 10, 20)]
    pool = Pool(parts)
    assert len(pool) == 9
    assert fetch(pool, [8, 0, 3, 2, 5])["x"].tolist() == [22, 0, 10, 2, 12]
    assert pool[4]["x"].item() == 11


class Damaged(InMemory):
    def __getitems__(self, indices: Sequence[int]) -> Batch:
        raise UserError("tile.png: cannot be read; restore it")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named_in_one_line(workers: int) -> None:
    with pytest.raises(UserError) as caught:
        list(load_batches(Damaged(samples().batch), [[0, 1]], workers, 0))
    assert str(caught.value) == "tile.png: cannot be read; restore it"
