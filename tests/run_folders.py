"""Synthetic run folders with known numbers: three clients, two classes, ten test samples each, twenty held out.

Two more kinds: nuclei, six crops each, and tiles with four genes of which the last is constant at client `cyd`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, mean_squared_error

from reports.comparison import Comparison, compare
from reports.run_folder import RunRecord

CLIENTS = ["ada", "bob", "cyd"]
CLASSES = ["a", "b"]
SIZE = {"ada": 10, "bob": 10, "cyd": 10, "held_out": 20}
HITS: dict[str, list[dict[str, dict[str, int]]]] = {
    "centralized": [
        {"centralized": {"ada": 9, "bob": 8, "cyd": 9, "held_out": 18}},
        {"centralized": {"ada": 10, "bob": 8, "cyd": 7, "held_out": 16}},
    ],
    "federated": [
        {"federated": {"ada": 8, "bob": 8, "cyd": 9, "held_out": 16}},
        {"federated": {"ada": 8, "bob": 7, "cyd": 9, "held_out": 16}},
    ],
    "local": [
        {
            "ada": {"ada": 6, "bob": 5, "cyd": 5, "held_out": 12},
            "bob": {"ada": 4, "bob": 9, "cyd": 5, "held_out": 10},
            "cyd": {"ada": 5, "bob": 5, "cyd": 7, "held_out": 14},
        },
        {
            "ada": {"ada": 6, "bob": 5, "cyd": 5, "held_out": 10},
            "bob": {"ada": 4, "bob": 9, "cyd": 5, "held_out": 10},
            "cyd": {"ada": 5, "bob": 5, "cyd": 5, "held_out": 10},
        },
    ],
}
"""Setting -> seed -> model -> test set -> samples it gets right."""

Predicted = tuple[np.ndarray, np.ndarray]


def predicted(hits: int, size: int) -> Predicted:
    """Alternate the classes and get the last `hits` of `size` samples right."""
    target = np.arange(size) % 2
    return target, np.where(np.arange(size) < size - hits, 1 - target, target)


def scores(pair: Predicted, classes: list[str]) -> dict[str, Any]:
    target, guess = pair
    accuracy = float(np.mean(target == guess))
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (target, guess), 1)
    return {
        "support": len(target),
        "metrics": {
            "loss": 1 - accuracy,
            "accuracy": accuracy,
            "f1_macro": float(f1_score(target, guess, average="macro")),
        },
        "arrays": {"confusion_matrix": matrix.tolist()},
    }


def known_pairs(setting: str, seed: int) -> dict[tuple[str, str], Predicted]:
    return {
        (model, data): predicted(hits, SIZE[data])
        for model, sets in HITS[setting][seed].items()
        for data, hits in sets.items()
    }


def write_run(
    folder: Path,
    setting: str,
    seed: int = 0,
    *,
    pairs: Mapping[tuple[str, str], Predicted] | None = None,
    clients: list[str] = CLIENTS,
    classes: list[str] = CLASSES,
    primary: str = "accuracy",
    **changes: Any,
) -> Path:
    """Write a run folder; `manifest`, `config` and `status` replace entries of the default ones."""
    pairs = known_pairs(setting, seed) if pairs is None else pairs
    rows = [{"model": m, "data": d, "split": "test", **scores(pair, classes)} for (m, d), pair in pairs.items()]
    own = [pairs[client if setting == "local" else setting, client] for client in clients]
    pooled = (np.concatenate([one[0] for one in own]), np.concatenate([one[1] for one in own]))
    rows.append({"model": setting, "data": "pooled", "split": "test", **scores(pooled, classes)})
    stored = {
        (model, data): {"sample": sample_names(data, len(target)), "target": target, "predicted": guess}
        for (model, data), (target, guess) in pairs.items()
    }
    head = {"primary": primary, "classes": classes, "clients": clients}
    directions = {"loss": False, "accuracy": True, "f1_macro": True}
    return write_folder(
        folder, setting, seed, {**head, "higher_is_better": directions, "rows": rows}, stored, **changes
    )


def write_nuclei(folder: Path, setting: str, seed: int = 0, crops: int = 6, **changes: Any) -> Path:
    """Write a run of a classifier of nuclei: of nucleus n, all crops have class n mod 2 and nucleus 1 is mistaken.

    Of the other nuclei the first crop is wrong too, with little probability, so that the mean of the crops is right.
    """
    stored: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for model in models(setting):
        for data in (*CLIENTS, "held_out"):
            nuclei = np.arange(SIZE[data]).repeat(crops)
            target = nuclei % 2
            wrong = (nuclei == 1) | (np.arange(len(nuclei)) % crops == 0)
            guess = np.where(wrong, 1 - target, target)
            share = np.where(wrong & (nuclei != 1), 0.55, 0.8)
            probabilities = np.where(np.arange(2) == guess[:, None], share[:, None], 1 - share[:, None])
            unit = np.array([f"nucleus {number}" for number in nuclei])
            names = sample_names(data, len(target))
            stored[model, data] = {"sample": names, "unit": unit, "target": target, "predicted": guess}
            stored[model, data]["scores"] = probabilities.astype(np.float32)
    rows = [score_row(place, scores((one["target"], one["predicted"]), CLASSES)) for place, one in stored.items()]
    own = [stored[client if setting == "local" else setting, client] for client in CLIENTS]
    pooled = tuple(np.concatenate([one[key] for one in own]) for key in ("target", "predicted"))
    rows.append(score_row((setting, "pooled"), scores((pooled[0], pooled[1]), CLASSES)))
    head = {"primary": "f1_macro", "classes": CLASSES, "clients": CLIENTS, "axis": "class"}
    directions = {"loss": False, "accuracy": True, "f1_macro": True}
    return write_folder(
        folder, setting, seed, {**head, "higher_is_better": directions, "rows": rows}, stored, **changes
    )


def write_genes(folder: Path, setting: str, seed: int = 0, genes: int = 4, tiles: int = 8, **changes: Any) -> Path:
    """Write a run of a regression: `tiles` of every patient, signal strongest in the first gene, last one constant."""
    names = [f"gene {number}" for number in range(genes)]
    strength = {"centralized": 1.5, "federated": 1.2, "local": 0.8}[setting]
    stored: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for data in (*CLIENTS, "held_out"):
        draw = np.random.default_rng([seed, ord(data[0])])
        target = draw.normal(size=(SIZE[data] * tiles, genes))
        target[:, -1] = 1.0 if data == "cyd" else target[:, -1]
        for model in models(setting):
            noise = draw.normal(size=target.shape) * np.linspace(0.4, 2.0, genes)
            unit = np.array([f"patient {number}" for number in np.arange(SIZE[data]).repeat(tiles)])
            values = {"target": target.astype(np.float32), "predicted": (strength * target + noise).astype(np.float32)}
            stored[model, data] = {"sample": sample_names(data, len(target)), "unit": unit, **values}
    rows = [score_row(place, gene_scores(one["target"], one["predicted"])) for place, one in stored.items()]
    own = [stored[client if setting == "local" else setting, client] for client in CLIENTS]
    pooled = [np.concatenate([one[key] for one in own]) for key in ("target", "predicted")]
    rows.append(score_row((setting, "pooled"), gene_scores(pooled[0], pooled[1])))
    head = {"primary": "spearman", "classes": names, "clients": CLIENTS, "axis": "gene"}
    directions = {"loss": False, "spearman": True, "pearson": True, "mse": False}
    return write_folder(
        folder, setting, seed, {**head, "higher_is_better": directions, "rows": rows}, stored, **changes
    )


def gene_scores(target: np.ndarray, guess: np.ndarray) -> dict[str, Any]:
    """Score genes one by one; None where a correlation is undefined."""
    each = {"spearman_per_gene": spearmanr, "pearson_per_gene": pearsonr}
    varies = np.ptp(target, axis=0) > 0
    columns = {
        name: [float(measure(*pair)[0]) if one else None for *pair, one in zip(target.T, guess.T, varies, strict=True)]
        for name, measure in each.items()
    }
    error = float(mean_squared_error(target, guess))
    means = {name.removesuffix("_per_gene"): _mean(values) for name, values in columns.items()}
    return {
        "support": len(target),
        "metrics": {"loss": error, "mse": error, **means, "undefined_genes": float((~varies).sum())},
        "arrays": {**columns, "mse_per_gene": np.mean((target - guess) ** 2, axis=0).tolist()},
    }


def models(setting: str) -> list[str]:
    return CLIENTS if setting == "local" else [setting]


def sample_names(data: str, count: int) -> np.ndarray:
    return np.array([f"{data}-{number}" for number in range(count)])


def write_folder(
    folder: Path,
    setting: str,
    seed: int,
    evaluation: Mapping[str, Any],
    stored: Mapping[tuple[str, str], Mapping[str, Any]],
    *,
    steps: list[dict[str, Any]] | None = None,
    manifest: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    evaluated: bool = True,
) -> Path:
    """Write the files of a run."""
    (folder / "predictions").mkdir(parents=True)
    clients, classes = evaluation["clients"], evaluation["classes"]
    state = {"status": "completed", "setting": setting, "seed": seed, "error": None, "failures": []}
    _json(folder / "status.json", {**state, **(status or {})})
    (folder / "config.yaml").write_text(f"# setting: {setting}\n{yaml.safe_dump({**_config(seed), **(config or {})})}")
    _json(
        folder / "history.json",
        {"unit": _unit(setting), "steps": _steps(setting, clients, evaluation["primary"]) if steps is None else steps},
    )
    if not evaluated:
        return folder
    _json(folder / "manifest.json", {**_manifest(setting, seed, clients, classes), **(manifest or {})})
    for (model, data), arrays in stored.items():
        np.savez(folder / "predictions" / f"{model}__{data}.npz", **arrays)
    _json(folder / "eval_summary.json", {"setting": setting, "task": "toy", **evaluation})
    return folder


def write_comparison(
    folder: Path, seeds: tuple[int, ...] = (0, 1), write: Callable[..., Path] = write_run, **changes: Any
) -> list[Path]:
    """Write all settings and seeds."""
    return [write(folder / f"{setting}-seed{seed}", setting, seed, **changes) for setting in HITS for seed in seeds]


def compared(folders: list[Path]) -> Comparison:
    """Read runs and compare them."""
    return compare([RunRecord.read(folder) for folder in folders])


def edit(path: Path, **changes: Any) -> None:
    """Replace entries of a JSON file."""
    _json(path, {**json.loads(path.read_text()), **changes})


def score_row(place: tuple[str, str], scored: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": place[0], "data": place[1], "split": "test", **scored}


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _unit(setting: str) -> str:
    return "round" if setting == "federated" else "epoch"


def _config(seed: int) -> dict[str, Any]:
    train = {"lr": 0.01, "optimizer": {"name": "sgd", "momentum": 0.9}, "limit_batches": None}
    federation = {"rounds": 2, "local_epochs": 2, "strategy": {"name": "fedavg"}, "workers": None}
    return {"task": "toy", "options": {"data": "toy.csv"}, "train": train, "federation": federation, "seed": seed}


def _steps(setting: str, clients: list[str], primary: str) -> list[dict[str, Any]]:
    """Two rounds of two epochs, or four epochs validated every second; loss 1 / (1 + epochs); the rate halves."""
    steps = []
    for step in (1, 2) if setting == "federated" else (1, 2, 3, 4):
        epochs = step * 2 if setting == "federated" else step
        entry = {"metrics": {"loss": 1 / (1 + epochs)}, "support": 20, "lr": 0.01 / 2**epochs}
        val = {"metrics": {"loss": 1 / epochs, "accuracy": epochs / 5, "f1_macro": epochs / 6}, "support": 10}
        if primary == "spearman":
            val["metrics"] = {"loss": 1 / epochs, "spearman": epochs / 5, "undefined_genes": 1.0}
        names = ["pooled"] if setting == "centralized" else clients
        one: dict[str, Any] = {"step": step, "train": dict.fromkeys(names, entry), "seconds": 1.0}
        if epochs % 2 == 0:
            one["val"] = dict.fromkeys([*clients, *["pooled"] * (setting != "local")], val)
        if setting == "federated":
            one |= {"bytes_up": dict.fromkeys(clients, 1000), "bytes_down": dict.fromkeys(clients, 2000)}
        steps.append(one)
    return steps


def _manifest(setting: str, seed: int, clients: list[str], classes: list[str]) -> dict[str, Any]:
    federated = setting == "federated"
    models = clients if setting == "local" else [setting]
    sizes = {"train": 20, "val": 10, "test": 10, "labels": {name: 20 // len(classes) for name in classes}}
    local = {"epochs": 4, "rounds": None, "local_epochs": None}
    environment = {"command": "triptych", "code": "0123456789ab", "git": "abc1234", "python": "3.11.9"}
    return {
        "setting": setting,
        "seed": seed,
        "task": "toy",
        "clients": dict.fromkeys(clients, sizes),
        "held_out": 20,
        "parameters": {"trainable": 67, "total": 100},
        "budget": {"samples": 240, **({"epochs": None, "rounds": 2, "local_epochs": 2} if federated else local)},
        "select": "best",
        "monitor": "accuracy",
        "selected": dict.fromkeys(models, 2),
        "initial_sha256": f"{seed:064d}",
        "weights_sha256": dict.fromkeys(models, "1" * 64),
        "fitted_sha256": {model: f"{number * (setting == 'local'):064d}" for number, model in enumerate(models, 1)},
        "data": {client: f"data of {client}" for client in clients},
        "seconds": 2.0 + seed,
        "peak_memory_mb": 300.0,
        "peak_gpu_mb": None,
        "environment": {**environment, "device": "cpu", "threads": 1, "versions": {"torch": "2.13.0"}},
        "facts": {},
        "dry_run": False,
        **({"bytes": {"up": 6000, "down": 12000, "full_state": 400}} if federated else {}),
    }
