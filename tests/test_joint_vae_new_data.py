"""New samples that a network cannot answer for: it has not learned to, or they are not in its units."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.commands import refused
from tests.conftest import Finished
from tests.proteomics_studies import ONE_PLATFORM, PAIRED, experiment, fitted, run
from tests.refusals import refused as refused_error
from tests.trained_runs import predict
from training.task import Answer

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")
NORTH = PAIRED[0]
QUICK = ["federation.rounds=1"]


@pytest.fixture(scope="module")
def alone(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Each client alone, each with a scale of its own."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return run(folder, hospitals, "local", *QUICK, "options.preparation.normalization_scope=local")


def test_what_a_network_learns_from_is_noted(hospitals: Path) -> None:
    task = experiment(hospitals).build_task()
    pairs = {client: task.statistics(client).counts["learned"]["pairs"] for client in task.clients()}
    assert pairs[ONE_PLATFORM] == 0 and pairs[NORTH] > 0
    everyone, one, none = (fitted(task, *clients) for clients in ((), (NORTH,), (ONE_PLATFORM,)))
    assert (everyone.clients, everyone.pairs) == (len(pairs), sum(pairs.values()))
    assert (one.clients, one.pairs, none.clients, none.pairs) == (1, pairs[NORTH], 1, 0)


def test_without_pairs_nothing_is_predicted(hospitals: Path, alone: Finished, tmp_path: Path) -> None:
    for platform in "ab":
        new = hospitals / NORTH / f"platform_{platform}.csv"
        result = predict(alone.folder, new, "--out", tmp_path / "out", "--model", ONE_PLATFORM)
        refused(result, new.name, "no sample on both platforms", "hold pairs")
    assert not (tmp_path / "out").exists()


def test_scales_of_several_clients_are_no_scale_for_new_samples(
    hospitals: Path, alone: Finished, tmp_path: Path
) -> None:
    new = hospitals / NORTH / "platform_a.csv"
    done = run(tmp_path / "run", hospitals, "federated", *QUICK, "options.preparation.normalization_scope=local")
    refused(predict(done.folder, new, "--out", tmp_path / "out"), "platform_a.csv", "normalization_scope = local")
    result = predict(alone.folder, new, "--out", tmp_path / "own", "--model", NORTH)
    assert result.exit_code == 0, result.stderr


def changed(path: Path, target: Path, sample: int, cell: str) -> Path:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[sample, table.columns[-1]] = cell
    target.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(target, index=False)
    return target


def test_a_value_too_far_out_for_a_network_is_named(hospitals: Path, alone: Finished, tmp_path: Path) -> None:
    """With a logarithm 1e100 is but 230; without, it is more than single precision holds."""
    new = changed(hospitals / NORTH / "platform_a.csv", tmp_path / "new.csv", 3, "1e100")
    done = run(tmp_path / "run", hospitals, "centralized", *QUICK, "options.preparation={}")
    refused(predict(done.folder, new, "--out", tmp_path / "out"), "new.csv: sample 'N", "antibody_40 = 1e+100 lies")
    study = Path(shutil.copytree(hospitals, tmp_path / "study", ignore=shutil.ignore_patterns(".cache")))
    task = experiment(study, "options.preparation={}").build_task()
    name = task.identities(NORTH)["test"]["sample"][0]
    place = pd.read_csv(study / NORTH / "platform_a.csv")["sample"].tolist().index(name)
    changed(study / NORTH / "platform_a.csv", study / NORTH / "platform_a.csv", place, "1e100")
    task = experiment(study, "options.preparation={}").build_task()
    said = f"{study}: client '{NORTH}': platform a: sample '{name}'"
    refused_error(lambda: task.client_data(NORTH, fitted(task)), said, "correct it or leave it empty")


def rescaled(path: Path, target: Path, factor: float) -> Path:
    table = pd.read_csv(path).set_index(["sample", "donor"])
    (table * factor).to_csv(target)
    return target


def test_samples_far_from_all_training_data_are_imputed_all_the_same(hospitals: Path, tmp_path: Path) -> None:
    """Their posterior may be wider than numbers go; a posterior mean needs no width."""
    done = run(tmp_path / "run", hospitals, "centralized", "options.preparation={}", "train.lr=0.01")
    new = rescaled(hospitals / NORTH / "platform_a.csv", tmp_path / "far.csv", 1e5)
    with pytest.warns(UserWarning, match="far.csv: samples typically vary .*; check that the units are the same"):
        result = predict(done.folder, new, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    imputed = pd.read_csv(tmp_path / "out" / "far" / "imputed.csv").set_index("sample")
    assert np.isfinite(imputed.to_numpy()).all()


def test_a_prediction_that_is_no_number_is_refused_and_nothing_written(hospitals: Path, tmp_path: Path) -> None:
    task = experiment(hospitals).build_task()
    scaling = fitted(task)
    outputs = {"predicted_b": torch.zeros(2, len(scaling.b.features))}
    outputs["predicted_b"][1, 3] = 2000.0  # Its exponential is beyond double precision.
    refused_error(
        lambda: task.write_answers([Answer(["s", "t"], outputs)], tmp_path / "out", scaling, {}),
        "prediction of sample 't': aptamer_04 is no finite number",
    )
    assert not list((tmp_path / "out").iterdir())


def test_anomalies_are_judged_by_the_test_samples_of_the_run(hospitals: Path, tmp_path: Path) -> None:
    """One sample alone can be one, and what its company is does not matter."""
    done = run(tmp_path / "run", hospitals, "centralized", "train.lr=0.01")
    (row,) = (row for row in done.json("eval_summary")["rows"] if row["data"] == "pooled")
    limits = [row["metrics"][f"a_{kind}_limit"] for kind in ("error", "distance")]
    table = pd.read_csv(hospitals / NORTH / "platform_a.csv").set_index(["sample", "donor"])
    strange = table.iloc[:2].copy()
    strange.iloc[1] = strange.iloc[1, ::-1].to_numpy() ** 2
    flags = {}
    for name, rows in (("both", strange), ("one", strange[1:])):
        rows.to_csv(tmp_path / f"{name}.csv")
        with warnings.catch_warnings(action="ignore"):
            assert predict(done.folder, tmp_path / f"{name}.csv", "--out", tmp_path / "out").exit_code == 0
        quality = pd.read_csv(tmp_path / "out" / name / "quality.csv").set_index("sample")
        latent = pd.read_csv(tmp_path / "out" / name / "latent.csv").set_index("sample").loc[quality.index]
        worse = quality["reconstruction_error"] > limits[0]
        assert quality["anomaly"].tolist() == (worse & ((latent**2).sum(axis=1) > limits[1])).tolist()
        flags[name] = quality["anomaly"][table.index[1][0]]
    assert flags == {"both": True, "one": True}
