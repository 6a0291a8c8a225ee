"""Predictions per sample, kept so that every reported number can be recomputed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.files import atomic


def save_predictions(run_folder: Path, model: str, data: str, predictions: Mapping[str, np.ndarray]) -> None:
    """Write predictions/<model>__<data>.npz; as `Task.predictions` gives them."""
    with atomic(run_folder / "predictions" / f"{model}__{data}.npz") as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **predictions)
