"""The one training loop: every task, every setting.

Kept to the shape of nanoGPT's `train.py`: batches, accumulation, clipping, one step. Everything random is a pure
function of (seed, client, epoch), so a round, a restart and a straight run draw the same numbers.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.progress import bar
from core.randomness import seed_for, seeded_torch
from training.config import Train
from training.device import autocast, effective_precision
from training.distributed import ALONE, Group
from training.loading import load_batches, reseed, shuffled_batches
from training.optimizers import build_optimizer
from training.parameters import batchnorm_buffers, held_back, training_mode
from training.schedules import Plateau
from training.synced_batchnorm import synced_batchnorm
from training.task import Batch, Samples, Task

Penalty = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class EpochSummary:
    """What one epoch did: mean loss and its parts over the samples they concern, steps, last learning rate, seconds."""

    losses: dict[str, float]
    samples: int
    steps: int
    skipped: int
    """Steps left out because GPU memory ran out."""
    parts: int
    """Parts in which each batch was computed; more than one where memory ran out before."""
    lr: float
    seconds: float


@dataclass(frozen=True)
class Step:
    """One optimizer step of this process: its batches, and the samples of the whole step over all processes."""

    batches: list[list[int]]
    total: int


class NotFiniteError(ArithmeticError):
    """The training loss became NaN or infinite."""


class OutOfMemoryError(RuntimeError):
    """GPU memory ran out more often than `train.oom_limit` allows."""


class Trainer:
    """Trains one network on one client's samples (or on the pool), an epoch at a time."""

    def __init__(
        self,
        task: Task,
        network: nn.Module,
        options: Train,
        *,
        seed: int,
        client: str,
        epochs: int,
        device: torch.device,
        penalty: Penalty | None = None,
        freeze_batchnorm: bool = False,
        group: Group = ALONE,
    ) -> None:
        """Set up optimizer and scaler.

        Args:
            task: Gives forward pass and loss.
            network: Trained in place; already on `device`.
            options: The `train` section.
            seed: Seed of the experiment.
            client: Names the random streams; a pool is named after its clients.
            epochs: Length of the whole run, over all rounds, on which schedules rest.
            device: Where the network is.
            penalty: A term added to each loss, such as the proximal term of FedProx.
            freeze_batchnorm: Normalise with the running statistics, and leave them as they are.
            group: The processes that train this network together.
        """
        self.task, self.network, self.options, self.device = task, network, options, device
        self.seed, self.client, self.epochs, self.penalty = seed, client, epochs, penalty
        self.freeze_batchnorm, self.group, self.parts = freeze_batchnorm, group, 1
        network.zero_grad(set_to_none=True)  # What a failed trainer may have left behind.
        self.optimizer = build_optimizer(options.optimizer, network, options.lr, task.rate_factors())
        precision = effective_precision(device.type, options.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.plateau = self._build_plateau(options.schedule) if isinstance(options.schedule, Plateau) else None

    def run_epoch(self, samples: Samples, epoch: int) -> EpochSummary:
        """Pass over the samples once; `epoch` counts from 0 over the whole run.

        Raises:
            NotFiniteError: The loss is no longer a number.
            OutOfMemoryError: GPU memory ran out too often.
        """
        start = time.perf_counter()
        reseed(samples, seed_for(self.seed, "augment", self.client, epoch))
        steps = self._plan(len(samples), epoch)
        batches = [batch for step in steps for batch in step.batches]
        loaded = load_batches(samples, batches, self.options.loader_workers, self.seed, self.client, epoch)
        watched = bar(loaded, len(batches), f"{self.client}  epoch {epoch + 1}/{self.epochs}")
        sums: dict[str, Tensor] = {}
        own = skipped = 0
        ranked = (self.group.rank,) if self.group.rank else ()  # Else all processes would drop the same units.
        with held_back(self.network, self.task.waiting(epoch)):
            training_mode(self.network, freeze_batchnorm=self.freeze_batchnorm)
            layers = seeded_torch(self.seed, "layers", self.client, epoch, *ranked)
            with layers, synced_batchnorm(self.network, self.group.size):
                for number, step in enumerate(steps):
                    self._set_rate(epoch, number, len(steps))
                    self.task.advance(self.network, epoch, epoch * len(steps) + number)
                    done = self._step(itertools.islice(watched, len(step.batches)), step)
                    if done is None:
                        skipped += 1
                        self._check_memory(skipped, len(steps))
                    else:
                        _add(sums, done)
                        own += sum(map(len, step.batches))
        losses, seen = self._joined(sums, own)
        self._refuse_not_finite(losses, epoch)
        rate = self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["factor"]
        return EpochSummary(losses, seen, len(steps) - skipped, skipped, self.parts, rate, time.perf_counter() - start)

    def validated(self, value: float, higher_is_better: bool) -> None:
        """Tell a plateau schedule the monitored validation metric."""
        if self.plateau:
            self.plateau.step(-value if higher_is_better else value)

    def state_dict(self) -> dict[str, Any]:
        """Give optimizer, scaler and plateau state, as tensors and plain values."""
        plateau = self.plateau.state_dict() if self.plateau else {}
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "plateau": {key: value for key, value in plateau.items() if isinstance(value, int | float | list)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])

    def _plan(self, count: int, epoch: int) -> list[Step]:
        """Cut the epoch into steps, and each batch into the shares of the processes, none of them empty."""
        processes = self.group.size
        if count < processes:
            raise UserError(
                f"{self.client}: {count} training samples cannot be shared by {processes} processes; start fewer"
            )
        size, smallest = self.options.batch_size * processes, max(2, processes)
        batches = shuffled_batches(count, size, self.seed, self.client, epoch, smallest=smallest)
        batches = batches[: self.options.limit_batches]
        every = self.options.accumulate
        steps = []
        for start in range(0, len(batches), every):
            together = batches[start : start + every]
            steps.append(Step([self.group.share(batch) for batch in together], sum(map(len, together))))
        return steps

    def _step(self, loaded: Iterator[Batch], step: Step) -> dict[str, Tensor] | None:
        """Make one optimizer step; give the sums of the losses, or None where memory ran out and it was left out.

        Where no step may be left out, one that runs out of memory is made again in smaller parts.
        """
        batches = list(loaded)
        while True:
            sums: dict[str, Tensor] = {}
            try:
                self._accumulate(batches, step, sums)
                self._update()
                return sums
            except torch.OutOfMemoryError:
                if self.group.size > 1:
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            if self.options.oom_limit:
                return None
            self._divide(max(map(len, step.batches)))

    def _accumulate(self, batches: list[Batch], step: Step, sums: dict[str, Tensor]) -> None:
        """Sum the gradients of a step's batches, each part weighted by its share of the samples."""
        for batch, indices in zip(batches, step.batches, strict=True):
            for part in torch.arange(len(indices)).chunk(self.parts):
                on_device = {
                    key: self._part(value, part).to(self.device, non_blocking=True) for key, value in batch.items()
                }
                share = len(part) / step.total
                objective = self._objective(on_device, sums)
                self.scaler.scale(objective if share == 1 else objective * share).backward()  # type: ignore[no-untyped-call]

    def _part(self, values: Tensor, part: Tensor) -> Tensor:
        """Give the rows of a part; the whole as it is, memory layout included."""
        return values if self.parts == 1 else values[part]

    def _divide(self, size: int) -> None:
        """Halve the parts of a batch.

        Raises:
            OutOfMemoryError: They cannot become smaller.
        """
        smallest = 2 if batchnorm_buffers(self.network) else 1
        if size // (2 * self.parts) < smallest:
            raise OutOfMemoryError(
                f"{self.client}: GPU memory ran out with {math.ceil(size / self.parts)} samples at a time; "
                "choose a smaller network or smaller samples, or train.precision = bf16"
            )
        self.parts *= 2

    def _update(self) -> None:
        self.group.sum_gradients(self.network.parameters())
        if self.options.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _refuse_not_finite(self, losses: Mapping[str, float], epoch: int) -> None:
        broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if broken:
            terms = ", ".join(f"{name} {value}" for name, value in broken.items() if name != "loss")
            raise NotFiniteError(
                f"{self.client}: loss {losses['loss']} in epoch {epoch + 1}{f' ({terms})' if terms else ''}; "
                "lower train.lr or set train.clip_grad_norm"
            )

    def _check_memory(self, skipped: int, steps: int) -> None:
        if skipped > self.options.oom_limit or skipped == steps:
            raise OutOfMemoryError(
                f"{self.client}: GPU memory ran out in {skipped} of {steps} steps of an epoch, train.oom_limit = "
                f"{self.options.oom_limit}; lower train.batch_size and raise train.accumulate"
            )

    def _joined(self, sums: dict[str, Tensor], samples: int) -> tuple[dict[str, float], int]:
        """Give the mean losses, each over the samples that it concerns, and the samples of all processes."""
        everyone = self.group.gather(({name: one.cpu() for name, one in sums.items()}, samples))
        joined: dict[str, Tensor] = {}
        for own, _ in everyone:
            _add(joined, own)
        means = {name: float(total / count) for name, (total, count) in joined.items()}
        return means, sum(count for _, count in everyone)

    def _objective(self, batch: Batch, sums: dict[str, Tensor]) -> Tensor:
        with autocast(self.device, self.options.precision):
            loss = self.task.loss(self.task.forward(self.network, batch), batch)
        _add(sums, loss.sums())
        return loss.total + self.penalty(self.network) if self.penalty else loss.total

    def _set_rate(self, epoch: int, step: int, steps: int) -> None:
        schedule = self.options.schedule
        if isinstance(schedule, Plateau):
            return
        per_step = schedule.per == "step"
        position = epoch * steps + step if per_step else epoch
        rate = schedule.rate(self.options.lr, position, self.epochs * steps if per_step else self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _build_plateau(self, options: Plateau) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=options.factor, patience=options.patience, min_lr=options.min_lr, threshold=0.0
        )


def _add(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for name, value in more.items():
        sums[name] = sums[name] + value if name in sums else value
