"""One model and the clients whose data it may learn from."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from training import checkpoints
from training.distributed import Group
from training.engine import EpochSummary, Trainer
from training.evaluation import Evaluation, evaluate
from training.loading import Pool
from training.manifest import Outcome
from training.metrics import Metrics
from training.parameters import count_parameters, load_state, trainable_state, weights_hash
from training.preparation import basis
from training.runs import Run
from training.scoring import entry, merged
from training.selection import Selection
from training.task import ClientData, Samples, Task

NEEDED = ("basis", "accepted", "state", "samples", "trainer", "selection", "history")
"""What the next epoch rests on, beside its number."""


@dataclass
class Cursor:
    """How far a member has come."""

    epoch: int = 0
    samples: int = 0


class Member:
    """Trains and scores one model of a centralized or local run; goes on from its last finished epoch."""

    def __init__(
        self,
        run: Run,
        task: Task,
        name: str,
        clients: list[str],
        fitted: BaseModel,
        network: nn.Module,
        data: Mapping[str, ClientData],
        held_out: Samples | None,
        device: torch.device,
        monitor: tuple[str, bool],
        digests: Mapping[str, str],
        group: Group,
    ) -> None:
        """Set up a model with fresh weights.

        Args:
            run: Where results go.
            task: The learning problem.
            name: Of the model: `centralized`, or the client.
            clients: Whose train and val splits it uses.
            fitted: Preprocessing fitted on those clients.
            network: Fresh, on `device`.
            data: All clients' splits, for scoring across sites.
            held_out: The set that belongs to no client, opened before training so that a fault in it shows at once.
            device: Where the network is.
            monitor: Validation metric and whether higher is better.
            digests: Client, and `held_out` where there is such a set -> SHA-256 of its data.
            group: The processes that train it together.
        """
        self.run, self.task, self.name, self.clients = run, task, name, clients
        self.fitted, self.network, self.device = fitted, network, device
        self.data, self.held_out, self.group = data, held_out, group
        self.options = run.experiment.train
        self.monitor, higher_is_better = monitor
        self.selection = Selection(higher_is_better, self.options.early_stopping)
        self.cursor = Cursor()
        self.initial = weights_hash(network.state_dict())
        self.fingerprint = checkpoints.fingerprint(run.experiment.task, network, fitted)
        self.trainer = Trainer(
            task,
            network,
            self.options,
            seed=run.experiment.seed,
            client="+".join(clients),
            epochs=run.experiment.epochs,
            device=device,
            group=group,
        )
        own = {name: digest for name, digest in digests.items() if name in (*clients, "held_out")}
        self.basis = {**basis(run.experiment, own), "processes": group.size}
        self.accepted: dict[str, Any] = {}

    def train(self) -> Outcome:
        """Train to the end of the budget, load the selected weights, store them."""
        self._restore()
        every = self.run.experiment.federation.local_epochs
        samples = Pool([self.data[client].train for client in self.clients]) if len(self.clients) > 1 else None
        train = samples or self.data[self.clients[0]].train
        while self.cursor.epoch < self.run.experiment.epochs and not self.selection.exhausted:
            start = time.perf_counter()
            summary = self.trainer.run_epoch(train, self.cursor.epoch)
            self.cursor = Cursor(self.cursor.epoch + 1, self.cursor.samples + summary.samples)
            last = self.cursor.epoch == self.run.experiment.epochs
            validation = self._validate() if self.cursor.epoch % every == 0 or last else {}
            self._record(summary, validation, time.perf_counter() - start)
            self._checkpoint("last")
            if self.group.leads:
                checkpoints.keep_best(self.folder, self.selection.best_step)
        return self._finish()

    def score(self, data: str, samples: Samples) -> Metrics:
        """Score the model on a set and store its predictions."""
        evaluation = self._evaluate(samples)
        self.run.save_predictions(self.name, data, evaluation.predictions)
        return evaluation.metrics

    def _evaluate(self, samples: Samples) -> Evaluation:
        return evaluate(self.task, self.network, samples, self.fitted, self.options, self.device, self.group)

    def _validate(self) -> dict[str, Any]:
        states, entries = [], {}
        for client in self.clients:
            metrics = self._evaluate(self.data[client].val).metrics
            states.append(metrics.states())
            entries[client] = entry(metrics)
        pooled = entry(merged(self.task, self.fitted, states))
        value = pooled["metrics"].get(self.monitor, float("nan"))
        self.trainer.validated(value, self.selection.higher_is_better)
        if self.selection.update(self.cursor.epoch, value):
            self._checkpoint(f"best-{self.cursor.epoch}")
        return {**entries, "pooled": pooled} if len(self.clients) > 1 or self.run.setting == "centralized" else entries

    def _record(self, summary: EpochSummary, validation: dict[str, Any], seconds: float) -> None:
        name = self.name if self.run.setting == "local" else "pooled"
        kept = {"lr": summary.lr, "seconds": summary.seconds, "skipped": summary.skipped, "parts": summary.parts}
        train = {"metrics": summary.losses, "support": summary.samples, **kept}
        step = {"step": self.cursor.epoch, "train": {name: train}, "seconds": {name: seconds}}
        self.run.add_step({**step, "val": validation} if validation else step, "epoch")
        shown = validation.get("pooled") or validation.get(self.name)
        value = f"  val {self.monitor} {shown['metrics'].get(self.monitor, float('nan')):.4f}" if shown else ""
        total = self.run.experiment.epochs
        skipped = f"  {summary.skipped} steps left out for lack of memory" if summary.skipped else ""
        loss = f"loss {summary.losses['loss']:.4f}{value}"
        self.run.log(f"{self.name}  epoch {self.cursor.epoch}/{total}  {loss}  {seconds:.1f} s{skipped}")

    @property
    def folder(self) -> Path:
        """Where this member's checkpoints are."""
        return self.run.folder / "checkpoints" / self.name

    def _checkpoint(self, which: str) -> None:
        content: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "epoch": self.cursor.epoch,
            "state": trainable_state(self.network),
        }
        if which == "last":
            content |= {
                "basis": self.basis,
                "accepted": self.accepted,
                "samples": self.cursor.samples,
                "trainer": self.trainer.state_dict(),
                "selection": self.selection.state_dict(),
                "history": json.dumps(self.run.history),
            }
        self.run.save_checkpoint(self.folder / f"{which}.pt", content)

    def _restore(self) -> None:
        path = self.folder / "last.pt"
        if not path.exists():
            return
        content = checkpoints.load(path, self.fingerprint, holds=NEEDED)
        self.accepted = checkpoints.check_basis(path, self.run.folder, content, self.basis)
        load_state(self.network, content["state"])
        self.trainer.load_state_dict(content["trainer"])
        self.selection.load_state_dict(content["selection"])
        self.cursor = Cursor(content["epoch"], content["samples"])
        self.run.restore_history(content["history"], "epoch")
        self.run.log(f"{self.name}  goes on after epoch {self.cursor.epoch}{checkpoints.said(self.accepted)}")

    def _finish(self) -> Outcome:
        best = self.selection.best_step if self.options.select == "best" else 0
        self.group.gather(None)  # The first process has written the file by now.
        if best:
            path = self.folder / f"best-{best}.pt"
            load_state(self.network, checkpoints.load(path, self.fingerprint, of={"epoch": best})["state"])
        member = self.name if self.run.setting == "local" else None
        digest = self.run.save_model(self.network.state_dict(), self.fingerprint, self.fitted, member)
        return Outcome(
            fitted=self.fitted,
            parameters=count_parameters(self.network),
            monitor=self.monitor,
            selected=best or self.cursor.epoch,
            samples=self.cursor.samples,
            initial_sha256=self.initial,
            weights_sha256=digest,
            facts=self.task.facts(self.network),
            accepted=self.accepted,
        )
