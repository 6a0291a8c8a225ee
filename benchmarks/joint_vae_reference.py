"""Every type of joint VAE on a pair of platforms with recorded scores, trained through the house.

    python -m benchmarks.joint_vae_reference FOLDER [--seeds 0 --seeds 1] [--only JointVQ]

`FOLDER` holds `platform_a.csv`, `platform_b.csv` and `results.json`: how the recorded networks were trained (`data`,
`training`), and under `runs` their blocks and the test correlation of each seed. Each is trained anew as a centralized
run of one client, with the options that stand there, the weights of the last epoch and imputation by posterior means.
Below stand the same types with the options that correct faults of the recorded implementation, and methods without a
network. Printed is the mean correlation per feature over the test samples, averaged over seeds; what falls short of the
recorded figure by more than 0.02 ends the command with exit code 1.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from centralized.runner import execute
from core.commands import one_line_errors
from core.errors import UserError
from core.files import read_json
from core.progress import bar
from training.config import load
from training.layers import merge
from training.runs import Run

BAND = 0.02
CROSSED = ("cross_a", "cross_b")
AUGMENTED = ("joint_vae", "JointMM")
"""Types that add noise to training batches."""
WITHOUT = {"ridge": "ridge_alpha10", "knn": "knn_k10_distance", "wnn": None}
"""Method without a network -> the recorded run it is set beside."""

Pair = tuple[float, float]
"""Mean correlation of platform A from B, and of B from A."""


@dataclass(frozen=True)
class Variant:
    """A recorded network with other options."""

    recorded: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


CORRECTED = {
    "joint_vae, mmd_median, clean targets": Variant(
        "joint_vae",
        {
            "loss_weights": {"alignment_type": "mmd_median"},
            "training": {"data_augmentation": {"target": "clean"}},
        },
    ),
    "joint_vae_plus, flows in the divergence, limited TC": Variant(
        "joint_vae_plus", {"model": {"flow_determinant": True, "clamp_tc_logvar": True}}
    ),
    "JointVAEVampPrior, pseudo-inputs that learn": Variant(
        "JointVAEVampPrior_on", {"model": {"train_pseudoinputs": True}}
    ),
    "JointVQ, 8 codebooks, averages, restarts": Variant(
        "JointVQ", {"model": {"num_codebooks": 8, "codebook_update": "ema", "restart_after": 20}}
    ),
    "generative_vae, diffusion, right variance and noise, 300 epochs": Variant(
        "generative_diffusion",
        {"model": {"decoder": {"posterior_variance": "correct", "scale_betas": True}}},
        {"epochs": 300},
    ),
    "generative_vae, autoregressive, strict masks, teacher forced": Variant(
        "generative_autoregressive", {"model": {"decoder": {"strict_masks": True, "cross_loss": "teacher_forced"}}}
    ),
    "generative_vae, gan": Variant("generative_autoregressive", {"model": {"decoder_type": "gan"}}),
}


def described(folder: Path) -> dict[str, Any]:
    """Read what was recorded.

    Raises:
        UserError: The file lacks a part.
    """
    path = folder / "results.json"
    recorded = read_json(path)
    missing = {"data", "training", "runs", "seeds"} - set(recorded)
    if missing:
        raise UserError(f"{path}: {sorted(missing)[0]}: missing; give a folder with recorded runs")
    return dict(recorded)


def settings(folder: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Give the config that all recorded runs share."""
    data, training = recorded["data"], recorded["training"]
    return {
        "task": "joint_vae",
        "options": {
            "data": str(folder),
            "partition": {"name": "evenly", "clients": 1},
            "fractions": [data["train_split"], data["val_split"], data["test_split"]],
            "split_seed": data["random_seed"],
            "preparation": {key: data[key] for key in ("missing_value_strategy", "normalization_method")},
        },
        "train": {
            "lr": training["learning_rate"],
            "batch_size": training["batch_size"],
            "epochs": training["max_epochs"],
            "optimizer": training["optimizer"],
            "clip_grad_norm": training["gradient_clip_val"],
            "schedule": "constant",
            "select": "last",
        },
        "federation": {"local_epochs": training["max_epochs"]},  # Validated once, since nothing is selected.
    }


