"""The global weights: aggregated, selected, scored on the held-out set, and kept from round to round."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from fl.exchange import Arrays, to_arrays, to_tensors
from fl.strategies import Aggregator, Update
from fl.travel import Travel
from training import checkpoints
from training.evaluation import evaluate
from training.features import frozen_hash
from training.manifest import Outcome
from training.metrics import Metrics
from training.parameters import count_parameters, load_state, trainable_state, weights_hash
from training.preparation import basis, build_network, monitored, open_held_out, with_held_out
from training.runs import Run
from training.selection import Selection
from training.task import Task

NEEDED = ("basis", "accepted", "state", "samples", "taken", "strategy", "selection", "monitored", "failures", "history")
"""What the next round rests on, beside its number."""


def agreed_clients(run: Run) -> set[str]:
    """Give the clients whose statistics the last checkpoint rests on; none before the first."""
    path = _last(run)
    return set(checkpoints.load(path, holds=NEEDED)["taken"]) if path.exists() else set()


class GlobalModel:
    """The server's network. Only what travels changes; a checkpoint per round makes a cut run go on."""

    def __init__(
        self, run: Run, task: Task, fitted: BaseModel, device: torch.device, digests: Mapping[str, str]
    ) -> None:
        """Build the network with the weights that every setting starts from, and open the held-out set.

        Args:
            run: Where checkpoints go.
            task: The learning problem.
            fitted: Preprocessing fitted on all clients.
            device: Where the server scores.
            digests: Client -> SHA-256 of its data.

        Raises:
            UserError: The monitored metric or the held-out set cannot be used.
        """
        experiment = run.experiment
        self.run, self.task, self.fitted, self.device = run, task, fitted, device
        self.monitor, higher_is_better = monitored(experiment, task, fitted)
        self.network = build_network(task, fitted, experiment.seed).to(device)
        self.initial = weights_hash(self.network.state_dict())
        self.frozen = frozen_hash(self.network)
        self.travel = Travel(self.network, task, experiment.federation)
        self.arrays: Arrays = to_arrays(trainable_state(self.network), self.travel.names)
        parameters = {name for name, _ in self.network.named_parameters()}
        self.aggregator = Aggregator(experiment.federation.strategy, parameters)
        self.selection = Selection(higher_is_better, experiment.train.early_stopping)
        self.fingerprint = checkpoints.fingerprint(experiment.task, self.network, fitted)
        self.accepted: dict[str, Any] = {}
        self.round, self.samples = 0, 0
        self.taken: dict[str, list[int]] = {client: [] for client in digests}
        self.monitored_value: float | None = None
        # What is personal never reaches the server, so it has no whole network to score.
        whole = not self.travel.personal
        self.held_out = open_held_out(task, fitted, self.network, experiment, device) if whole else None
        self.digests = with_held_out(task, digests, self.held_out)
        self.basis = basis(experiment, self.digests)

    @property
    def full_state_bytes(self) -> int:
        """Bytes of the whole state dict: what would travel if nothing stayed."""
        return sum(value.nbytes for value in self.network.state_dict().values())

    def sent(self, number: int) -> Arrays:
        """Give what clients need of the global weights in a round."""
        return {name: self.arrays[name] for name in self.travel.moved(number)}

    def expected(self, number: int, absent: tuple[str, ...]) -> Arrays:
        """Give the global weights that an update of a round replaces.

        Args:
            number: The round.
            absent: Patterns of what the client has no data for.
        """
        return {name: self.arrays[name] for name in self.travel.trained(number, absent)}

    def advance(self, number: int, updates: Mapping[str, Update], samples: int) -> None:
        """Aggregate a round's updates into new global weights.

        Raises:
            RoundError: They are too few, or their aggregate is not finite.
        """
        self.arrays = self.aggregator.aggregate(number, self.arrays, updates)
        self.round, self.samples = number, self.samples + samples
        for client in updates:
            self.taken[client].append(number)
        load_state(self.network, to_tensors(self.arrays))

    def states(self, number: int) -> dict[str, dict[str, int]]:
        """Tell each client which of the states it keeps belongs to the weights of a round, and to the selected ones.

        A state is named by the last round whose update of that client was taken; 0 before there is one.
        """

        def last(rounds: list[int], until: int) -> int:
            return max((one for one in rounds if one <= until), default=0)

        best = self.selection.best_step
        return {
            client: {"state": last(rounds, number), "selected": last(rounds, best)}
            for client, rounds in self.taken.items()
        }

    def select(self, number: int, pooled: Metrics) -> None:
        """Take the pooled validation metrics of a round; keep the weights if they are the best so far."""
        self.monitored_value = pooled.compute().values.get(self.monitor, float("nan"))
        if self.selection.update(number, self.monitored_value):
            self._save(f"best-{number}", number, {})

    def held_out_metrics(self, *, store: bool = False) -> Metrics | None:
        """Score the network on the set that belongs to nobody, where the server has one."""
        if self.held_out is None:
            return None
        evaluation = evaluate(
            self.task, self.network, self.held_out, self.fitted, self.run.experiment.train, self.device
        )
        if store:
            self.run.save_predictions("federated", "held_out", evaluation.predictions)
        return evaluation.metrics

    def checkpoint(self, failures: list[dict[str, Any]]) -> None:
        """Write everything the next round rests on."""
        self._save(
            "last",
            self.round,
            {
                "basis": self.basis,
                "accepted": self.accepted,
                "samples": self.samples,
                "taken": self.taken,
                "strategy": self.aggregator.state_dict(),
                "selection": self.selection.state_dict(),
                "monitored": self.monitored_value,
                "failures": failures,
                "history": json.dumps(self.run.history),
            },
        )
        checkpoints.keep_best(self._path("last").parent, self.selection.best_step)

    def restore(self) -> None:
        """Go on from the last finished round, if there is one."""
        path = _last(self.run)
        if not path.exists():
            return
        content = checkpoints.load(path, self.fingerprint, holds=NEEDED)
        self.accepted = checkpoints.check_basis(path, self.run.folder, content, self.basis)
        self._load(content["state"])
        self.round, self.samples = content["round"], content["samples"]
        self.taken |= content["taken"]
        self.aggregator.load_state_dict(content["strategy"])
        self.selection.load_state_dict(content["selection"])
        self.monitored_value = content["monitored"]
        again = [one for one in self.run.failures if one not in content["failures"]]
        self.run.failures = [*content["failures"], *again]
        self.run.restore_history(content["history"], "round")
        self.run.log(f"federated  goes on after round {self.round}{checkpoints.said(self.accepted)}")

    def load_selected(self) -> None:
        """Load the weights that are final by `train.select`, and store the whole model."""
        if self.selected != self.round:
            best = self._path(f"best-{self.selected}")
            self._load(checkpoints.load(best, self.fingerprint, of={"round": self.selected})["state"])
        self.run.save_model(self.network.state_dict(), self.fingerprint, self.fitted)

    @property
    def selected(self) -> int:
        """The round whose weights are final."""
        best = self.run.experiment.train.select == "best"
        return self.selection.best_step if best and self.selection.best_step else self.round

    def outcome(self) -> Outcome:
        """Describe the model for the manifest."""
        return Outcome(
            fitted=self.fitted,
            parameters=count_parameters(self.network),
            monitor=self.monitor,
            selected=self.selected,
            samples=self.samples,
            initial_sha256=self.initial,
            weights_sha256=weights_hash(self.network.state_dict()),
            facts=self.task.facts(self.network),
            accepted=self.accepted,
        )

    def _path(self, which: str) -> Path:
        return self.run.folder / "checkpoints" / f"{which}.pt"

    def _save(self, which: str, number: int, more: dict[str, Any]) -> None:
        content = {"fingerprint": self.fingerprint, "round": number, "state": to_tensors(self.arrays), **more}
        self.run.save_checkpoint(self._path(which), content)

    def _load(self, state: dict[str, torch.Tensor]) -> None:
        self.arrays = to_arrays(state, self.travel.names)
        load_state(self.network, state)


def _last(run: Run) -> Path:
    return run.folder / "checkpoints" / "last.pt"
