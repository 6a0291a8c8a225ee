"""An epoch of the house's training loop against a plain PyTorch loop, at the published size of joint_vae.

    python -m benchmarks.joint_vae_epoch [--epochs 5 --samples 3180 --threads 1]

Network of 2,168 and 2,731 features, 128 latent dimensions, encoder [1024], decoder [512], residual, batches of 256
made-up samples in memory. Rival: a loop of forward pass, backward pass, clipping and step over the same network, with
the same batches, noise and optimizer. Both train in turn, an epoch each, and end with equal weights, which is checked.
Printed are medians over epochs of the time on the clock and of processor time, and of the ratios of neighbours.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from core.randomness import seeded_torch, torch_generator
from models.joint_vae import build
from models.joint_vae.base import CrossPlatformModel
from training.config import Experiment, load
from training.device import threads as limited_threads
from training.engine import Trainer
from training.loading import InMemory, shuffled_batches
from training.optimizers import build_optimizer
from training.task import Batch

WIDTHS = {"a": 2168, "b": 2731}
CLIENT, SEED = "everyone", 42
PUBLISHED = (
    "options.model.latent_dim=128",
    "options.model.encoder_layers=[1024]",
    "options.model.decoder_layers=[512]",
    "train.batch_size=256",
    "train.schedule=constant",
)


def made_up(count: int) -> Batch:
    """Make scaled samples on both platforms, which share a few factors."""
    generator = torch_generator(SEED, "samples")
    factors = torch.randn(count, 16, generator=generator)
    values: Batch = {}
    for platform, width in WIDTHS.items():
        signal = factors @ torch.randn(16, width, generator=generator) / 4
        values[platform] = (signal + torch.randn(count, width, generator=generator)) / 2**0.5
    everyone = torch.ones(count, dtype=torch.bool)
    return {**values, "has_a": everyone, "has_b": everyone.clone()}


def fresh(experiment: Experiment) -> CrossPlatformModel:
    """Build the network, always with the same weights."""
    options = experiment.options
    config = {name: options[name] for name in ("model", "loss_weights", "training")}
    with seeded_torch(SEED, "initial weights"):
        return build("joint_vae", WIDTHS["a"], WIDTHS["b"], config)


def plain_loop(network: CrossPlatformModel, samples: Batch, experiment: Experiment) -> Callable[[int], float]:
    """Give a function that trains an epoch the way a script would, and gives the mean loss."""
    train = experiment.train
    optimizer = build_optimizer(train.optimizer, network, train.lr, {})

    def epoch(number: int) -> float:
        network.train()
        total, count = 0.0, len(samples["a"])
        with seeded_torch(SEED, "layers", CLIENT, number):
            for indices in shuffled_batches(count, train.batch_size, SEED, CLIENT, number):
                rows = torch.as_tensor(indices)
                loss = network(samples["a"][rows], samples["b"][rows])["total_loss"]
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), train.clip_grad_norm or 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                total += loss.item() * len(indices)
        return total / count

    return epoch


def house_loop(network: CrossPlatformModel, samples: Batch, experiment: Experiment) -> Callable[[int], float]:
    """Give a function that trains an epoch the way the house does, and gives the mean loss."""
    held = InMemory(samples)
    trainer = Trainer(
        experiment.build_task(),
        network,
        experiment.train,
        seed=SEED,
        client=CLIENT,
        epochs=1000,
        device=torch.device("cpu"),
    )
    return lambda number: trainer.run_epoch(held, number).losses["loss"]


def main(
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each, after one that is not counted")] = 5,
    samples: Annotated[int, typer.Option(min=2, help="Training samples")] = 3180,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 1,
) -> None:
    """Compare the epoch times of both loops."""
    experiment = load(Path("configs/joint_vae.yaml"), [*PUBLISHED, "options.data=unused"])
    batch = made_up(samples)
    networks = {"plain": fresh(experiment), "house": fresh(experiment)}
    loops = {
        "plain": plain_loop(networks["plain"], batch, experiment),
        "house": house_loop(networks["house"], batch, experiment),
    }
    clock: dict[str, list[float]] = {name: [] for name in loops}
    processor: dict[str, list[float]] = {name: [] for name in loops}
    with limited_threads(threads):
        for number in range(epochs + 1):
            for name in sorted(loops, reverse=number % 2 == 1):
                starts = time.perf_counter(), time.process_time()
                loops[name](number)
                clock[name].append(time.perf_counter() - starts[0])
                processor[name].append(time.process_time() - starts[1])
    equal = all(map(torch.equal, networks["plain"].state_dict().values(), networks["house"].state_dict().values()))
    title = f"{samples} samples, {epochs} epochs, {threads} threads; final weights {'equal' if equal else 'DIFFER'}"
    table = Table("seconds per epoch", "plain", "house", "ratio, median", "ratios", title=title)
    for name, seconds in (("on the clock", clock), ("of the processor", processor)):
        ratios = [house / plain for house, plain in zip(seconds["house"][1:], seconds["plain"][1:], strict=True)]
        medians = (f"{median(seconds[loop][1:]):.2f}" for loop in ("plain", "house"))
        table.add_row(name, *medians, f"{median(ratios):.3f}", " ".join(f"{ratio:.2f}" for ratio in sorted(ratios)))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
