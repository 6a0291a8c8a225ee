"""Whether memory grows with the number of rounds: 200 rounds of a model of 10 MB, three clients.

Run `python -m benchmarks.memory_over_rounds` from the repository root, with `--engine flower` for a federation on Ray.
Resident memory is sampled every 0.2 s; a round counts with the smallest sample in it, which is what is held from round
to round. Left to itself the C library keeps some of what is freed and scatters resident memory by 50 MB; here it is
told to give arrays back at once (MALLOC_MMAP_THRESHOLD_, Linux only). Printed are, for the server, the workers and all
processes, the means of the first and the last tenth of the rounds after a warm-up, and the slope of a straight line
through them in MB per round. The limit is 1 % of the model per round; exit code 1 above it.
"""

import math
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import Command
from benchmarks.reliability import rounds_of
from core.files import write_text
from core.progress import bar
from fl.engines import Engine

MODEL_MB = 10
HIDDEN = MODEL_MB * 1_000_000 // (8 * 4)
"""Units of the hidden layer: 4 inputs, a bias and 3 outputs each, 4 bytes per weight."""
WARM_UP = 20
LIMIT = 0.01 * MODEL_MB
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "100000"}
WORDS = {"server": "flwr-simulation", "workers": "ClientAppActor"}

Samples = dict[int, dict[str, float]]
"""Round -> group of processes -> smallest resident memory in MB."""


def watch(process: "subprocess.Popen[str]", folder: Path, rounds: int) -> Samples:
    """Sample the memory of a command and all its processes until it ends."""
    samples: Samples = defaultdict(lambda: defaultdict(lambda: math.inf))
    for number in bar(range(1, rounds + 1), rounds, "rounds"):
        while process.poll() is None and rounds_of(folder) < number:
            for group, value in _resident(process.pid).items():
                samples[number][group] = min(samples[number][group], value)
            time.sleep(0.2)
    return samples


def _resident(root: int) -> dict[str, float]:
    """Give group -> MB; in one process the command itself is the server."""
    groups: dict[str, float] = defaultdict(float)
    try:
        processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return groups
    for process in processes:
        try:
            size, words = process.memory_info().rss / 1e6, " ".join(process.cmdline())
        except psutil.Error:
            continue
        groups["all"] += size
        for group, word in WORDS.items():
            groups[group] += size * (word in words)
    return groups


def main(
    engine: Annotated[Engine, typer.Option(help="As for `python -m fl`")] = Engine.inprocess,
    rounds: Annotated[int, typer.Option(help="At least 50.", min=50)] = 200,
) -> None:
    """Run the rounds and print how memory went."""
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as name:
        config = Path(name) / "toy.yaml"
        federation = {"rounds": rounds, "workers": 2}
        options = {"data": "none", "hidden": HIDDEN}
        write_text(config, yaml.safe_dump({"task": "tests.toy_task", "options": options, "federation": federation}))
        words = ("train.batch_size=40",)
        command = Command(config, "toy_task", Path(name) / "results", engine.value, words, GIVE_BACK)
        start = time.perf_counter()
        process = command.start()
        samples = watch(process, command.folder, rounds)
        _, errors = process.communicate()
        if process.returncode:
            raise SystemExit(errors)
        took = time.perf_counter() - start
    kept = [samples[number] for number in sorted(samples) if number > WARM_UP]
    table = Table("processes", "first, MB", "last, MB", "slope, MB per round")
    slopes = {}
    for group in ("all", *WORDS) if engine is Engine.flower else ("all",):
        values = np.asarray([one[group] for one in kept])
        tenth = max(1, len(values) // 10)
        slopes[group] = float(np.polyfit(np.arange(len(values)), values, 1)[0])
        ends = (f"{values[:tenth].mean():.0f}", f"{values[-tenth:].mean():.0f}")
        table.add_row(group, *ends, f"{slopes[group]:.4f}")
    Console().print(
        f"{rounds} rounds of {MODEL_MB} MB, {engine.value}, {took:.0f} s; limit {LIMIT} MB per round", table
    )
    raise typer.Exit(int(max(slopes.values()) > LIMIT))


if __name__ == "__main__":
    typer.run(main)
