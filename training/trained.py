"""A trained network, opened again from its run folder, and what it says of new data."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from core.errors import UserError
from core.files import read_json
from core.progress import bar
from core.randomness import seeded_torch
from core.tables import growing_array
from training import checkpoints
from training.config import Train, load
from training.device import autocast, choose_device
from training.features import encoded_bytes
from training.loading import load_batches, ordered_batches
from training.parameters import load_state, weights_hash
from training.runs import model_path
from training.task import Answer, Batch, Samples, Task


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode with all that it takes to run it."""

    task: Task
    network: nn.Module
    fitted: BaseModel
    options: Train
    device: torch.device
    scores: Mapping[str, float | None]
    """What the run reports of it on the test samples of those it learned from; empty before the end of a run."""

    def inputs(self, path: Path) -> Samples:
        """Open new data, a file or folder, whose samples have names that differ.

        Raises:
            UserError: There is none, it does not fit what was trained, or two samples share a name.
        """
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check the path")
        samples = self.task.inputs(path, self.fitted)
        names, counts = np.unique(_names(samples), return_counts=True)
        if not len(names):
            raise UserError(f"{path}: holds no sample; name a file or folder with some")
        if (counts > 1).any():
            raise UserError(
                f"{path}: {counts.max()} samples are called {names[counts.argmax()]!s}; give each a name of its own"
            )
        return samples

    def answers(self, samples: Samples) -> Iterator[Answer]:
        """Run the network over new samples, batch by batch as they are asked for.

        Raises:
            UserError: A sample cannot be used.
        """
        names, place, options = _names(samples), 0, self.options
        front = encoded_bytes(self.task, self.network, samples, self.device) if options.cache_features else None
        blocks = ordered_batches(samples, options.eval_batch_size if front is None else options.batch_size)
        loaded = load_batches(samples, blocks, options.loader_workers, 0, "prediction")
        batches = self._on_device(bar(loaded, len(blocks), "prediction"))
        with torch.inference_mode():
            for batch in batches if front is None else self._encoded(batches, options.eval_batch_size):
                with autocast(self.device, options.precision):
                    outputs = self.task.forward(self.network, batch)
                outputs = {
                    k: value.float().cpu() if value.is_floating_point() else value.cpu() for k, value in outputs.items()
                }
                start, place = place, place + _count(outputs)
                yield Answer(names[start:place], outputs)

    def _on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield {key: value.to(self.device) for key, value in batch.items()}

    def _encoded(self, blocks: Iterable[Batch], size: int) -> Iterator[Batch]:
        """Run frozen layers in the blocks in which they ran for training, on which last bits hang; give batches."""
        waiting: Batch = {}
        for block in blocks:
            with autocast(self.device, self.options.precision):
                encoded = self.task.encode(self.network, block)
            assert encoded is not None
            waiting = {key: torch.cat([waiting[key], encoded[key]]) for key in encoded} if waiting else encoded
            while _count(waiting) >= size:
                yield {key: value[:size] for key, value in waiting.items()}
                waiting = {key: value[size:] for key, value in waiting.items()}
        if waiting and _count(waiting):
            yield waiting


def embedded(answers: Iterable[Answer], path: Path) -> Iterator[Answer]:
    """Pass answers on, and write the vector that stands for each sample into a .npy file, [N, D].

    Raises:
        UserError: The network gives none.
    """
    with growing_array(path) as append:
        for one in answers:
            if "embedding" not in one.outputs:
                raise UserError("--embeddings: networks of this task give no vector per sample; leave it out")
            append(one.outputs["embedding"].numpy())
            yield one


def open_trained(folder: Path, model: str = "", device: str = "auto") -> Trained:
    """Open the final weights of a run.

    Args:
        folder: A run folder of any setting.
        model: The client whose model it is, for a local run; it may be left out where there is one model only.
        device: As `train.device`.

    Raises:
        UserError: This is no run folder, it has no such final weights, or these do not fit its config.
    """
    status = folder / "status.json"
    if not status.is_file():
        raise UserError(f"{folder}: no run folder, it holds no status.json; name one of results/<task>/")
    experiment = load(folder / "config.yaml", [f"train.device={device}"])
    member = _member(folder, model)
    task = experiment.build_task()
    staying = task.personal() or experiment.federation.batchnorm == "local"
    if staying and read_json(status)["setting"] == "federated":
        raise UserError(
            f"{folder}: parts of this model stayed at the clients, so the run has no whole network; "
            "predict with a centralized or local run"
        )
    fitted = _read_fitted(model_path(folder, member).with_suffix(".json"), task)
    with seeded_torch(experiment.seed, "initial weights"):
        network = task.bare_network(fitted)
    path = model_path(folder, member)
    content = checkpoints.load(path, checkpoints.fingerprint(experiment.task, network, fitted))
    state = content["state"]
    if state.keys() != network.state_dict().keys() or weights_hash(state) != content.get("sha256"):
        raise UserError(f"{path}: not the weights that the run has stored; restore the file, or train anew")
    load_state(network, state)
    target = choose_device(experiment.train.device)
    scores = _scores(folder / "eval_summary.json", member)
    return Trained(task, network.to(target).eval(), fitted, experiment.train, target, scores)


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _names(samples: Samples) -> list[str]:
    names = getattr(samples, "names")  # noqa: B009 - a part of the protocol that only new data must have
    return [str(name) for name in names]


def _member(folder: Path, model: str) -> str | None:
    """Give the client whose model is meant, None for the one model of a run."""
    found = sorted(path.name.removeprefix("model_final").removesuffix(".pt") for path in folder.glob("model_final*.pt"))
    names = [name.removeprefix(".") for name in found]
    if not names:
        raise UserError(f"{folder}: holds no model_final.pt, the run has not ended; go on with --resume {folder}")
    if not model and len(names) > 1:
        raise UserError(f"{folder}: holds one model per client; choose with --model: {', '.join(names)}")
    if model and model not in names:
        choice = f"choose one of {', '.join(names)}" if names != [""] else "leave out --model, the run has one model"
        raise UserError(f"{folder}: --model {model!r}: no such model; {choice}")
    return model or names[0] or None


def _scores(path: Path, member: str | None) -> dict[str, float | None]:
    """Find the scores of a client's own model on its own samples, or of the one model of a run on all of them."""
    rows = read_json(path)["rows"] if path.exists() else []
    own = [row for row in rows if row["data"] == (member or "pooled") and row["model"] == (member or row["model"])]
    return dict(own[0]["metrics"]) if own else {}


def _read_fitted(path: Path, task: Task) -> BaseModel:
    try:
        return task.Fitted.model_validate(read_json(path))
    except ValidationError as error:
        reason = error.errors()[0]
        key = ".".join(map(str, reason["loc"]))
        raise UserError(f"{path}: {key}: {reason['msg']}; restore the file, or train anew") from None
