"""What became of every pixel of a test image, and which images show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reports.comparison import Comparison
from reports.kinds import Pixels
from reports.measures import image_f1
from reports.run_folder import RunRecord
from reports.stored import places, predicted_on

KEY, SIZE = "outcome", "size"
CODES = {"fp": 1, "fn": 2, "tp": 3}
"""0 is background that was called so."""


@dataclass(frozen=True)
class Model:
    """The model of a setting that is shown, on the main test set."""

    setting: str
    record: RunRecord
    name: str
    pixels: Pixels
    f1_N: np.ndarray
    """F1 of each image."""

    @cached_property
    def places(self) -> dict[str, int]:
        """Say where each image is, by its name."""
        ids = self.pixels.samples_N
        return {str(name): at for at, name in enumerate(range(len(self.pixels)) if ids is None else ids)}


@dataclass(frozen=True)
class Image:
    """An image as every model segments it."""

    name: str
    why: list[str]
    """`best of federated`, ..."""
    outcomes: list[np.ndarray]
    """Of each model, [H, W]."""
    f1: list[float]


def miscounted(record: RunRecord) -> list[str]:
    """Name the models and sets whose `tp`, `fp` and `fn` are not those of the stored pixels."""
    wrong = []
    for row in record.rows:
        stored = record.predictions(row["model"], row["data"], (KEY, SIZE, *CODES))
        if set(stored) == {KEY, SIZE, *CODES}:
            images = _images(stored)
            counts = {name: [int((image == code).sum()) for image in images] for name, code in CODES.items()}
            if any(stored[name].tolist() != counts[name] for name in CODES):
                wrong.append(f"{row['model']} on {row['data']}")
    return wrong


def shown_models(comparison: Comparison) -> list[Model]:
    """Give one model per setting, of its first seed; of several local ones the middle one by the primary metric."""
    found = []
    for setting in comparison.settings:
        record = next(one for one in comparison.scored if one.setting == setting)
        name = _middle(record, comparison) if comparison.main_data == "held_out" else setting
        pixels = predicted_on(record, name, comparison.main_data)
        if isinstance(pixels, Pixels):
            found.append(Model(setting, record, name, pixels, image_f1(pixels.counts_N3)))
    return found


def shown_images(models: Sequence[Model], data: str) -> list[Image]:
    """Give the best, the median and the worst image of each model by F1, as all models segment them, best first.

    Images without foreground, true or predicted, have nothing to show and are left out.
    """
    why: dict[str, list[str]] = {}
    for model in models:
        for word, name in _telling(model).items():
            why.setdefault(name, []).append(f"{word} of {model.setting}")
    common = [name for name in why if all(name in model.places for model in models)]
    maps = [_read(model, data, common) for model in models]
    images = [
        Image(name, why[name], [one[name] for one in maps], [float(model.f1_N[model.places[name]]) for model in models])
        for name in common
        if all(name in one for one in maps)
    ]
    return sorted(images, key=lambda image: (-sum(image.f1), image.name))


def _telling(model: Model) -> dict[str, str]:
    """Name the best, the median and the worst image."""
    something_N = model.pixels.counts_N3.sum(1) > 0
    known = [(-model.f1_N[at], name) for name, at in model.places.items() if something_N[at]]
    ranked = [name for _, name in sorted(known)]
    places = {"best": 0, "median": len(ranked) // 2, "worst": -1}
    return {word: ranked[at] for word, at in places.items() if ranked}


def _middle(record: RunRecord, comparison: Comparison) -> str:
    def value(model: str) -> float:
        return float(np.nan_to_num(record.value(model, comparison.main_data, comparison.primary), nan=-np.inf))

    ranked = sorted(record.models, key=lambda model: (value(model), model))
    return ranked[len(ranked) // 2]


def _read(model: Model, data: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the outcomes of some images, where they are stored."""
    wanted = {model.places[name]: name for name in names}
    found: dict[str, np.ndarray] = {}
    start = 0
    for one, part in places(model.record, model.name, data):
        stored = model.record.predictions(one, part, (KEY, SIZE))
        if set(stored) != {KEY, SIZE}:
            return {}
        images = _images(stored)
        found |= {wanted[start + at]: image for at, image in enumerate(images) if start + at in wanted}
        start += len(images)
    return found


def _images(stored: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Cut the stored pixels of a set into its images, [H, W] each."""
    sizes = stored[SIZE].tolist()
    ends = np.cumsum([height * width for height, width in sizes])[:-1]
    return [pixels.reshape(size) for pixels, size in zip(np.split(stored[KEY], ends), sizes, strict=True)]
