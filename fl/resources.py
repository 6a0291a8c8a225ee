"""How many clients train at the same time, and with what share of the machine."""

import math
import os
from collections.abc import Iterator, Sequence

import torch

from fl.launcher import Resources
from training.config import Experiment
from training.device import choose_device
from training.engine import Trainer
from training.federation import Federation
from training.loading import InMemory, fetch
from training.preparation import build_network, open_client
from training.runs import Run
from training.statistics import merge_statistics
from training.task import Task

CONTEXT_BYTES = 600 * 1024**2
"""What a CUDA context takes on the card before the first tensor."""
HEADROOM = 1.2
"""Factor on the measured peak, for fragmentation and larger batches elsewhere."""


def choose_resources(run: Run, task: Task, clients: Sequence[str]) -> Resources:
    """Choose nodes, cores and GPU share of a simulated federation, and say so in the log."""
    experiment = run.experiment
    options = experiment.federation
    gpus = gpu_share(experiment, task, clients)
    cores = os.cpu_count() or 1
    sampled = min(options.clients_per_round or len(clients), len(clients))
    fitting = max(1, cores // options.cpus_per_client)
    if gpus:
        per_card = int(1 / gpus + 1e-9)  # A share cannot span two cards.
        fitting = min(fitting, torch.cuda.device_count() * per_card)
    workers = min(options.workers or fitting, fitting, sampled)
    source = "measured" if options.gpus_per_client == "auto" else "as configured"
    run.log(
        f"{workers} of {sampled} clients at a time, each with {options.cpus_per_client} cores and "
        f"{gpus:g} GPU ({source if gpus else 'training runs on the CPU'})"
    )
    return Resources(nodes=workers, cpus=options.cpus_per_client, gpus=gpus)


def idle_in_process(options: Federation) -> Iterator[str]:
    """Say which options about resources have no effect where server and clients share one process."""
    for key in ("workers", "cpus_per_client", "gpus_per_client"):
        value = getattr(options, key)
        if value != Federation.model_fields[key].default:
            yield f"federation.{key} = {value}: has no effect with --engine inprocess, where clients take turns"


def gpu_share(experiment: Experiment, task: Task, clients: Sequence[str]) -> float:
    """Give the share of a GPU that a client needs; 0 where training does not run on CUDA."""
    device = choose_device(experiment.train.device)
    if device.type != "cuda":
        return 0.0
    asked = experiment.federation.gpus_per_client
    if asked != "auto":
        return asked
    peak = peak_step_bytes(experiment, task, clients, device)
    total = torch.cuda.get_device_properties(device).total_memory
    return min(1.0, math.ceil(100 * (peak * HEADROOM + CONTEXT_BYTES) / total) / 100)


def peak_step_bytes(experiment: Experiment, task: Task, clients: Sequence[str], device: torch.device) -> int:
    """Measure the peak memory of one training step on the batch shape of the largest client."""
    statistics = merge_statistics({client: task.statistics(client) for client in clients})
    fitted = task.fit(statistics, statistics)
    network = build_network(task, fitted, experiment.seed).to(device)
    client = max(clients, key=lambda name: task.describe(name)["train"])
    samples = open_client(task, client, fitted, network, experiment, device).train
    batch = fetch(samples, range(min(len(samples), experiment.train.batch_size)))
    torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(task, network, experiment.train, seed=experiment.seed, client=client, epochs=1, device=device)
    trainer.run_epoch(InMemory(batch), 0)
    peak = torch.cuda.max_memory_allocated(device)
    del trainer, network
    torch.cuda.empty_cache()
    return peak
