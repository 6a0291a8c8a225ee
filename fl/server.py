"""The federation as the server sees it: agree on preprocessing, exchange weights for some rounds, score the result."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from core.errors import UserError
from core.randomness import generator
from datasets.leakage import check_disjoint
from fl.asking import Asking
from fl.exchange import Part, payload
from fl.faults import check_faults
from fl.global_model import GlobalModel, agreed_clients
from fl.guard import reason_to_reject
from fl.nodes import Nodes, Reject, raise_refusals
from fl.quorum import check_absent, check_clients
from fl.strategies import Update
from training.announcement import announce
from training.config import Experiment, to_yaml
from training.device import choose_device, threads
from training.manifest import manifest, skipped_steps
from training.memory import memory_monitor
from training.metrics import Metrics
from training.preparation import check_leaks, check_names, complete
from training.provenance import code_digest
from training.runs import Run, Status
from training.schedules import Plateau
from training.scoring import entry, merged, row, summary_head
from training.splits import hashed, split_sha256
from training.statistics import Statistics


def serve(run: Run, grid: Grid, nodes: int) -> Status:
    """Conduct a federated run from wherever it stands; give the final status.

    Args:
        run: Where results go.
        grid: Flower's connection to the nodes.
        nodes: Nodes to wait for.

    Raises:
        UserError: Data or config cannot be used.
        RoundError: Too few clients answered.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)  # Its strategies narrate each call.
    options = run.experiment.train
    with threads(options.threads), memory_monitor(options.memory_monitor, run.log_quietly):
        return Server(run, grid, nodes).conduct()


def check_options(experiment: Experiment) -> None:
    """Refuse options that contradict each other in a federation.

    Raises:
        UserError: An option would have no effect.
    """
    fresh = experiment.federation.optimizer_state == "fresh"
    if isinstance(experiment.train.schedule, Plateau) and fresh:
        raise UserError(
            "train.schedule = plateau: clients with a fresh optimizer each round forget it; "
            "set federation.optimizer_state to kept or choose another schedule"
        )


