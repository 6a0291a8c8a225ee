"""Synthetic run folders with known numbers: three clients, two classes, ten test samples each, twenty held out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.metrics import confusion_matrix, f1_score

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
    labels = list(range(len(classes)))
    return {
        "support": len(target),
        "metrics": {
            "loss": 1 - accuracy,
            "accuracy": accuracy,
            "f1_macro": float(f1_score(target, guess, average="macro")),
        },
        "arrays": {"confusion_matrix": confusion_matrix(target, guess, labels=labels).tolist()},
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
    steps: list[dict[str, Any]] | None = None,
    manifest: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    evaluated: bool = True,
) -> Path:
    """Write a run folder; `manifest`, `config` and `status` replace entries of the default ones."""
    pairs = known_pairs(setting, seed) if pairs is None else pairs
    (folder / "predictions").mkdir(parents=True)
    state = {"status": "completed", "setting": setting, "seed": seed, "error": None, "failures": []}
    _json(folder / "status.json", {**state, **(status or {})})
    (folder / "config.yaml").write_text(f"# setting: {setting}\n{yaml.safe_dump({**_config(seed), **(config or {})})}")
    _json(
        folder / "history.json", {"unit": _unit(setting), "steps": _steps(setting, clients) if steps is None else steps}
    )
    if not evaluated:
        return folder
    _json(folder / "manifest.json", {**_manifest(setting, seed, clients, classes), **(manifest or {})})
    rows = [{"model": m, "data": d, "split": "test", **scores(pair, classes)} for (m, d), pair in pairs.items()]
    own = [pairs[client if setting == "local" else setting, client] for client in clients]
    pooled = (np.concatenate([one[0] for one in own]), np.concatenate([one[1] for one in own]))
    rows.append({"model": setting, "data": "pooled", "split": "test", **scores(pooled, classes)})
    for (model, data), (target, guess) in pairs.items():
        ids = np.array([f"{data}-{number}" for number in range(len(target))])
        np.savez(folder / "predictions" / f"{model}__{data}.npz", sample=ids, target=target, predicted=guess)
    head = {"setting": setting, "task": "toy", "primary": primary, "classes": classes, "clients": clients}
    directions = {"loss": False, "accuracy": True, "f1_macro": True}
    _json(folder / "eval_summary.json", {**head, "higher_is_better": directions, "rows": rows})
    return folder


def write_comparison(folder: Path, seeds: tuple[int, ...] = (0, 1), **changes: Any) -> list[Path]:
    """Write all settings and seeds."""
    return [write_run(folder / f"{setting}-seed{seed}", setting, seed, **changes) for setting in HITS for seed in seeds]


def edit(path: Path, **changes: Any) -> None:
    """Replace entries of a JSON file."""
    _json(path, {**json.loads(path.read_text()), **changes})


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _unit(setting: str) -> str:
    return "round" if setting == "federated" else "epoch"


def _config(seed: int) -> dict[str, Any]:
    train = {"lr": 0.01, "optimizer": {"name": "sgd", "momentum": 0.9}, "limit_batches": None}
    federation = {"rounds": 2, "local_epochs": 2, "strategy": {"name": "fedavg"}, "workers": None}
    return {"task": "toy", "options": {"data": "toy.csv"}, "train": train, "federation": federation, "seed": seed}


def _steps(setting: str, clients: list[str]) -> list[dict[str, Any]]:
    """Two rounds of two epochs, or four epochs validated every second; loss 1 / (1 + epochs)."""
    steps = []
    for step in (1, 2) if setting == "federated" else (1, 2, 3, 4):
        epochs = step * 2 if setting == "federated" else step
        entry = {"metrics": {"loss": 1 / (1 + epochs)}, "support": 20}
        val = {"metrics": {"loss": 1 / epochs, "accuracy": epochs / 5, "f1_macro": epochs / 6}, "support": 10}
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
