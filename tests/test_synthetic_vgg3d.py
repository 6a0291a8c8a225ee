"""The made-up nuclei: real format, a signal in the texture, and institutes that differ."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datasets.leakage import check_disjoint
from datasets.nuclei import NucleiStudy
from datasets.nuclei_crops import CropOptions
from datasets.nuclei_placement import NucleiPlacement
from datasets.nuclei_table import read_table
from datasets.synthetic.vgg3d import CLASSES, SITES, make
from tests.placed_studies import places

INSTITUTES = ["institute_north", "institute_south", "institute_west"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("nuclei") / "data"
    make(target)
    return target


@pytest.fixture(scope="module")
def study(folder):
    options = CropOptions(crop_size=(16, 16, 16))
    return NucleiStudy.open(
        folder, folder / "classes.csv", placement=NucleiPlacement(client_key="site"), options=options
    )


def test_it_is_a_small_study_of_three_institutes_without_leaks(folder, study):
    assert study.clients == INSTITUTES and study.has_held_out
    check_disjoint(places(study), "study")
    assert study.classes == {kind.class_id: kind.name for kind in CLASSES}
    assert all(len(study.class_counts(client, "train")) == len(CLASSES) for client in study.clients)
    assert sum(path.stat().st_size for path in folder.rglob("*.tif")) < 10 * 1024**2


def test_one_nucleus_is_unclassified_and_left_out(folder, study):
    rows = read_table(folder / "classes.csv")
    assert [row.class_name for row in rows if not row.classified] == ["Unclassified"]
    assert len(study.nuclei) == len(rows) - 1


def test_institutes_differ_in_intensity_and_in_classes(study):
    means, shares = [], []
    for client in study.clients:
        samples = study.crops(client, "train")
        means.append(np.mean([samples[index]["volume"].mean() for index in range(0, len(samples), 9)]))
        counts = study.class_counts(client)
        shares.append([counts[kind.name] / sum(counts.values()) for kind in CLASSES])
    assert min(abs(means[0] - means[1]), abs(means[1] - means[2]), abs(means[0] - means[2])) > 0.02
    assert np.ptp(np.asarray(shares), axis=0).max() > 0.2
    assert {site.proportions for site in SITES.values()} != {SITES["held_out"].proportions}


def _texture(volume):
    """Contrast at four scales, and mean: what a small network can see."""
    scales = [ndimage.gaussian_filter(volume, sigma).std() for sigma in (0.5, 1.0, 2.0, 4.0)]
    return [volume.mean(), *np.log(scales)]


def _features(study, client, split):
    samples = study.crops(client, split)
    crops = [samples[index] for index in range(len(samples))]
    return np.asarray([_texture(crop["volume"][0].numpy()) for crop in crops]), np.asarray(samples.labels)


def test_pooled_training_finds_the_signal_and_beats_any_institute_alone(study):
    data = [_features(study, client, "train") for client in study.clients]
    x, y = _features(study, "held_out", "test")

    def score(parts):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=10, max_iter=2000, class_weight="balanced"))
        model.fit(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
        return f1_score(y, model.predict(x), average="macro")

    pooled, alone = score(data), [score([part]) for part in data]
    assert pooled > 0.6
    assert pooled > max(alone) and pooled > np.mean(alone) + 0.05
