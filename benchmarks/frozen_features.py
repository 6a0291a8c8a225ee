"""Head-only fine-tuning at the published size: what caching the frozen layers saves, and what travels.

    python -m benchmarks.frozen_features [--cells 6]

Rival: the same run with `train.cache_features=false`, in the same process. Printed are seconds of the second epoch
both ways, their ratio, whether the final weights are equal, the bytes each client exchanges per round against the full
state dict, and peak memory. The backbone has random weights: its size costs the time, not its values.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import typer
from rich.console import Console
from rich.table import Table

from centralized.runner import execute
from core.files import atomic, read_json
from datasets.genes import Vocabulary
from datasets.synthetic.nicheformer import make
from fl.engines import in_process
from training.config import load
from training.memory import peak_memory_mb
from training.runs import Run, Setting

PUBLISHED = "{dim_model: 512, nheads: 16, dim_feedforward: 1024, nlayers: 12, context_length: 1500}"
GENES = 20310


def widen_vocabulary(reference: Path) -> None:
    """Give a synthetic reference folder the size of the published one; the added genes are measured by nobody."""
    names = Vocabulary.read(reference / "model.h5ad").names
    mean = np.load(reference / "xenium_mean_script.npy")
    added = [f"ENSG9{number:010d}" for number in range(GENES - len(names))]
    wide = anndata.AnnData(sp.csr_matrix((1, GENES), dtype=np.float32), var=pd.DataFrame(index=[*names, *added]))
    with atomic(reference / "model.h5ad") as temporary:
        wide.write_h5ad(temporary)
    with atomic(reference / "xenium_mean_script.npy") as temporary:
        np.save(temporary, np.concatenate([mean, np.full(len(added), np.nan)]))


def run(folder: Path, setting: Setting, *overrides: str) -> dict[str, Any]:
    """Train two epochs or rounds and give manifest and history."""
    common = [f"options.data={folder / 'data'}", "options.fine_tune_mode=head_only", "federation.rounds=2"]
    published = [f"options.random_backbone={PUBLISHED}", "options.genes_only=false", "federation.local_epochs=1"]
    experiment = load(Path("configs/nicheformer.yaml"), [*common, *published, "train.batch_size=8", *overrides])
    made = Run.create(folder / f"run-{len(list(folder.iterdir()))}", experiment, setting)
    (in_process if setting == "federated" else execute)(made)
    return {name: read_json(made.folder / f"{name}.json") for name in ("manifest", "history")}


def main(cells: Annotated[int, typer.Option(help="Cells in each of the 21 sections; at least 6")] = 6) -> None:
    """Compare head-only training with and without cached features at the published size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "data", cells_per_section=cells)
        widen_vocabulary(folder / "data" / "reference")
        without = run(folder, "centralized", "train.cache_features=false")
        cached = run(folder, "centralized")
        federated = run(folder, "federated")
    seconds = [one["history"]["steps"][1]["train"]["pooled"]["seconds"] for one in (without, cached)]
    step = federated["history"]["steps"][1]
    full = federated["manifest"]["bytes"]["full_state"]
    table = Table("figure", "value")
    table.add_row(
        "parameters, trainable / total", "{trainable:,} / {total:,}".format(**cached["manifest"]["parameters"])
    )
    table.add_row("training cells", str(cached["manifest"]["budget"]["samples"] // 2))
    table.add_row("second epoch without cache, s", f"{seconds[0]:.2f}")
    table.add_row("second epoch with cache, s", f"{seconds[1]:.4f}")
    table.add_row("ratio", f"{seconds[0] / seconds[1]:.0f}")
    table.add_row(
        "final weights equal", str(without["manifest"]["weights_sha256"] == cached["manifest"]["weights_sha256"])
    )
    for direction in ("up", "down"):
        bytes_ = max(step[f"bytes_{direction}"].values())
        table.add_row(
            f"bytes {direction} per client and round", f"{bytes_:,} = {100 * bytes_ / full:.3f} % of {full:,}"
        )
    table.add_row("peak memory, MB", f"{peak_memory_mb():.0f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
