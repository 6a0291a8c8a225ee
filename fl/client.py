"""What a client does when asked: describe its training data, train for a round, score the global model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError, one_line
from fl.client_session import ClientSession
from fl.exchange import Arrays, Part, payload, to_arrays, to_tensors
from fl.faults import Faults
from training import checkpoints
from training.engine import Penalty, Trainer
from training.evaluation import evaluate
from training.parameters import load_state, trainable_state
from training.predictions import save_predictions
from training.preparation import build_network
from training.splits import hashed
from training.statistics import Statistics
from training.task import Task


def describe(task: Task, client: str, *, own_data: bool) -> Part:
    """Give the statistics of a client's train split, its sizes, and hashed ids for the leak check.

    Args:
        task: The open task.
        client: Whose data.
        own_data: Whether the node holds the data itself, so that no name of a sample or unit may leave it; where it
            shares the server's, the server looks for leaks.
    """
    identities = {split: hashed(ids) for split, ids in task.identities(client).items()} if own_data else {}
    description = task.describe(client)
    info = {
        "statistics": task.statistics(client).model_dump(mode="json"),
        "description": unnamed(description) if own_data else description,
        "digest": task.data_digest(client),
        "identities": identities,
        "absent": task.absent(client),
    }
    return Part(info)


def unnamed(description: dict[str, Any]) -> dict[str, Any]:
    """Count the `units` of a description, at any depth, instead of naming them."""
    counted = {key: len(value) for key, value in description.items() if key == "units" and isinstance(value, list)}
    nested = {key: unnamed(value) for key, value in description.items() if isinstance(value, dict)}
    return {**description, **counted, **nested}


def describe_further(task: Task, client: str, known: Statistics) -> Part:
    """Give the statistics that rest on what earlier passes of all clients gave."""
    return Part({"statistics": task.further_statistics(client, known).model_dump(mode="json")})


def open_data(session: ClientSession, client: str, request: dict[str, Any], arrays: Arrays, folder: Path) -> Part:
    """Open the splits, so that data which cannot be used is refused before anyone trains."""
    session.client(client)
    return Part({})


def train(session: ClientSession, client: str, request: dict[str, Any], arrays: Arrays, folder: Path) -> Part:
    """Train for one round from the global weights.

    Args:
        session: The open task.
        client: Whose data.
        request: `round` (from 1), the `selected` one so far (0: none), `extras` of the strategy, `monitored` value or
            None.
        arrays: Global weights by name.
        folder: Where this node keeps the client's state between rounds.
    """
    experiment, network = session.experiment, session.network
    number, epochs = request["round"], experiment.federation.local_epochs
    _load_global(session, client, arrays, folder, number)
    loss_before = _loss_before(session, client) if request["needs_initial_loss"] else 0.0
    trainer = Trainer(
        session.task,
        network,
        experiment.train,
        seed=experiment.seed,
        client=client,
        epochs=experiment.federation.rounds * epochs,
        device=session.device,
        penalty=_proximal(network, arrays, request["extras"].get("proximal-mu", 0.0)),
        freeze_batchnorm=experiment.federation.batchnorm == "freeze",
    )
    kept = _kept_state(session, client, folder, number)
    if kept:
        trainer.load_state_dict(kept)
        if request["monitored"] is not None:
            trainer.validated(request["monitored"], request["higher_is_better"])
    faults = Faults(experiment, client, number, folder / "faults")
    faults.before_training()
    samples = faults.samples(session.task, session.client(client).train, session.fitted)
    summaries = [trainer.run_epoch(samples, (number - 1) * epochs + epoch) for epoch in range(epochs)]
    _keep_state(session, client, folder, number, trainer, request["selected"])
    trained = session.travel.trained(number, session.task.absent(client))
    update = faults.spoiled(to_arrays(trainable_state(network), trained), arrays)
    info = {
        "samples": len(samples),
        "seen": sum(summary.samples for summary in summaries),
        "skipped": sum(summary.skipped for summary in summaries),
        "parts": max(summary.parts for summary in summaries),
        "losses": summaries[-1].losses,
        "lr": summaries[-1].lr,
        "seconds": sum(summary.seconds for summary in summaries),
        "initial_loss": loss_before,
        "up": payload(update),
    }
    return Part(info, {"update": update})


def score(session: ClientSession, client: str, request: dict[str, Any], arrays: Arrays, folder: Path) -> Part:
    """Score the global weights on a split; on the test split predictions are stored at the client."""
    _load_global(session, client, arrays, folder, request["round"] + 1)
    samples = session.client(client).split(request["split"])
    evaluation = evaluate(
        session.task, session.network, samples, session.fitted, session.experiment.train, session.device
    )
    if request["split"] == "test":
        save_predictions(folder, "federated", client, evaluation.predictions)
    return Part({}, {"states": evaluation.metrics.states()})


def _load_global(session: ClientSession, client: str, arrays: Arrays, folder: Path, number: int) -> None:
    """Load the global weights, and this client's personal ones as they were after its last round."""
    state: dict[str, Tensor] = to_tensors(arrays)
    personal = session.travel.personal
    if personal:
        path = _latest_state(folder, client, number)
        if path:
            state |= {name: value for name, value in checkpoints.load(path)["personal"].items() if name in personal}
        else:
            state |= _initial_personal(session, personal)
    load_state(session.network, state)