class Server:
    """One federated run."""

    def __init__(self, run: Run, grid: Grid, nodes: int) -> None:
        """Greet the nodes, agree on preprocessing, build the global model, and have every client open its data."""
        self.run, self.experiment = run, run.experiment
        self.options = run.experiment.federation
        self.task = self.experiment.build_task()
        check_options(self.experiment)
        self.device = choose_device(self.experiment.train.device)
        self.start = time.perf_counter()
        self.nodes = Nodes(grid, nodes)
        request: dict[str, Any] = {
            "client_timeout": self.options.client_timeout,
            "experiment": to_yaml(self.experiment),
            "task": self.experiment.task,
            "code": code_digest(self.experiment.task),
            "folder": str(run.folder),
        }
        self.clients = check_names(self.nodes.greet(request), str(self.task.data))
        check_clients(self.options, len(self.clients))
        check_faults(self.options, self.clients, self.task)
        self.asking = Asking(run, self.nodes, self.options, request)
        self._agree()
        fitted = self.task.fit(self.everyone, self.everyone)
        self.model = GlobalModel(run, self.task, fitted, self.device, self.digests)
        self.asking.request |= {
            "fitted": fitted.model_dump(mode="json"),
            "frozen": self.model.frozen,
            "higher_is_better": self.model.selection.higher_is_better,
        }
        # Who cannot open its data takes no part until a new launch or a resume, where it may.
        self.clients = sorted(self.asking.ask("query.open", self.clients, 0, {}).good)

    def conduct(self) -> Status:
        """Run all rounds, then score the selected weights."""
        self.run.log(
            f"{self.experiment.task}, federated: {len(self.clients)} clients on {len(self.nodes.identifiers)} nodes, "
            f"at most {payload(self.model.arrays):,} bytes of weights per exchange"
        )
        announce(self.run, self.task, self.model.network, self.descriptions)
        self.model.restore()
        while self.model.round < self.options.rounds and not self.model.selection.exhausted:
            self._round(self.model.round + 1)
        self._finish()
        return self.run.finish()

    def _agree(self) -> None:
        """Collect statistics and sizes; refuse leaks.

        What weights rest on does not change: a run that goes on asks those who agreed at its start, and needs them all.
        """
        agreed = agreed_clients(self.run)
        asked = [name for name in self.clients if not agreed or name in agreed]
        answers = self.asking.ask("query.statistics", asked, 0, {})
        if agreed:
            raise_refusals(answers.failures)
        parts = {client: part.info for client, part in answers.good.items()}
        self.clients = sorted(parts)
        first = {client: Statistics.model_validate(info["statistics"]) for client, info in parts.items()}
        self.everyone = complete(self.task, first, self._further_statistics)
        self.descriptions = {client: info["description"] for client, info in parts.items()}
        self.digests = {client: info["digest"] for client, info in parts.items()}
        self.absent = {client: tuple(info["absent"]) for client, info in parts.items()}
        check_absent(self.options, self.absent)
        self.split = self._refuse_leaks(parts)

    def _further_statistics(self, known: Statistics) -> dict[str, Statistics]:
        """Ask for sums that rest on what all clients said: who gave that must give these, too."""
        request = {"known": known.model_dump(mode="json")}
        answers = self.asking.ask("query.further_statistics", self.clients, 0, request)
        raise_refusals(answers.failures)
        return {name: Statistics.model_validate(part.info["statistics"]) for name, part in answers.good.items()}

    def _refuse_leaks(self, parts: dict[str, dict[str, Any]]) -> str | None:
        """Refuse a unit that stands in two splits or at two clients; give the SHA-256 of the split.

        Nodes with data of their own show hashes only.
        """
        if self.nodes.owners is None:
            return check_leaks(self.task, self.clients)
        members = {
            (client, split): levels for client, info in parts.items() for split, levels in info["identities"].items()
        }
        members["held_out", "test"] = hashed(self.task.held_out_identities())
        check_disjoint(members, f"{self.task.data} (ids hashed)")
        return split_sha256(members)

    def _round(self, number: int) -> None:
        start = time.perf_counter()
        sent = self.model.sent(number)
        chosen = self._sample(number)
        request = {
            "round": number,
            "extras": self.model.aggregator.configure(number, self.model.arrays),
            "needs_initial_loss": self.options.strategy.name == "qfedavg",
            "monitored": self.model.monitored_value,
            "own": self.model.states(number - 1),
        }
        trained = self.asking.ask("train", chosen, number, request, sent, self._reject(number))
        updates = {
            name: Update(part.arrays["update"], part.info["samples"], part.info["initial_loss"])
            for name, part in trained.good.items()
        }
        self.model.advance(number, updates, sum(part.info["seen"] for part in trained.good.values()))
        validation = self._validate(number)
        down = payload(sent)
        step = {
            "step": number,
            "participants": chosen,
            "train": {name: _train_entry(part.info) for name, part in trained.good.items()},
            "val": validation,
            "bytes_up": {name: part.info["up"] for name, part in trained.good.items()},
            "bytes_down": {name: down * ((name in chosen) + 1) for name in self.clients},
            "seconds": time.perf_counter() - start,
        }
        held_out = self.model.held_out_metrics()
        self.run.add_step(step | ({"held_out": entry(held_out)} if held_out else {}), "round")
        self.model.checkpoint(self.run.failures)
        self.asking.deaths.forget()
        self._report(step)

    def _sample(self, number: int) -> list[str]:
        """Draw the clients of a round by a seeded rule on names."""
        count = min(self.options.clients_per_round or len(self.clients), len(self.clients))
        drawn = generator(self.experiment.seed, "sample clients", number).choice(self.clients, count, replace=False)
        return sorted(str(name) for name in drawn)

    def _validate(self, number: int) -> dict[str, Any]:
        request = {"round": number, "split": "val", "own": self.model.states(number)}
        answers = self.asking.ask("evaluate", self.clients, number, request, self.model.sent(number))
        scored = {name: self._metrics([part.arrays["states"]]) for name, part in answers.good.items()}
        pooled = self._metrics([metrics.states() for metrics in scored.values()])
        self.model.select(number, pooled)
        return {**{name: entry(metrics) for name, metrics in scored.items()}, "pooled": entry(pooled)}

    def _reject(self, number: int) -> Reject:
        def reason(name: str, part: Part) -> str | None:
            expected = self.model.expected(number, self.absent[name])
            return reason_to_reject(part, expected, self.descriptions[name]["train"])

        return reason

    def _metrics(self, states: Sequence[dict[str, np.ndarray]]) -> Metrics:
        return merged(self.task, self.model.fitted, states)

    def _finish(self) -> None:
        """Score the selected weights on every test set and write the results."""
        self.model.load_selected()
        request = {"round": self.model.selected, "split": "test", "own": self.model.states(self.model.selected)}
        answers = self.asking.ask(
            "evaluate", self.clients, self.model.round, request, self.model.sent(self.model.round)
        )
        scored = {name: self._metrics([part.arrays["states"]]) for name, part in answers.good.items()}
        scored["pooled"] = self._metrics([metrics.states() for metrics in scored.values()])
        held_out = self.model.held_out_metrics(store=True)
        if held_out:
            scored["held_out"] = held_out
        rows = [row("federated", data, metrics) for data, metrics in scored.items()]
        head = summary_head(self.experiment, self.task, self.model.fitted, self.clients, scored["pooled"])
        self.run.write_evaluation(rows, head)
        self.run.write_summary(self.task.primary, {"federated": self.model.selected})
        up, down = (sum(sum(step[key].values()) for step in self.run.history) for key in ("bytes_up", "bytes_down"))
        self.run.write_manifest(
            manifest(
                self.experiment,
                {"federated": self.model.outcome()},
                clients=self.descriptions,
                data=self.model.digests,
                split=self.split,
                held_out=held_out.count if held_out else None,
                budget={"epochs": None, "rounds": self.model.round, "local_epochs": self.options.local_epochs},
                seconds=time.perf_counter() - self.start + self.run.earlier_seconds,
                device=self.device,
                oom_skipped=skipped_steps(self.run.history),
                bytes={"up": up, "down": down, "full_state": self.model.full_state_bytes},
            )
        )

    def _report(self, step: dict[str, Any]) -> None:
        losses = [one["metrics"]["loss"] * one["support"] for one in step["train"].values()]
        loss = sum(losses) / sum(one["support"] for one in step["train"].values())
        name = self.model.monitor
        value = step["val"]["pooled"]["metrics"].get(name, float("nan"))
        self.run.log(
            f"federated  round {step['step']}/{self.options.rounds}  {len(step['train'])} clients  loss {loss:.4f}  "
            f"val {name} {value:.4f}  {step['seconds']:.1f} s"
        )


def _train_entry(info: dict[str, Any]) -> dict[str, Any]:
    kept = {key: info[key] for key in ("lr", "seconds", "skipped", "parts")}
    return {"metrics": info["losses"], "support": info["samples"], **kept}
