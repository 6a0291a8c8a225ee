"""Synthetic run folders of imputation between two platforms: two visits per donor, every fifth visit without B."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from tests.run_folders import CLIENTS, SIZE, models, sample_names, score_row, write_folder

FEATURES = ["A: IL6", "A: TNF", "A: CRP", "B: IL6", "B: KIT"]
WIDTH_A = 3


def write_platforms(folder: Path, setting: str, seed: int = 0, **changes: Any) -> Path:
    """Write a run; CRP of A is constant at client `cyd`, and a local model has its own scale of each feature."""
    strength = {"centralized": 2.0, "federated": 1.2, "local": 0.8}[setting]
    stored = {}
    for data in (*CLIENTS, "held_out"):
        draw = np.random.default_rng([seed, ord(data[0])])
        target = draw.normal(size=(SIZE[data] * 2, len(FEATURES)))
        target[:, 2] = 1.0 if data == "cyd" else target[:, 2]
        for model in models(setting):
            guess = strength * target + draw.normal(size=target.shape)
            scale = 1.0 + 0.5 * (setting == "local")
            stored[model, data] = _arrays(data, scale * target - (setting == "local"), scale * guess)
    rows = [score_row(place, platform_scores(one)) for place, one in stored.items()]
    own = [stored[client if setting == "local" else setting, client] for client in CLIENTS]
    pooled = {key: np.concatenate([one[key] for one in own]) for key in own[0]}
    rows.append(score_row((setting, "pooled"), platform_scores(pooled)))
    names = ("cross_corr_mean", "cross_a_corr_mean", "cross_b_corr_mean", "cross_a_r2", "cross_b_r2")
    directions = {"loss": False, **dict.fromkeys(names, True)}
    head = {"primary": "cross_corr_mean", "classes": FEATURES, "clients": CLIENTS, "axis": "feature"}
    return write_folder(
        folder, setting, seed, {**head, "higher_is_better": directions, "rows": rows}, stored, **changes
    )


def platform_scores(stored: dict[str, np.ndarray]) -> dict[str, Any]:
    """Score the rows that have both platforms, feature by feature, with SciPy."""
    both = stored["has_a"] & stored["has_b"]
    metrics: dict[str, float] = {}
    columns: list[float | None] = []
    for platform in "ab":
        target, guess = stored[f"target_{platform}"][both], stored[f"cross_{platform}"][both]
        each = [float(pearsonr(*pair)[0]) if np.ptp(pair[0]) else None for pair in zip(target.T, guess.T, strict=True)]
        columns += each
        metrics[f"cross_{platform}_corr_mean"] = float(np.mean([one for one in each if one is not None]))
        metrics[f"cross_{platform}_r2"] = float(r2_score(target.ravel(), guess.ravel()))
    mean = (metrics["cross_a_corr_mean"] + metrics["cross_b_corr_mean"]) / 2
    loss = {"loss": 1 - mean, "cross_corr_mean": mean}
    return {"support": len(both), "metrics": {**loss, **metrics}, "arrays": {"cross_corr_per_feature": columns}}


def _arrays(data: str, target: np.ndarray, guess: np.ndarray) -> dict[str, np.ndarray]:
    count = len(target)
    has_b = np.arange(count) % 5 > 0
    target[~has_b, WIDTH_A:] = 0
    halves = {"target": target.astype(np.float32), "cross": guess.astype(np.float32)}
    values = {f"{name}_a": one[:, :WIDTH_A] for name, one in halves.items()}
    values |= {f"{name}_b": one[:, WIDTH_A:] for name, one in halves.items()}
    donor = np.array([f"donor {number // 2}" for number in range(count)])
    return {"sample": sample_names(data, count), "unit": donor, **values, "has_a": np.ones(count, bool), "has_b": has_b}
