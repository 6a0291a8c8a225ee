"""The Flower ClientApp of every task: one message holds the requests for several clients, one reply their answers."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from core.errors import UserError
from fl import client
from fl.client_session import ClientSession, open_experiment, open_session
from fl.exchange import Arrays, Part, pack, unpack
from fl.time_limit import OvertimeError, time_limit
from training.device import threads
from training.provenance import code_digest
from training.statistics import Statistics
from training.task import Task
from training.task_modules import load_task_class

app = ClientApp()
Answer = Callable[[str], Part]


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which clients this node can serve, after checking that it runs the server's code."""
    request = _request(message)

    def answer(_: str) -> Part:
        load_task_class(request["task"])
        code = code_digest(request["task"])
        if request["code"] != code:
            raise UserError(
                f"node runs other code ({code}) than the server ({request['code']}); "
                "start the SuperLink and SuperNodes from an empty folder so that all use the shipped bundle"
            )
        data = _own_data(context)
        task = open_experiment(request["experiment"], data, request["folder"])[1]
        own = {"clients": task.clients(), "shared": data is None}
        return Part({**own, "partition": int(context.node_config.get("partition-id", 0))})

    return _reply(message, request, ["node"], answer)


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
    """Describe the train splits, without rows leaving the node."""
    own_data = _own_data(context) is not None
    return _with_task(message, context, lambda task, name, _: client.describe(task, name, own_data=own_data))


@app.query("further_statistics")
def further_statistics(message: Message, context: Context) -> Message:
    """Describe the train splits once more, knowing what all clients have said."""

    def act(task: Task, name: str, request: dict[str, Any]) -> Part:
        return client.describe_further(task, name, Statistics.model_validate(request["known"]))

    return _with_task(message, context, act)


@app.query("open")
def open_data(message: Message, context: Context) -> Message:
    """Open the data of the asked clients."""
    return _with_session(message, context, client.open_data)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the asked clients for one round, one after another."""
    return _with_session(message, context, client.train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the global weights at the asked clients."""
    return _with_session(message, context, client.score)


def _with_task(message: Message, context: Context, act: Callable[[Task, str, dict[str, Any]], Part]) -> Message:
    request = _request(message)

    def answer(name: str) -> Part:
        task = open_experiment(request["experiment"], _own_data(context), request["folder"])[1]
        return act(task, name, request)

    return _reply(message, request, request["clients"], answer)


def _with_session(
    message: Message, context: Context, act: Callable[[ClientSession, str, dict[str, Any], Arrays, Path], Part]
) -> Message:
    request = _request(message)
    arrays = unpack(message.content)["all"].arrays.get("global", {})

    def answer(name: str) -> Part:
        fitted = json.dumps(request["fitted"])
        session = open_session(request["experiment"], fitted, _own_data(context), request["folder"])
        if session.frozen != request["frozen"]:
            raise UserError(f"{name}: frozen weights differ from the server's; give this node the same checkpoint file")
        with threads(session.experiment.train.threads):
            return act(session, name, request | request["own"].get(name, {}), arrays, _folder(request, context))

    return _reply(message, request, request["clients"], answer)


def _request(message: Message) -> dict[str, Any]:
    return unpack(message.content)["all"].info


def _own_data(context: Context) -> str | None:
    """Give the data folder that a SuperNode was started with; simulated nodes share the server's."""
    data = context.node_config.get("data")
    return str(data) if data else None


def _folder(request: dict[str, Any], context: Context) -> Path:
    """Give the folder of this run: the run folder, or its namesake in the workspace of a deployed node."""
    run = Path(request["folder"])
    workspace = context.node_config.get("workspace")
    if run.name in ("", ".."):
        raise UserError(f"{request['folder']!r}: the server's run folder has no name; nothing is written here")
    return Path(str(workspace)) / run.name if workspace else run


def _reply(message: Message, request: dict[str, Any], names: list[str], answer: Answer) -> Message:
    """Answer for each client; the failure of one leaves the others' answers intact."""
    parts = {}
    for name in names:
        place = {"client": name, "round": request.get("round", 0)}
        try:
            with time_limit(request.get("client_timeout")):
                part = answer(name)
            parts[name] = Part({**part.info, **place}, part.arrays)
        except (Exception, OvertimeError) as error:
            details = traceback.format_exc()
            parts[name] = Part({"error": {**client.refusal(error), "details": details}, **place})
    return Message(content=pack(parts), reply_to=message)
