"""The one evaluation loop: every task, every setting."""

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from core.progress import bar
from training.config import Train
from training.device import autocast
from training.loading import load_batches, ordered_batches
from training.metrics import Metrics
from training.task import Batch, Samples, Task


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one network on one set, with the predictions per sample."""

    metrics: Metrics
    predictions: dict[str, np.ndarray]


def evaluate(
    task: Task, network: nn.Module, samples: Samples, fitted: BaseModel, options: Train, device: torch.device
) -> Evaluation:
    """Run a network over samples in order, without learning.

    Args:
        task: Gives forward pass, loss, metrics and predictions.
        network: Put into evaluation mode; on `device`.
        samples: A split of a client, a pool, or the held-out set; may be empty.
        fitted: What was fitted on training data.
        options: The `train` section.
        device: Where the network is.
    """
    metrics = Metrics(task.metrics(fitted))
    stored: list[Batch] = []
    network.eval()
    batches = ordered_batches(len(samples), options.eval_batch_size)[: options.limit_batches]
    with torch.inference_mode():
        loaded = load_batches(samples, batches, options.loader_workers, 0, "evaluation")
        for batch in bar(loaded, len(batches), "evaluation"):
            with autocast(device, options.precision):
                outputs = task.forward(network, {key: value.to(device) for key, value in batch.items()})
            outputs = {
                key: value.float().cpu() if value.is_floating_point() else value.cpu() for key, value in outputs.items()
            }
            metrics.add_loss(task.loss(outputs, batch))
            task.observe(metrics.collection, outputs, batch)
            stored.append(task.predictions(outputs, batch))
    predictions: dict[str, np.ndarray] = (
        {key: torch.cat([part[key] for part in stored]).numpy() for key in stored[0]} if stored else {}
    )
    names = getattr(samples, "names", None)
    if names is not None:
        predictions["sample"] = np.asarray(names)[: metrics.count]
    return Evaluation(metrics, predictions)
