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
        request: `round` (from 1), `extras` of the strategy, `monitored` value or None; the rounds whose `state` the
            client goes on from and whose state belongs to the `selected` weights so far (0: none).
        arrays: Global weights by name.
        folder: Where this node keeps the client's state between rounds.
    """
    experiment, network = session.experiment, session.network
    number, epochs = request["round"], experiment.federation.local_epochs
    kept = _kept_state(session, client, folder, request["state"])
    _load_global(session, arrays, kept)
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
    if kept and kept["trainer"]:
        trainer.load_state_dict(kept["trainer"])
        if request["monitored"] is not None:
            trainer.validated(request["monitored"], request["higher_is_better"])
    faults = Faults(experiment, client, number, request["attempt"], request["deaths"])
    faults.before_training()
    samples = faults.samples(session.task, session.client(client).train, session.fitted)
    summaries = [trainer.run_epoch(samples, (number - 1) * epochs + epoch) for epoch in range(epochs)]
    _keep_state(session, client, folder, number, trainer)
    _drop_states(folder, client, {number, request["state"], request["selected"]})
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
    _load_global(session, arrays, _kept_state(session, client, folder, request["state"]))
    samples = session.client(client).split(request["split"])
    evaluation = evaluate(
        session.task, session.network, samples, session.fitted, session.experiment.train, session.device
    )
    if request["split"] == "test":
        save_predictions(folder, "federated", client, evaluation.predictions)
    return Part({}, {"states": evaluation.metrics.states()})


def _load_global(session: ClientSession, arrays: Arrays, kept: dict[str, Any] | None) -> None:
    """Load the global weights, and this client's personal ones as it kept them."""
    personal = kept["personal"] if kept else _initial_personal(session, session.travel.personal)
    load_state(session.network, to_tensors(arrays) | personal)


def _initial_personal(session: ClientSession, names: set[str]) -> dict[str, Tensor]:
    if not names:
        return {}
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


def _kept_state(session: ClientSession, client: str, folder: Path, number: int) -> dict[str, Any] | None:
    """Give what the client carries over from a round, None before its first.

    The server says which round: the last whose update it took. What a lost or rejected round has left is not used.

    Raises:
        UserError: It is not there, damaged, or of another client, round or network.
    """
    if not number or not _carries(session):
        return None
    of = {"client": client, "round": number}
    return checkpoints.load(
        _state_path(folder, client, number), session.fingerprint, holds=("personal", "trainer"), of=of
    )


def _keep_state(session: ClientSession, client: str, folder: Path, number: int, trainer: Trainer) -> None:
    """Write what the client carries into its next round."""
    if not _carries(session):
        return
    state, names = trainable_state(session.network), session.travel.personal
    kept = session.experiment.federation.optimizer_state == "kept"
    content = {
        "fingerprint": session.fingerprint,
        "client": client,
        "round": number,
        "personal": {name: value.cpu() for name, value in state.items() if name in names},
        "trainer": trainer.state_dict() if kept else None,
    }
    checkpoints.save(_state_path(folder, client, number), content)


def _carries(session: ClientSession) -> bool:
    return bool(session.travel.personal) or session.experiment.federation.optimizer_state == "kept"


def _drop_states(folder: Path, client: str, needed: set[int]) -> None:
    """Remove what neither the next round, nor a resume, nor the selected weights need."""
    paths = {_state_path(folder, client, number) for number in needed}
    for path in _state_path(folder, client, 0).parent.glob("round-*.pt"):
        if path not in paths:
            path.unlink(missing_ok=True)


def _state_path(folder: Path, client: str, number: int) -> Path:
    return folder / "checkpoints" / "clients" / client / f"round-{number:06d}.pt"


def refusal(error: BaseException) -> dict[str, str]:
    """Describe an error for the server: its kind and one line."""
    kind = "refused" if isinstance(error, UserError) else "failed"
    return {"kind": kind, "message": one_line(error)}
