"""Samples in other units than those of training, which no one can see in what a network makes of them."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.proteomics_scaling import Preprocessing
from datasets.proteomics_steps import Scaler, Steps
from datasets.proteomics_units import other_units
from tests.proteomics_studies import CLIENTS, PAIRED, experiment, fitted, made

NORTH = PAIRED[0]
OTHER_UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log2": np.log2,
    "thousandfold": lambda values: values * 1000,
    "a thousandth": lambda values: values / 1000,
    "constant": lambda values: values * 0 - 5,
}


def abundances(seed: int, rows: int, width: int = 30, shift: float = 0.0) -> np.ndarray:
    """Log-normal values; `shift` moves the samples as a site may, in deviations of their logarithms."""
    random = np.random.default_rng(seed)
    level = np.random.default_rng(0).normal(6, 2, size=width)
    return np.exp(level + 0.8 * (random.normal(size=(rows, width)) + shift))


def warned(scaling: Preprocessing, values: np.ndarray) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scaling.scaled(values, [f"s{number}" for number in range(len(values))], "new.csv")
    return [str(one.message) for one in caught]


def scaling_of(values: np.ndarray, **steps: object) -> Preprocessing:
    names = [f"x{number}" for number in range(values.shape[1])]
    return Preprocessing.from_rows(names, values, Steps.model_validate(steps))


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("scaler", ["zscore", "robust", "minmax"])
def test_samples_in_the_same_units_pass(scaler: Scaler, log: bool) -> None:
    scaling = scaling_of(abundances(1, 200), scaler=scaler, log=log)
    for rows in (1, 2, 5, 50, 200):
        assert warned(scaling, abundances(rows + 1, rows)) == []
    assert warned(scaling, abundances(7, 40, shift=0.5)) == [], "a site may differ"


@pytest.mark.parametrize("rows", [5, 60])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("scaler", ["zscore", "robust"])
@pytest.mark.parametrize("change", OTHER_UNITS)
def test_samples_in_other_units_do_not(change: str, scaler: Scaler, log: bool, rows: int) -> None:
    scaling = scaling_of(abundances(1, 200), scaler=scaler, log=log)
    (said,) = warned(scaling, OTHER_UNITS[change](abundances(2, rows)))
    assert said.startswith("new.csv: samples typically ") and said.endswith("; check that the units are the same")


@pytest.mark.parametrize("scaler", ["zscore", "robust", "minmax"])
def test_one_sample_is_enough_where_all_of_it_lies_far_out(scaler: Scaler) -> None:
    scaling = scaling_of(abundances(1, 200), scaler=scaler, log=True)
    assert len(warned(scaling, abundances(2, 1) * 1000)) == 1


def test_missing_cells_and_few_features_say_nothing() -> None:
    scaled = np.full((6, 8), 9.0)
    assert other_units(scaled, "zscore") and other_units(scaled[:1], "zscore")
    assert other_units(scaled[:, :4], "zscore") is None and other_units(scaled[:0], "zscore") is None
    scaled[:, 4:] = np.nan
    assert other_units(scaled, "zscore") is None


@pytest.mark.parametrize("log", ["true", "false"])
def test_a_client_in_other_units_is_seen_where_it_trains(tmp_path: Path, log: str) -> None:
    options = [f"options.preparation={{log_a: {log}, log_b: {log}}}"]
    study = made(tmp_path / "study", scale=0.5)
    assert not doubts(study, *options)
    for change in ("log2", "thousandfold"):
        other = Path(shutil.copytree(study, tmp_path / change, ignore=shutil.ignore_patterns(".cache")))
        path = other / NORTH / "platform_a.csv"
        table = pd.read_csv(path).set_index(["sample", "donor"])
        OTHER_UNITS[change](table).to_csv(path)
        found = doubts(other, *options)
        assert found and all("platform a: samples typically" in one for one in found)
        assert any(NORTH in one for one in found) or change == "thousandfold"


def doubts(study: Path, *options: str) -> list[str]:
    task = experiment(study, *options).build_task()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scaling = fitted(task)
        for client in CLIENTS:
            task.client_data(client, scaling)
    return [str(one.message) for one in caught if "check that the units" in str(one.message)]
