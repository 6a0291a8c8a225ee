"""Synthetic run folders of a segmentation: two images per animal, a square to find in each but the last."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from tests.run_folders import CLIENTS, SIZE, models, sample_names, score_row, write_folder


def write_images(folder: Path, setting: str, seed: int = 0, side: int = 8, **changes: Any) -> Path:
    """Write a run of a segmentation, two images per animal: a square to find, and a probability that is off by noise.

    The last image of each set has no foreground; the first is half as wide as the others.
    """
    noise = {"centralized": 0.3, "federated": 0.45, "local": 0.6}[setting]
    stored, probabilities = {}, {}
    for data in (*CLIENTS, "held_out"):
        truth = np.zeros((SIZE[data], side, side), bool)
        truth[:-1, 2:6, 2:6] = True
        inside = np.ones_like(truth)
        inside[0, :, side // 2 :] = False
        for model in models(setting):
            draw = np.random.default_rng([seed, ord(data[0]), len(model)])
            probability = np.clip(0.25 + 0.5 * truth + noise * draw.normal(size=truth.shape), 0, 1)
            probabilities[model, data] = (probability, truth, inside)
            stored[model, data] = _image_arrays(data, probability > 0.5, truth, inside)
    rows = [score_row(place, image_scores(*found)) for place, found in probabilities.items()]
    own = [probabilities[client if setting == "local" else setting, client] for client in CLIENTS]
    pooled = (np.concatenate(parts) for parts in zip(*own, strict=True))
    rows.append(score_row((setting, "pooled"), image_scores(*pooled)))
    head = {"primary": "f1", "classes": [], "clients": CLIENTS, "axis": "class"}
    names = ("f1", "iou", "precision", "recall", "image_f1", "image_iou", "best_f1")
    directions = {"loss": False, **dict.fromkeys(names, True)}
    evaluation = {**head, "higher_is_better": directions, "rows": rows}
    config = {"options": {"data": "images", "threshold": 0.5}}
    return write_folder(folder, setting, seed, evaluation, stored, **{"config": config, **changes})


def _image_arrays(data: str, guess: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> dict[str, np.ndarray]:
    outcome = (guess + 2 * truth).astype(np.uint8)
    codes = {"fp": 1, "fn": 2, "tp": 3}
    counts = {name: ((outcome == code) & inside).sum((1, 2)) for name, code in codes.items()}
    size = np.stack([inside.any(2).sum(1), inside.any(1).sum(1)], axis=1)
    unit = np.array([f"animal {number // 2}" for number in range(len(truth))])
    return {"sample": sample_names(data, len(truth)), "unit": unit, "outcome": outcome[inside], "size": size, **counts}


def image_scores(probability: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    """Score pixels with scikit-learn, at 0.5 and at nine thresholds."""
    pixels, true = probability[inside], truth[inside]
    thresholds = np.linspace(0.1, 0.9, 9)
    swept = [_binary(pixels > one, true) for one in thresholds]
    columns = {name: [one[name] for one in swept] for name in ("precision", "recall", "f1")}
    best = int(np.argmax(columns["f1"]))
    each = [_binary(p[i] > 0.5, t[i]) for p, t, i in zip(probability, truth, inside, strict=True)]
    image_means = {f"image_{name}": float(np.mean([one[name] for one in each])) for name in ("f1", "iou")}
    hindsight = {"best_threshold": thresholds[best], "best_f1": columns["f1"][best]}
    arrays = {"threshold": thresholds.tolist(), **{f"{name}_at": values for name, values in columns.items()}}
    loss = float(np.mean((pixels - true) ** 2))
    metrics = {"loss": loss, **_binary(pixels > 0.5, true), **image_means, **hindsight}
    return {"support": len(truth), "metrics": metrics, "arrays": arrays}


def _binary(guess: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Score one mask; one without foreground scores 1 where nothing is predicted."""
    empty = float(not (guess.any() or true.any()))
    measures = {"f1": f1_score, "iou": jaccard_score, "precision": precision_score, "recall": recall_score}
    return {name: float(measure(true, guess, zero_division=empty)) for name, measure in measures.items()}
