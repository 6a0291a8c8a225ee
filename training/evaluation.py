"""The one evaluation loop: every task, every setting."""

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from core.progress import bar
from training.config import Train
from training.device import autocast
from training.distributed import ALONE, Group
from training.loading import load_batches, ordered_batches
from training.metrics import Metrics
from training.task import Batch, Samples, Task


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one network on one set, with the predictions per sample."""

    metrics: Metrics
    predictions: dict[str, np.ndarray]


def evaluate(
    task: Task,
    network: nn.Module,
    samples: Samples,
    fitted: BaseModel,
    options: Train,
    device: torch.device,
    group: Group = ALONE,
) -> Evaluation:
    """Run a network over samples in order, without learning.

    Several processes take turns at the batches and exchange what came of them, so each sample counts once and all of
    them get the whole evaluation.

    Args:
        task: Gives forward pass, loss, metrics and predictions.
        network: Put into evaluation mode; on `device`.
        samples: A split of a client, a pool, or the held-out set; may be empty.
        fitted: What was fitted on training data.
        options: The `train` section.
        device: Where the network is.
        group: The processes that evaluate together.
    """
    metrics = Metrics(task.metrics(fitted))
    stored: list[Batch] = []
    network.eval()
    batches = ordered_batches(samples, options.eval_batch_size)[: options.limit_batches]
    own = batches[group.rank :: group.size]
    with torch.inference_mode():
        loaded = load_batches(samples, own, options.loader_workers, 0, "evaluation")
        for batch in bar(loaded, len(own), "evaluation"):
            with autocast(device, options.precision):
                outputs = task.forward(network, {key: value.to(device) for key, value in batch.items()})
            outputs = {
                key: value.float().cpu() if value.is_floating_point() else value.cpu() for key, value in outputs.items()
            }
            metrics.add_loss(task.loss(outputs, batch))
            task.observe(metrics.collection, outputs, batch)
            stored.append(task.predictions(outputs, batch))
    if group.size > 1:
        metrics, stored = _joined(Metrics(task.metrics(fitted)), metrics, stored, len(batches), group)
    return Evaluation(metrics, _predictions(stored, samples, metrics.count))


def _predictions(stored: list[Batch], samples: Samples, count: int) -> dict[str, np.ndarray]:
    """Join what was stored of the batches, with the ids and units of the samples where they have some."""
    predictions: dict[str, np.ndarray] = (
        {key: torch.cat([part[key] for part in stored]).numpy() for key in stored[0]} if stored else {}
    )
    for key, attribute in {"sample": "names", "unit": "units"}.items():
        if (texts := getattr(samples, attribute, None)) is not None:
            predictions[key] = np.asarray(texts)[:count]
    return predictions


def _joined(
    fresh: Metrics, own: Metrics, stored: list[Batch], batches: int, group: Group
) -> tuple[Metrics, list[Batch]]:
    """Merge the metrics of all processes, and put their predictions back in the order of the batches."""
    everyone = group.gather((own.states(), stored))
    for states, _ in everyone:
        fresh.merge(states)
    return fresh, [everyone[number % group.size][1][number // group.size] for number in range(batches)]