def _initial_personal(session: ClientSession, names: set[str]) -> dict[str, Tensor]:
    fresh = build_network(session.task, session.fitted, session.experiment.seed).state_dict()
    return {name: fresh[name] for name in names}


def _loss_before(session: ClientSession, client: str) -> float:
    samples = session.client(client).train
    options = session.experiment.train
    metrics = evaluate(session.task, session.network, samples, session.fitted, options, session.device).metrics
    return metrics.compute().values["loss"]


def _proximal(network: nn.Module, arrays: Arrays, mu: float) -> Penalty | None:
    """Give mu/2 * squared distance to the global weights (FedProx, arXiv 1812.06127), or nothing for mu = 0."""
    if not mu:
        return None
    device = next(network.parameters()).device
    anchors = {name: value.to(device) for name, value in to_tensors(arrays).items()}

    def penalty(current: nn.Module) -> Tensor:
        own = dict(current.named_parameters())
        distances = [(own[name] - anchor).square().sum() for name, anchor in anchors.items() if name in own]
        return 0.5 * mu * torch.stack(distances).sum()

    return penalty


def _keep_state(
    session: ClientSession, client: str, folder: Path, number: int, trainer: Trainer, selected: int
) -> None:
    """Write what the client carries into its next round; drop what neither a resume nor the selected round needs."""
    state = trainable_state(session.network)
    personal = {name: value.cpu() for name, value in state.items() if name in session.travel.personal}
    kept = session.experiment.federation.optimizer_state == "kept"
    if not personal and not kept:
        return
    content = {"personal": personal, "trainer": trainer.state_dict() if kept else None}
    checkpoints.save(_state_path(folder, client, number), content)
    needed = {_latest_state(folder, client, number), _latest_state(folder, client, selected + 1)}
    for path in _states_before(folder, client, number):
        if path not in needed:
            path.unlink(missing_ok=True)


def _kept_state(session: ClientSession, client: str, folder: Path, number: int) -> dict[str, Any] | None:
    if session.experiment.federation.optimizer_state != "kept":
        return None
    path = _latest_state(folder, client, number)
    return checkpoints.load(path)["trainer"] if path else None


def _latest_state(folder: Path, client: str, number: int) -> Path | None:
    """Give the client's state from its last round before this one."""
    return max(_states_before(folder, client, number), default=None)


def _states_before(folder: Path, client: str, number: int) -> list[Path]:
    found = _state_path(folder, client, 0).parent.glob("round-*.pt")
    return [path for path in found if path.stem < _stem(number)]


def _state_path(folder: Path, client: str, number: int) -> Path:
    return folder / "checkpoints" / "clients" / client / f"{_stem(number)}.pt"


def _stem(number: int) -> str:
    return f"round-{number:06d}"


def refusal(error: Exception) -> dict[str, str]:
    """Describe an error for the server: its kind and one line."""
    kind = "refused" if isinstance(error, UserError) else "failed"
    return {"kind": kind, "message": one_line(error)}
