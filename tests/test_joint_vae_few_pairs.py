"""Studies with too few samples on both platforms for what a config asks: told before training."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

from tests.commands import refused
from tests.commands import run as command
from tests.proteomics_studies import CONFIG, SHORT, experiment, fitted, of_type

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


@pytest.fixture
def unpaired(hospitals: Path, tmp_path: Path) -> Path:
    """One client with platform a alone, one with b alone."""
    for client, platform in (("hospital_north", "a"), ("hospital_south", "b")):
        folder = tmp_path / "unpaired" / client
        folder.mkdir(parents=True)
        shutil.copy(hospitals / client / f"platform_{platform}.csv", folder)
    return tmp_path / "unpaired"


def trained(folder: Path, data: Path, *overrides: str) -> tuple[Result, list[Path]]:
    arguments = [CONFIG, f"options.data={data}", "options.held_out_client=held_out", *SHORT, *of_type("joint_vae")]
    answer = command("centralized", *arguments, *overrides, "--results", folder / "results")
    return answer, list((folder / "results").rglob("history.json"))


def test_methods_without_a_network_refuse_before_training(unpaired: Path, tmp_path: Path) -> None:
    answer, history = trained(tmp_path, unpaired, "options.compare_with=[ridge]")
    refused(answer, "compare_with = ridge: no train sample is on both platforms", "leave them out")
    assert not history


def test_too_few_neighbours_are_told_before_training(hospitals: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few" / "hospital_north"
    folder.mkdir(parents=True)
    tables = {platform: pd.read_csv(hospitals / "hospital_north" / f"platform_{platform}.csv") for platform in "ab"}
    both = sorted(set(tables["a"]["sample"]) & set(tables["b"]["sample"]))[:7]
    for platform, table in tables.items():
        table[table["sample"].isin(both)].to_csv(folder / f"platform_{platform}.csv", index=False)
    names = ["options.unit_key=null", "options.compare_with=[knn]", "options.fractions=[0.6,0.2,0.2]"]
    for path in folder.glob("*.csv"):
        pd.read_csv(path).drop(columns="donor").to_csv(path, index=False)
    answer, history = trained(tmp_path, folder.parent, *names)
    refused(answer, "knn.k: no candidate has at most", "leave this method out")
    assert not history


def test_a_study_without_any_pair_warns(unpaired: Path) -> None:
    task = experiment(unpaired, "options.held_out_client=held_out", *of_type("joint_vae")).build_task()
    with pytest.warns(UserWarning, match="no client has a train sample on both platforms"):
        fitted(task)
