"""Centralized: one model on the pool of all clients. Local: one model per client, alone.

Both are the same loop over members; a member is a model with the clients whose data it may see.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from centralized.baselines import baseline_rows
from centralized.member import Member
from core.errors import UserError, one_line
from training.announcement import announce
from training.device import choose_device, threads
from training.distributed import ALONE, Group
from training.manifest import Outcome, manifest, skipped_steps
from training.memory import memory_monitor
from training.metrics import Metrics, States
from training.preparation import (
    build_network,
    check_leaks,
    check_names,
    complete,
    monitored,
    open_client,
    open_held_out,
    with_held_out,
)
from training.runs import Run, Status
from training.scoring import merged, row, summary_head
from training.statistics import Statistics
from training.task import ClientData

Answer = TypeVar("Answer")


def execute(run: Run, group: Group = ALONE) -> Status:
    """Train and score every member of a run, from wherever it stands; give the final status.

    Args:
        run: Where results go.
        group: The processes that train together; all of them call this.

    Raises:
        UserError: The data or the config cannot be used.
    """
    options = run.experiment.train
    with threads(options.threads), memory_monitor(options.memory_monitor, run.log_quietly):
        return _Runner(run, group).execute()


class _Runner:
    def __init__(self, run: Run, group: Group) -> None:
        self.run, self.experiment, self.group = run, run.experiment, group
        self.task = self.experiment.build_task()
        self.device = choose_device(self.experiment.train.device)
        if group.size > 1 and self.device.index is not None:
            raise UserError(
                f"train.device = {self.device}: {group.size} processes cannot share one card; set train.device to auto"
            )
        with group.first_leads():
            self.clients = check_names(self.task.clients(), str(self.task.data))
        self.split = check_leaks(self.task, self.clients)
        self.statistics = {client: self._of(client, "statistics", self.task.statistics) for client in self.clients}
        self.everyone = self._complete(self.clients)
        self.descriptions = {client: self.task.describe(client) for client in self.clients}
        self.digests = {client: self._of(client, "digest", self.task.data_digest) for client in self.clients}

    def execute(self) -> Status:
        start = time.perf_counter()
        members = {"centralized": self.clients} if self.run.setting == "centralized" else {c: [c] for c in self.clients}
        self.run.log(f"{self.experiment.task}, {self.run.setting}: {len(self.clients)} clients, {self.device}")
        self.run.log(f"samples per step: {self._batch_size()}")
        outcomes: dict[str, Outcome] = {}
        rows: list[dict[str, Any]] = []
        own: list[States] = []
        for name, clients in members.items():
            member = self.member(name, clients)
            if not outcomes:
                announce(self.run, self.task, member.network, self.descriptions)
                if self.run.setting == "centralized":  # Before training, so that what they refuse costs nothing.
                    self.run.write_baselines(baseline_rows(self.task, member.fitted, member.data, member.held_out))
            outcomes[name] = member.train()
            scored = self.score(member)
            rows += [row(name, data, metrics) for data, metrics in scored.items()]
            own += [scored[client].states() for client in clients]
        fitted = self.task.fit(self.everyone, self.everyone)  # No single client's, which may lack what others have.
        pooled = merged(self.task, fitted, own)
        rows.append(row(self.run.setting, "pooled", pooled))
        self.run.write_evaluation(rows, summary_head(self.experiment, self.task, fitted, self.clients, pooled))
        self.run.write_summary(self.task.primary, {name: outcome.selected for name, outcome in outcomes.items()})
        held_out = scored["held_out"].count if "held_out" in scored else None
        self.run.write_manifest(
            self.manifest(outcomes, held_out, time.perf_counter() - start + self.run.earlier_seconds)
        )
        return self.run.finish()

    def _batch_size(self) -> str:
        """Give the samples behind one optimizer step, and how they come about."""
        options, size = self.experiment.train, self.group.size
        total = options.batch_size * options.accumulate * size
        return f"{total} = {options.batch_size} x {options.accumulate} accumulated x {size} processes"

    def member(self, name: str, clients: list[str]) -> Member:
        """Build the network and open the data of a member."""
        fitted = self.task.fit(self._complete(clients), self.everyone)
        monitor = monitored(self.experiment, self.task, fitted)
        network = build_network(self.task, fitted, self.experiment.seed).to(self.device)

        def opened(client: str) -> ClientData:
            return open_client(self.task, client, fitted, network, self.experiment, self.device)

        with self.group.first_leads():
            data = {client: self._of(client, "open", opened) for client in self.clients}
            held_out = open_held_out(self.task, fitted, network, self.experiment, self.device)
            self.digests = with_held_out(self.task, self.digests, held_out)
        return Member(
            self.run,
            self.task,
            name,
            clients,
            fitted,
            network,
            data,
            held_out,
            self.device,
            monitor,
            self.digests,
            self.group,
        )

    def score(self, member: Member) -> dict[str, Metrics]:
        """Score a member on every client's test set and on the held-out set."""
        sets = {client: member.data[client].test for client in self.clients}
        if member.held_out is not None:
            sets["held_out"] = member.held_out
        return {data: member.score(data, samples) for data, samples in sets.items()}

    def _complete(self, clients: list[str]) -> Statistics:
        """Merge the statistics of all passes."""

        def ask(known: Statistics) -> dict[str, Statistics]:
            return {
                client: self._of(client, "statistics", lambda name: self.task.further_statistics(name, known))
                for client in clients
            }

        return complete(self.task, {client: self.statistics[client] for client in clients}, ask)

    def _of(self, client: str, phase: str, ask: Callable[[str], Answer]) -> Answer:
        """Ask for something of a client; where that fails, say in status.json whose data it was."""
        try:
            return ask(client)
        except Exception as error:
            kind = "refused" if isinstance(error, UserError) else "failed"
            self.run.client_failed(client, 0, phase, one_line(error), kind=kind)
            raise

    def manifest(self, outcomes: dict[str, Outcome], held_out: int | None, seconds: float) -> dict[str, Any]:
        """Give the content of manifest.json."""
        return manifest(
            self.experiment,
            outcomes,
            clients=self.descriptions,
            data=self.digests,
            split=self.split,
            held_out=held_out,
            budget={"epochs": self.experiment.epochs, "rounds": None, "local_epochs": None},
            seconds=seconds,
            device=self.device,
            processes=self.group.size,
            oom_skipped=skipped_steps(self.run.history),
        )
