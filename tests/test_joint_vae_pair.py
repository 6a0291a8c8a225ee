"""One pair of files for all clients: each is treated as if it held its own rows in a folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.proteomics import Study
from datasets.proteomics_layout import SamplePlacement
from datasets.proteomics_splits import write_split
from tests.proteomics_studies import CLIENTS, ONE_PLATFORM, PAIRED, experiment, of_type, run
from tests.refusals import refused

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


@pytest.fixture(scope="module")
def pair(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples in one pair of files."""
    folder = tmp_path_factory.mktemp("pair")
    owners: dict[str, str] = {}
    for platform in "ab":
        tables = {client: hospitals / client / f"platform_{platform}.csv" for client in (*CLIENTS, "hospital_east")}
        read = {client: pd.read_csv(path, dtype=str) for client, path in tables.items() if path.exists()}
        owners |= {name: client for client, table in read.items() for name in table["sample"]}
        pd.concat(read.values()).to_csv(folder / f"platform_{platform}.csv", index=False)
    pd.DataFrame(owners.items(), columns=["sample", "client"]).to_csv(folder / "clients.csv", index=False)
    return folder


def test_a_client_with_one_platform_is_known_as_one(hospitals: Path, pair: Path) -> None:
    tasks = [experiment(data).build_task() for data in (hospitals, pair)]
    for client in CLIENTS:
        assert tasks[0].absent(client) == tasks[1].absent(client)
        assert tasks[0].statistics(client) == tasks[1].statistics(client)
        assert tasks[0].describe(client)["platforms"] == tasks[1].describe(client)["platforms"]
    assert tasks[1].absent(ONE_PLATFORM) and not tasks[1].absent(PAIRED[0])


def test_both_layouts_end_with_the_same_weights(hospitals: Path, pair: Path, tmp_path: Path) -> None:
    done = [run(tmp_path / data.name, data, "federated") for data in (hospitals, pair)]
    assert done[0].hashes == done[1].hashes


def test_a_type_that_needs_pairs_refuses_before_it_trains(pair: Path) -> None:
    task = experiment(pair, *of_type("res_unet")).build_task()
    refused(lambda: task.statistics(ONE_PLATFORM), repr(ONE_PLATFORM), "platform a without any pair", "res_unet")


def test_a_platform_in_val_and_test_alone_is_not_trained_on(hospitals: Path, tmp_path: Path) -> None:
    """There the network would stay as it was drawn and yet count in the average."""
    study = Study.open(hospitals, SamplePlacement(keep_unpaired=True, unit_key="donor"))
    both = np.flatnonzero((study.clients_N == PAIRED[0]) & study.has["b"])
    alone = np.flatnonzero((study.clients_N == PAIRED[0]) & ~study.has["b"])
    assert len(alone)
    for rows, split in ((alone, "train"), (both, "val"), (both[:5], "test")):
        study.splits_N[rows] = split
    write_split(tmp_path / "split.csv", study.ids_N.tolist(), study.clients_N.tolist(), study.splits_N.tolist())
    task = experiment(hospitals, f"options.split={tmp_path / 'split.csv'}").build_task()
    assert task.absent(PAIRED[0]) == task.absent(ONE_PLATFORM) != ()
