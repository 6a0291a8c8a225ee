"""The one training loop: every task, every setting.

Kept to the shape of nanoGPT's `train.py`: batches, accumulation, clipping, one step. Everything random is a pure
function of (seed, client, epoch), so a round, a restart and a straight run draw the same numbers.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.progress import bar
from core.randomness import seed_for, seeded_torch
from training.config import Train
from training.device import autocast
from training.loading import load_batches, reseed, shuffled_batches
from training.optimizers import build_optimizer
from training.parameters import training_mode
from training.schedules import Plateau
from training.task import Batch, Samples, Task

Penalty = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class EpochSummary:
    """What one epoch did: mean loss and its parts over the samples, steps, last learning rate, seconds."""

    losses: dict[str, float]
    samples: int
    steps: int
    lr: float
    seconds: float


class NotFiniteError(ArithmeticError):
    """The training loss became NaN or infinite."""


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
        """
        self.task, self.network, self.options, self.device = task, network, options, device
        self.seed, self.client, self.epochs, self.penalty = seed, client, epochs, penalty
        network.zero_grad(set_to_none=True)  # What a failed trainer may have left behind.
        self.optimizer = build_optimizer(options.optimizer, network.parameters(), options.lr)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16" and device.type == "cuda")
        self.plateau = self._build_plateau(options.schedule) if isinstance(options.schedule, Plateau) else None

    def run_epoch(self, samples: Samples, epoch: int) -> EpochSummary:
        """Pass over the samples once; `epoch` counts from 0 over the whole run.

        Raises:
            NotFiniteError: The loss is no longer a number.
        """
        start = time.perf_counter()
        reseed(samples, seed_for(self.seed, "augment", self.client, epoch))
        training_mode(self.network)
        batches = shuffled_batches(len(samples), self.options.batch_size, self.seed, self.client, epoch)
        batches = batches[: self.options.limit_batches]
        sizes = [len(batch) for batch in batches]
        groups = [sizes[at : at + self.options.accumulate] for at in range(0, len(sizes), self.options.accumulate)]
        loaded = load_batches(samples, batches, self.options.loader_workers, self.seed, self.client, epoch)
        watched = bar(loaded, len(batches), f"{self.client}  epoch {epoch + 1}/{self.epochs}")
        sums: dict[str, Tensor] = {}
        with seeded_torch(self.seed, "layers", self.client, epoch):
            for step, group in enumerate(groups):
                self._set_rate(epoch, step, len(groups))
                self._step(watched, group, sums)
        samples_seen = sum(sizes)
        losses = {name: float(total) / samples_seen for name, total in sums.items()}
        if not all(math.isfinite(value) for value in losses.values()):
            raise NotFiniteError(
                f"{self.client}: loss {losses['loss']} in epoch {epoch + 1}; lower train.lr or set train.clip_grad_norm"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        return EpochSummary(losses, samples_seen, len(groups), rate, time.perf_counter() - start)

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

    def _step(self, loaded: Iterator[Batch], sizes: list[int], sums: dict[str, Tensor]) -> None:
        """Make one optimizer step from a group of batches, each weighted by its share of the samples."""
        total = sum(sizes)
        for size in sizes:
            batch = {key: value.to(self.device, non_blocking=True) for key, value in next(loaded).items()}
            share = size / total
            objective = self._objective(batch, size, sums)
            self.scaler.scale(objective if share == 1 else objective * share).backward()  # type: ignore[no-untyped-call]
        if self.options.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _objective(self, batch: Batch, size: int, sums: dict[str, Tensor]) -> Tensor:
        with autocast(self.device, self.options.precision):
            loss = self.task.loss(self.task.forward(self.network, batch), batch)
        for name, part in {"loss": loss.total, **loss.parts}.items():
            weighted = part.detach().to("cpu" if self.device.type == "mps" else self.device, torch.float64) * size
            sums[name] = sums[name] + weighted if name in sums else weighted
        return loss.total + self.penalty(self.network) if self.penalty else loss.total

    def _set_rate(self, epoch: int, step: int, steps: int) -> None:
        schedule = self.options.schedule
        if isinstance(schedule, Plateau):
            return
        per_step = schedule.per == "step"
        position = epoch * steps + step if per_step else epoch
        rate = schedule.rate(self.options.lr, position, self.epochs * steps if per_step else self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _build_plateau(self, options: Plateau) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=options.factor, patience=options.patience, min_lr=options.min_lr, threshold=0.0
        )
