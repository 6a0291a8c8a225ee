"""Small studies on two platforms, experiments on them, and the model types in a small shape."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import yaml

from datasets.synthetic import joint_vae
from tests.conftest import Finished, conduct
from training.config import Experiment, load
from training.preparation import complete
from training.runs import Run
from training.task import Task

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "joint_vae.yaml"
ONE_PLATFORM = "hospital_coast"
PAIRED = ["hospital_north", "hospital_south", "hospital_west"]
CLIENTS = [ONE_PLATFORM, *PAIRED]
SHORT = ["federation.rounds=2", "federation.local_epochs=1", "train.batch_size=16"]

STACK: dict[str, Any] = {"latent_dim": 8, "encoder_layers": [16], "decoder_layers": [16]}
MODELS: dict[str, dict[str, Any]] = {
    "joint_vae": {"model_type": "joint_vae", **STACK},
    "JointMM": {"model_type": "JointMM", **STACK, "use_mmvae": True},
    "JointVAEVampPrior": {
        "model_type": "JointVAEVampPrior",
        **STACK,
        "use_vampprior": True,
        "num_pseudoinputs": 5,
        "train_pseudoinputs": True,
    },
    "JointIWAE": {"model_type": "JointIWAE", **STACK, "k_samples": 2},
    "joint_vae_plus": {"model_type": "joint_vae_plus", **STACK, "num_flows": 2, "kl_cycle_length": 6},
    "JointVQ": {"model_type": "JointVQ", "latent_dim": 8, "num_embeddings": 16, "restart_after": 2},
    "JointVQ, averages": {
        "model_type": "JointVQ",
        "latent_dim": 8,
        "num_embeddings": 16,
        "codebook_update": "ema",
        "restart_after": 2,
    },
    "res_unet": {"model_type": "res_unet", "encoder_layers": [16, 8], "bottleneck_dim": 4},
    "diffusion": {
        "model_type": "generative_vae",
        "decoder_type": "diffusion",
        "latent_dim": 8,
        "decoder": {"n_timesteps": 4, "chains": 2, "scale_betas": True, "posterior_variance": "correct"},
    },
    "autoregressive": {
        "model_type": "generative_vae",
        "decoder_type": "autoregressive",
        "latent_dim": 8,
        "decoder": {"hidden_dim": 24, "strict_masks": True, "cross_loss": "teacher_forced"},
    },
    "gan": {"model_type": "generative_vae", "decoder_type": "gan", "latent_dim": 8},
}
WITH_LATENT = [name for name in MODELS if name != "res_unet"]


def made(folder: Path, scale: float = 0.25) -> Path:
    """Make a study with few samples."""
    joint_vae.make(folder, scale=scale)
    return folder


def without(study: Path, client: str, folder: Path) -> Path:
    """Copy a study but for one client."""
    return Path(shutil.copytree(study, folder, ignore=shutil.ignore_patterns(client, ".cache")))


def of_type(name: str, **blocks: Any) -> list[str]:
    """Give the overrides that choose a model type, with the defaults of its loss unless others are given."""
    blocks = {"model": MODELS[name], "loss_weights": {}, "training": {}, **blocks}
    pairs = ["options.keep_unpaired=false"] if name == "res_unet" else []
    return [
        *pairs,
        *(f"options.{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in blocks.items()),
    ]


def experiment(data: Path, *overrides: str) -> Experiment:
    """Load the experiment of the project, on a study and short."""
    return load(CONFIG, [f"options.data={data}", "options.compare_with=[]", *SHORT, *overrides])


def run(folder: Path, data: Path, setting: str, *overrides: str) -> Finished:
    """Run it to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Samples that are left out are counted elsewhere.
        started = Run.create(folder, experiment(data, *overrides), setting)  # type: ignore[arg-type]
        conduct(started)
    return Finished(started.folder)


def fitted(task: Task, *clients: str) -> Any:
    """Fit the preprocessing on some clients, as their own, with what all agree on; by default on all."""

    def merged(names: tuple[str, ...]) -> Any:
        first = {name: task.statistics(name) for name in names}
        return complete(task, first, lambda known: {name: task.further_statistics(name, known) for name in names})

    everyone = merged(tuple(task.clients()))
    return task.fit(merged(clients) if clients else everyone, everyone)