def config_of(shared: Mapping[str, Any], recorded: Mapping[str, Any], variant: Variant, seed: int) -> dict[str, Any]:
    """Give the config of a recorded network with other options."""
    run = recorded["runs"][variant.recorded]
    noise = {"data_augmentation": recorded["training"]["data_augmentation"]} if run["model_type"] in AUGMENTED else {}
    model = {"model_type": run["model_type"], **run["model"]}
    if "decoder_type" in variant.options.get("model", {}):
        del model["decoder"]  # It describes the recorded kind.
    own: dict[str, Any] = {"model": model, "loss_weights": run["loss_weights"], "training": noise}
    return merge(shared, {"options": merge(own, variant.options), "train": variant.train, "seed": seed})


def trained(folder: Path, config: Mapping[str, Any]) -> dict[str, Pair]:
    """Train a network; give its scores as `network`, and those of the methods without one."""
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    run = Run.create(folder, load(path), "centralized")
    with contextlib.redirect_stdout(io.StringIO()):
        execute(run)
    rows = [{**row, "model": "network"} for row in read_json(folder / "eval_summary.json")["rows"]]
    if (folder / "baselines.json").exists():
        rows += read_json(folder / "baselines.json")["rows"]
    return {
        row["model"]: (row["metrics"]["cross_a_corr_mean"], row["metrics"]["cross_b_corr_mean"])
        for row in rows
        if row["data"] == "pooled"
    }


def known(run: Mapping[str, Any] | None) -> Pair | None:
    """Give the recorded scores, the mean over seeds; None where nothing was recorded."""
    if run is None:
        return None
    first, second = (
        mean(np.atleast_1d(run["test"].get(f"mean_{part}", run["test"].get(part))["corr_mean"])) for part in CROSSED
    )
    return float(first), float(second)


def averaged(pairs: Sequence[Pair]) -> Pair:
    """Give the mean over seeds."""
    return mean(first for first, _ in pairs), mean(second for _, second in pairs)


def scored(folder: Path, seeds: Sequence[int], only: str) -> Iterator[tuple[str, Pair | None, Pair]]:
    """Train everything whose name holds `only`; give name, recorded scores and own ones."""
    recorded = described(folder)
    runs, shared = recorded["runs"], settings(folder.resolve(), recorded)
    networks = {name: Variant(name) for name, run in runs.items() if "model_type" in run} | CORRECTED
    chosen = {name: variant for name, variant in networks.items() if only in name}
    jobs = [(name, seed) for name in chosen for seed in seeds]
    found: dict[str, list[Pair]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as place:
        for number, (name, seed) in enumerate(bar(jobs, len(jobs), "training")):
            config = config_of(shared, recorded, networks[name], seed)
            found[name].append(trained(Path(place) / str(number), config)["network"])
            if len(found[name]) == len(seeds):
                yield name, known(runs[networks[name].recorded]), averaged(found[name])
        if not only:
            beside = Variant("joint_vae", {"compare_with": [*WITHOUT]}, {"epochs": 1})
            scores = trained(Path(place) / "without", config_of(shared, recorded, beside, 0))
            yield from ((name, known(runs.get(recorded)), scores[name]) for name, recorded in WITHOUT.items())


def main(
    folder: Path,
    seeds: Annotated[list[int] | None, typer.Option(help="Of weights, batches and noise; by default 0")] = None,
    only: Annotated[str, typer.Option(help="Part of the names of what to train; by default all")] = "",
) -> None:
    """Train every type of joint VAE and compare with what was recorded."""
    warnings.filterwarnings("ignore", message=".*no effect with this model type")
    table = Table("type", "recorded A from B / B from A", "ours", "difference", box=box.MARKDOWN)
    below = 0
    with one_line_errors():
        for name, recorded, ours in scored(folder, seeds or [0], only):
            gap = [own - other for own, other in zip(ours, recorded, strict=True)] if recorded else []
            below += any(difference < -BAND for difference in gap)
            cells = ["{:.3f} / {:.3f}".format(*pair) if pair else "" for pair in (recorded, ours)]
            table.add_row(name, *cells, "{:+.3f} / {:+.3f}".format(*gap) if gap else "")
            print(name, *cells, flush=True)
    Console(width=160).print(table)
    raise typer.Exit(1 if below else 0)


if __name__ == "__main__":
    typer.run(main)
