"""What is written of predicted rosettes: images, a table of samples, a table of rosettes, and both as JSON."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from core.files import atomic, write_json
from core.tables import write_table
from datasets.rosette_objects import SampleReport, label_rosettes, rosette_mask, sample_report

Image = npt.NDArray[Any]


def write_reports(
    samples: Iterable[tuple[str, Image, Image]], folder: Path, *, threshold: float, min_size: int
) -> list[Path]:
    """Write `<sample>_probability.tif` and `<sample>_rosettes.tif` (numbered), and tables of all samples together.

    Args:
        samples: Name, probability [H, W] and numbers of the cells [H, W]; one image is held at a time.
        folder: Where files go.
        threshold: Probability that a pixel must exceed.
        min_size: Least area of a rosette, in pixels.

    Returns:
        The tables `samples.csv`, `rosettes.csv` and `summary.json`, then the images.
    """
    reports: dict[str, SampleReport] = {}
    images: list[Path] = []
    for name, probability, labels in samples:
        mask = rosette_mask(probability, threshold, min_size)
        reports[name] = sample_report(probability, mask, labels)
        images.append(_write_image(folder / f"{name}_probability.tif", probability.astype(np.float32)))
        images.append(_write_image(folder / f"{name}_rosettes.tif", _narrow(label_rosettes(mask))))
    rows = [{"sample": np.array([name]), **_scalars(report)} for name, report in reports.items()]
    objects = [
        {"sample": np.full(len(report.objects["area"]), name), **report.objects} for name, report in reports.items()
    ]
    summary = {
        "threshold": threshold,
        "min_size": min_size,
        "samples": {name: _plain(report) for name, report in reports.items()},
    }
    write_json(folder / "summary.json", summary)
    tables = [write_table(folder / "samples.csv", rows), write_table(folder / "rosettes.csv", objects)]
    return [*tables, folder / "summary.json", *images]


def _scalars(report: SampleReport) -> dict[str, Image]:
    names = [field.name for field in dataclasses.fields(report) if field.name != "objects"]
    return {name: np.array([getattr(report, name)]) for name in names}


def _plain(report: SampleReport) -> Mapping[str, Any]:
    scalars = {name: values.item() for name, values in _scalars(report).items()}
    columns = {name: values.tolist() for name, values in report.objects.items()}
    each = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {**scalars, "objects": each}


def _narrow(numbered: npt.NDArray[np.int32]) -> Image:
    """Give numbers in 16 bits, which every viewer opens, as long as they have room there."""
    return numbered.astype(np.uint16 if numbered.max() <= np.iinfo(np.uint16).max else np.uint32)


def _write_image(path: Path, image: Image) -> Path:
    with atomic(path) as temporary:
        tifffile.imwrite(temporary, image, compression="zlib")
    return path
