"""The made-up tissue: the real format, rosettes that outlines alone tell from palisades, and replicates that differ."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from datasets.rosettes import RosettePlacement, Study
from datasets.synthetic.attention_unet import HELD_OUT, REPLICATES, SIDES, make, palisade, rosette


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "study"
    make(made)
    return made


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return Study.open(folder, RosettePlacement(client_key="replicate", held_out=HELD_OUT), use_intensity=True)


def members(study: Study, client: str) -> list[int]:
    return np.flatnonzero(study.clients_N == client).tolist()


def test_the_format_is_the_real_one(folder: Path, study: Study) -> None:
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    assert list(table) == [
        *("unique_sample_id", "experiment_type", "replicate", "timepoint", "treatment"),
        *("is_control", "animal_id", "image_id"),
    ]
    assert table["unique_sample_id"].str.fullmatch(r"R\d_T\d_\d+_\d{4}").all()
    for one, image in zip(study.samples, study.images, strict=True):
        assert one.path == folder / one.name / f"processed_data_{one.name}.h5"
        assert image.file.generation == "layers" and set(image.file.datasets) == {
            *("labels", "target", "instances", "intensity")
        }
        with h5py.File(one.path) as file:
            assert {str(file[name].dtype) for name in file} == {"uint8", "uint16"}
        assert set(image.shape) <= set(SIDES)
    assert len({image.shape for image in study.images}) > 5
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4e6


def test_replicates_are_clients_with_ten_animals_and_one_is_held_out(study: Study) -> None:
    assert study.clients == ["R1", "R2", "R3"] and len(members(study, "held_out")) == 20
    for client in (*study.clients, "held_out"):
        assert len(members(study, client)) == 20
        assert len({study.samples[row].animal for row in members(study, client)}) == 10
    ids_alone = {one.name: "_".join(np.array(one.name.split("_"))[[0, 2]]) for one in study.samples}
    assert ids_alone == {one.name: one.animal for one in study.samples}


def test_labels_are_cells_and_rosettes_are_whole_cells(study: Study) -> None:
    counts = []
    for row in members(study, "R1"):  # The replicate that was annotated to the cell.
        image = study.images[row]
        labels, instances = image.labels, image.instances
        assert np.unique(labels).tolist() == list(range(labels.max() + 1))
        assert not np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).any()
        assert ((instances > 0) == image.target[0]).all() and (labels[instances > 0] > 0).all()
        for number in range(1, instances.max() + 1):
            cells = np.unique(labels[instances == number])
            assert not np.isin(labels[instances != number], cells).any()
            counts.append(len(cells))
    assert set(counts) == {6, 7, 8} and len(counts) > 20


def crowding(labels: np.ndarray, radius: float) -> np.ndarray:
    """Count the cells within a radius of each pixel."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(y, x) <= radius
    return ndimage.generic_filter(labels, lambda near: len(np.unique(near[near > 0])), footprint=disc, output=int)


def test_rosettes_are_where_many_cells_meet(study: Study) -> None:
    centres, elsewhere = [], []
    for client in ("R1", "held_out"):
        for row in members(study, client)[:8]:
            labels, instances = study.images[row].labels, study.images[row].instances
            crowded = crowding(labels, 0.4 * REPLICATES["R1" if client == "R1" else HELD_OUT].spacing)
            centres += [crowded[instances == number].max() for number in range(1, instances.max() + 1)]
            elsewhere.append(crowded[(instances == 0) & (labels > 0)])
    assert len(centres) > 10 and np.mean(np.asarray(centres) >= 5) > 0.9
    assert np.mean(np.concatenate(elsewhere) >= 5) < 0.01


def test_palisades_are_as_long_but_share_no_centre() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        ring, row = rosette(REPLICATES["R1"], random), palisade(REPLICATES["R1"].spacing, random)
        spread = [np.linalg.svd(one.points_N2[: one.members] - 0, compute_uv=False) for one in (ring, row)]
        assert spread[0][1] > 0.7 * spread[0][0], "a ring is as wide as it is long"
        assert spread[1][1] < 0.2 * spread[1][0], "a row is a line"
        for one in (ring, row):
            assert np.hypot(*one.points_N2.T).max() < one.radius
    assert ring.rosette and not row.rosette


def test_replicates_differ_in_cells_and_rosettes(study: Study) -> None:
    def mean(client: str, what: object) -> float:
        return float(np.mean([what(study.images[row]) for row in members(study, client)]))  # type: ignore[operator]

    def cell_area(image) -> float:
        return (image.labels > 0).sum() / image.labels.max()

    areas = {client: mean(client, cell_area) for client in study.clients}
    assert areas["R1"] * 1.25 < areas["R3"] and areas["R3"] * 1.25 < areas["R2"]
    rosettes = {client: mean(client, lambda image: image.instances.max()) for client in study.clients}
    assert rosettes["R1"] > 1.5 * rosettes["R2"]
    brightness = {client: mean(client, lambda image: image.file.read("intensity").mean()) for client in study.clients}
    assert brightness["R1"] > 1.5 * brightness["R2"]
    empty = [not image.target.any() for image in study.images]
    assert 0.02 < np.mean(empty) < 0.4
    share = mean("held_out", lambda image: image.target.mean())
    assert 0.04 < share < 0.2


def test_annotations_of_one_replicate_reach_beyond_the_cells(study: Study) -> None:
    image = next(study.images[row] for row in members(study, "R2") if study.images[row].target.any())
    labels, inside = image.labels, image.target[0] > 0
    touched = [label for label in np.unique(labels[inside]) if label]
    covered = np.asarray([inside[labels == label].mean() for label in touched])
    assert (covered > 0.99).sum() >= 6 and ((covered > 0) & (covered < 0.5)).sum() > 3
