"""How long tokenizing takes and how much memory: expressed entries only, against dense rows of the vocabulary.

Run `python -m benchmarks.tokenizer` from the repository root. Every way runs in a process of its own, on the same
made-up cells: a panel of 248 genes out of a vocabulary of 20,310. "dense, nonzero" follows the published steps (align
1,000 cells to the whole vocabulary, score, sort the scores that are not 0); "dense, whole row" sorts all 20,310.
"""

import functools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import typer
from rich.console import Console
from rich.table import Table

from core.randomness import generator
from datasets.nicheformer import FIRST_GENE, TARGET_SUM, select_columns, tokenize

N_VOCABULARY = 20_310
N_PANEL = 248
MAX_SEQ_LEN = 1500
CHUNK = 1000

Tokens = npt.NDArray[np.int32]


def _data(cells: int) -> tuple[sp.csr_matrix, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Make counts of a panel, the vocabulary places of its genes, and a technology mean."""
    random = generator(0, "benchmark")
    shares_V = random.lognormal(0.0, 1.0, N_PANEL)
    shares_V *= 200 / shares_V.sum()
    parts = [random.poisson(shares_V, (min(CHUNK, cells - first), N_PANEL)) for first in range(0, cells, CHUNK)]
    counts = sp.vstack([sp.csr_matrix(part.astype(np.float32)) for part in parts], format="csr")
    places = random.choice(N_VOCABULARY, N_PANEL, replace=False)
    return sp.csr_matrix(counts), places, random.uniform(48, 975, N_VOCABULARY)


def _sparse(counts: sp.csr_matrix, places: npt.NDArray[np.int64], mean_G: npt.NDArray[np.float64]) -> Tokens:
    return tokenize(select_columns(counts, places, N_VOCABULARY), mean_G, MAX_SEQ_LEN)


def _dense(
    whole_row: bool, counts: sp.csr_matrix, places: npt.NDArray[np.int64], mean_G: npt.NDArray[np.float64]
) -> Tokens:
    tokens_NL = np.zeros((counts.shape[0], MAX_SEQ_LEN), dtype=np.int32)
    for first in range(0, counts.shape[0], CHUNK):
        aligned = np.zeros((min(CHUNK, counts.shape[0] - first), N_VOCABULARY))
        aligned[:, places] = counts[first : first + CHUNK].toarray()
        sums = aligned.sum(axis=1, keepdims=True)
        sums[sums == 0] = 1
        scores = aligned / sums * TARGET_SUM / mean_G
        for row, score in enumerate(scores):
            expressed = np.arange(N_VOCABULARY) if whole_row else np.flatnonzero(score)
            order = expressed[np.argsort(-score[expressed], kind="stable")][: np.count_nonzero(score)][:MAX_SEQ_LEN]
            tokens_NL[first + row, : len(order)] = order + FIRST_GENE
    return tokens_NL


WAYS: dict[str, Callable[..., Tokens]] = {
    "expressed entries": _sparse,
    "dense, nonzero": functools.partial(_dense, False),
    "dense, whole row": functools.partial(_dense, True),
}


def _measure(way: str, cells: int) -> dict[str, Any]:
    """Run one way in this process: seconds, peak memory in MiB, and a sum to compare results."""
    data = _data(cells)
    unit = 1024**2 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    start = time.perf_counter()
    tokens_NL = WAYS[way](*data)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    weights = np.arange(1, MAX_SEQ_LEN + 1, dtype=np.int64)
    checksum = int(sum(int((part.astype(np.int64) @ weights).sum()) for part in np.array_split(tokens_NL, 50)))
    return {"seconds": seconds, "before": before, "peak": peak, "checksum": checksum}


def main(
    cells: Annotated[int, typer.Option(help="Number of cells.")] = 50_000,
    way: Annotated[str | None, typer.Option(help="Run one way only, in this process, and print JSON.")] = None,
) -> None:
    """Print seconds and peak memory (MiB) of every way, and their ratio to ours."""
    if way is not None:
        typer.echo(json.dumps(_measure(way, cells)))
        return
    results = {}
    for name in WAYS:
        command = [sys.executable, "-m", "benchmarks.tokenizer", "--cells", str(cells), "--way", name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        results[name] = json.loads(done.stdout)
    ours = results["expressed entries"]
    result = cells * MAX_SEQ_LEN * 4 / 1024**2
    title = f"{cells:,} cells x {N_PANEL} genes; peak memory includes {result:,.0f} MiB of tokens"
    table = Table("way", "seconds", "ratio", "MiB before", "peak MiB", "ratio", "same tokens", title=title)
    for name, figures in results.items():
        slower, larger = (f"{figures[key] / ours[key]:.1f}" for key in ("seconds", "peak"))
        memory = (f"{figures['before']:,.0f}", f"{figures['peak']:,.0f}", larger)
        same = "yes" if figures["checksum"] == ours["checksum"] else "NO"
        table.add_row(name, f"{figures['seconds']:.2f}", slower, *memory, same)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
