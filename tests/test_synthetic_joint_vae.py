"""The made-up blood samples: the real format, platforms that predict each other, and hospitals that differ."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from datasets.leakage import check_disjoint
from datasets.proteomics import Study
from datasets.proteomics_layout import SamplePlacement
from datasets.proteomics_scaling import Preprocessing
from datasets.proteomics_steps import Steps
from datasets.synthetic.joint_vae import BELOW_LIMIT, FEATURES, HELD_OUT, ONE_PLATFORM, SAMPLES, WEAK, make
from tests.placed_studies import places

PLACEMENT = SamplePlacement(unit_key="donor", held_out=HELD_OUT)
SPLITS = ("train", "val", "test")


def opened(folder: Path, placement: SamplePlacement = PLACEMENT) -> Study:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Study.open(folder, placement)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "study"
    make(made)
    return made


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return opened(folder)


def test_the_format_is_the_real_one(folder: Path, study: Study) -> None:
    assert study.clients == sorted(set(SAMPLES) - {HELD_OUT}) and study.has_held_out
    assert [len(study.features[platform]) for platform in "ab"] == [count for _, count in FEATURES.values()]
    assert sorted(path.name for path in (folder / ONE_PLATFORM).iterdir()) == ["platform_a.csv"]
    assert study.unused("hospital_west") == {"only_a": 8, "only_b": 8} and study.unused(ONE_PLATFORM) == {}
    check_disjoint(places(study), "study")


def test_values_are_positive_and_missing_where_weak(study: Study) -> None:
    own = study.clients_N == "hospital_west"
    for platform in "ab":
        assert (study.values[platform][own & ~np.isnan(study.values[platform]).any(axis=1)] > 0).all()
    absent = np.isnan(study.values["a"][own]).mean(axis=0)
    weak = sorted(study.features["a"]).index("antibody_01")
    assert absent[weak : weak + WEAK].min() > BELOW_LIMIT / 2 > absent[WEAK:].mean() > 0


def test_a_donor_may_come_twice(study: Study) -> None:
    _, visits = np.unique(study.units_N, return_counts=True)
    assert visits.max() > 1 and 0.5 < (visits == 1).mean() < 0.95


def correlation(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(truth.T, predicted.T, strict=True)]))


@pytest.mark.parametrize("seed", [0, 1])
def test_one_platform_predicts_the_other_and_all_hospitals_together_better(seed: int, tmp_path: Path) -> None:
    make(tmp_path / "study", seed)
    study = opened(tmp_path / "study")
    clients = [client for client in study.clients if client != ONE_PLATFORM]

    def score(trained_on: Sequence[str]) -> float:
        """Mean correlation over both directions on the hospital that nobody trained on."""
        rows = {p: np.concatenate([study.train_values(client, p) for client in trained_on]) for p in "ab"}
        scaling = {p: Preprocessing.from_rows(study.features[p], rows[p], Steps(log=True)) for p in "ab"}
        train = {p: scaling[p].apply(rows[p]) for p in "ab"}
        outside = study.pairs("held_out", "test", scaling)
        test = {"a": outside.a.numpy(), "b": outside.b.numpy()}
        model = RidgeCV(np.logspace(-1, 3, 6))
        scores = [correlation(test[to], model.fit(train[of], train[to]).predict(test[of])) for of, to in ("ab", "ba")]
        return float(np.mean(scores))

    pooled = score(clients)
    assert 0.65 < pooled < 0.9
    assert pooled > np.mean([score([client]) for client in clients]) + 0.02


def test_a_small_study_has_all_splits(tmp_path: Path) -> None:
    make(tmp_path / "study", scale=0.2)
    small = opened(tmp_path / "study")
    assert all(len(small.rows(client, split)) for client in small.clients for split in SPLITS)
