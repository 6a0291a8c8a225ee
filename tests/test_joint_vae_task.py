"""The proteomics task: what is fitted, what a network gets and is scored on, and what each option does."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from core.columns import pearson_by_column
from datasets.__main__ import app as datasets_app
from datasets.proteomics_scaling import Preprocessing
from tasks._joint_vae_passes import learn
from tests.commands import refused
from tests.conftest import Finished
from tests.proteomics_studies import (
    CLIENTS,
    CONFIG,
    MODELS,
    ONE_PLATFORM,
    PAIRED,
    experiment,
    fitted,
    of_type,
    run,
    without,
)
from training.config import load
from training.imputation import ImputationScores
from training.loading import fetch
from training.preparation import build_network, monitored
from training.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


# Statistics


@pytest.fixture(scope="module")
def pool(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same samples as one client, and a file with the splits that they have as several."""
    folder = tmp_path_factory.mktemp("pool")
    task = experiment(hospitals).build_task()
    rows = [
        (name, split)
        for client in task.clients()
        for split, levels in task.identities(client).items()
        for name in levels["sample"]
    ]
    pd.DataFrame(rows, columns=["id", "split"]).to_csv(folder / "split.csv", index=False)
    (folder / "study" / "pool").mkdir(parents=True)
    for platform in "ab":
        tables = [
            pd.read_csv(path, dtype=str, keep_default_na=False)
            for path in sorted(hospitals.glob(f"*/platform_{platform}.csv"))
        ]
        whole = pd.concat([one for one in tables if not one["donor"].str.startswith("hospital_east").any()])
        whole.to_csv(folder / "study" / "pool" / f"platform_{platform}.csv", index=False)
    return folder / "study", folder / "split.csv"


@pytest.mark.parametrize("scaler", ["zscore", "minmax", "robust"])
@pytest.mark.parametrize("missing", ["mean", "median"])
def test_merged_statistics_are_those_of_the_pool(
    hospitals: Path, pool: tuple[Path, Path], scaler: str, missing: str
) -> None:
    steps = [
        f"options.preparation.normalization_method={scaler}",
        f"options.preparation.missing_value_strategy={missing}",
    ]
    data, split = pool
    several = experiment(hospitals, *steps, "options.fractions=[0.8,0.1,0.1]").build_task()
    one = experiment(data, *steps, f"options.split={split}", "options.held_out_client=held_out").build_task()
    merged, pooled = fitted(several), fitted(one)
    bound = {"mean": 1e-9, "median": 0.01}[missing] if scaler != "robust" else 0.01
    for platform in "ab":
        own, other = merged.of(platform), pooled.of(platform)
        assert own.features == other.features and own.log == other.log
        rows = one._study().train_values("pool", platform)
        exact = Preprocessing.from_rows(own.features, rows, one.preparation.steps(platform))
        for field in ("fill", "centre", "scale"):
            found = np.asarray(getattr(own, field))
            np.testing.assert_allclose(found, getattr(other, field), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found, getattr(exact, field), rtol=bound, atol=bound)
        seen = own.apply(rows)
        assert np.isfinite(seen).all() and exact.log is not None
        if scaler == "zscore" and missing == "mean":
            np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-9)
            np.testing.assert_allclose(seen.std(axis=0), 1, atol=1e-9)


def test_who_trains_alone_is_scaled_by_its_own_samples(hospitals: Path) -> None:
    task = experiment(hospitals).build_task()
    everyone, north, coast = fitted(task), fitted(task, PAIRED[0]), fitted(task, ONE_PLATFORM)
    values = task._study().train_values(PAIRED[0], "b")
    np.testing.assert_allclose(north.b.apply(values).mean(axis=0), 0, atol=1e-9)
    assert coast.a != everyone.a and coast.b == everyone.b, "of a platform it does not have it knows what all agreed on"


@pytest.mark.parametrize("scope", ["federated", "local", "given"])
def test_scope_of_the_scaling(hospitals: Path, tmp_path: Path, scope: str) -> None:
    other = fitted(experiment(hospitals).build_task(), PAIRED[1])
    (tmp_path / "given.json").write_text(other.model_dump_json())
    given = [f"options.preparation={{normalization_scope: given, given: {tmp_path / 'given.json'}}}"]
    log = "log_a: true, log_b: true"
    chosen = given if scope == "given" else [f"options.preparation={{normalization_scope: {scope}, {log}}}"]
    task = experiment(hospitals, *chosen).build_task()
    scaling = fitted(task)
    train = task.client_data(PAIRED[0], scaling).train
    means = {key: fetch(train, range(len(train)))[key].mean(0).abs().max() for key in "ab"}
    assert ((scaling.a, scaling.b) == (other.a, other.b)) is (scope == "given")
    names = task.clients()
    sums = task.further_statistics(names[0], task.statistics(names[0])).arrays
    assert bool(sums) is (scope != "given"), "where the scaling is given, nothing is summed up"
    centred = max(float(value) for value in means.values()) < 0.05
    assert centred is (scope == "local")


# What a network gets


OPTIONS = {
    "mean": [],
    "median": ["options.preparation.missing_value_strategy=median"],
    "knn": ["options.preparation.missing_value_strategy=knn"],
    "drop": ["options.preparation.missing_value_strategy=drop", "options.fractions=[0.5,0.25,0.25]"],
    "minmax": ["options.preparation.normalization_method=minmax"],
    "robust": ["options.preparation.normalization_method=robust"],
    "log of one platform": ["options.preparation.log_a=false"],
    "no log": ["options.preparation={}"],
    "scaled by each client": ["options.preparation.normalization_scope=local"],
    "other fractions": ["options.fractions=[0.6,0.2,0.2]"],
    "samples, not donors": ["options.unit_key=null"],
    "pairs only": ["options.keep_unpaired=false"],
    "other splits": ["options.split_seed=7"],
    "several draws": ["options.n_samples=3"],
    "no ranks": ["options.spearman=false"],
}


@pytest.fixture(scope="module")
def plain(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(tmp_path_factory.mktemp("plain") / "run", hospitals, "centralized", "federation.rounds=1")


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_runs_and_has_an_effect(hospitals: Path, plain: Finished, tmp_path: Path, name: str) -> None:
    overrides = OPTIONS[name]
    data = hospitals
    if name == "samples, not donors":  # The column is then a feature, unless it is taken out.
        data = tmp_path / "study"
        for path in hospitals.glob("*/*.csv"):
            target = data / path.relative_to(hospitals)
            target.parent.mkdir(parents=True, exist_ok=True)
            pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="donor").to_csv(target, index=False)
    done = run(tmp_path / "run", data, "centralized", "federation.rounds=1", *overrides)
    assert done.json("status")["status"] == "completed"
    assert math.isfinite(done.value("centralized", "held_out", "cross_corr_mean"))
    idle = name in ("mean", "several draws", "no ranks")  # These concern scores and new data, not training.
    assert (done.hashes == plain.hashes) is idle
    ranked = "cross_spearman_mean" in done.json("eval_summary")["higher_is_better"]
    assert ranked is (name != "no ranks")


def network_of(task: Task, scaling: Any) -> Any:
    return build_network(task, scaling, 0)


def mixed(task: Task, scaling: Any) -> dict[str, torch.Tensor]:
    """Put samples on both platforms and on each alone in one batch, as a pool does."""
    batches = [fetch(task.client_data(client, scaling).train, range(4)) for client in CLIENTS]
    batch = {name: torch.cat([one[name] for one in batches]) for name in batches[0]}
    batch["has_a"][-2:], batch["a"][-2:] = False, 0
    return batch


@pytest.mark.parametrize("name", [name for name in MODELS if name != "res_unet"])
def test_terms_of_a_mixed_batch_are_those_of_its_groups(hospitals: Path, name: str) -> None:
    task = experiment(hospitals, *of_type(name)).build_task()
    scaling = fitted(task)
    network, batch = network_of(task, scaling).eval(), mixed(task, scaling)
    outputs = task.forward(network, batch)
    groups = {"ab": batch["has_a"] & batch["has_b"], "a": ~batch["has_b"], "b": ~batch["has_a"]}
    total = torch.zeros(())
    for present, rows in groups.items():
        given = (
            network(batch["a"][rows], batch["b"][rows])
            if present == "ab"
            else network.single(batch[present][rows], present)
        )
        total = total + given["total_loss"] * rows.sum() / len(rows)
    torch.testing.assert_close(task.loss(outputs, batch).total, total)
    assert not outputs["cross_a"][groups["b"]].any() and not outputs["recon_b"][groups["a"]].any()
    assert outputs["cross_b"][groups["ab"]].any(1).all()


@pytest.mark.parametrize("alone", ["ab", "a", "b"])
def test_a_lone_sample_of_its_kind_trains_by_running_statistics(hospitals: Path, alone: str) -> None:
    task = experiment(hospitals, *of_type("joint_vae")).build_task()
    scaling = fitted(task)
    network, batch = network_of(task, scaling).train(), mixed(task, scaling)
    kinds = {"ab": batch["has_a"] & batch["has_b"], "a": ~batch["has_b"], "b": ~batch["has_a"]}
    rows = [*kinds[alone].nonzero()[:1, 0], *(kinds["a" if alone != "a" else "ab"].nonzero()[:2, 0])]
    small = {name: value[torch.stack(rows)] for name, value in batch.items()}
    loss = task.loss(task.forward(network, small), small)
    loss.total.backward()
    assert torch.isfinite(loss.total) and loss.count == 3
    assert all(module.training for module in network.modules())


def test_weighted_terms_of_a_mixed_batch_add_up_to_the_total(hospitals: Path) -> None:
    task = experiment(hospitals, *of_type("joint_vae")).build_task()
    scaling = fitted(task)
    network, batch = network_of(task, scaling).eval(), mixed(task, scaling)
    loss = task.loss(learn(network, batch, ()), batch)
    shares = {name: weight * loss.counts[name] / loss.count for name, weight in network.weights().items()}
    torch.testing.assert_close(loss.total, sum(share * loss.parts[name] for name, share in shares.items()))


def test_a_term_that_needs_pairs_is_the_mean_over_pairs(hospitals: Path) -> None:
    task = experiment(hospitals, *of_type("joint_vae")).build_task()
    scaling = fitted(task)
    network, batch = network_of(task, scaling).eval(), mixed(task, scaling)
    both = batch["has_a"] & batch["has_b"]
    alone = network(batch["a"][both], batch["b"][both])
    loss = task.loss(task.forward(network, batch), batch)
    assert loss.counts["cross_loss"] == both.sum() < loss.count == loss.counts["recon_loss"]
    assert not any(one.requires_grad for one in loss.sums().values()), "sums of an epoch keep no graph"
    for name in ("cross_loss", "align_loss"):
        torch.testing.assert_close(loss.parts[name], alone[name])


# Scores


@pytest.mark.parametrize("name", MODELS)
def test_the_same_scores_can_be_watched_for_every_type(hospitals: Path, tmp_path: Path, name: str) -> None:
    data = without(hospitals, ONE_PLATFORM, tmp_path / "pairs") if name == "res_unet" else hospitals
    for metric, better in {"cross_a_corr_mean": True, "cross_b_r2": True, "cross_b_mse": False, "loss": False}.items():
        watched = experiment(data, *of_type(name), f"train.monitor={metric}")
        task = watched.build_task()
        assert monitored(watched, task, fitted(task)) == (metric, better)


@pytest.fixture(scope="module")
def finished(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    folder = tmp_path_factory.mktemp("runs")
    return {setting: run(folder / setting, hospitals, setting) for setting in ("centralized", "local", "federated")}


@pytest.mark.parametrize("setting", ["centralized", "local", "federated"])
def test_reported_scores_are_those_of_the_stored_predictions(finished: dict[str, Finished], setting: str) -> None:
    done, checked = finished[setting], 0
    for row in done.json("eval_summary")["rows"]:
        path = done.folder / "predictions" / f"{row['model']}__{row['data']}.npz"
        if row["data"] == "pooled":
            continue
        stored = np.load(path)
        both = stored["has_a"] & stored["has_b"]
        each = [
            pearson_by_column(stored[f"target_{p}"][both].astype(float), stored[f"cross_{p}"][both].astype(float))
            for p in "ab"
        ]
        if row["data"] == ONE_PLATFORM:
            assert not both.any() and row["metrics"]["cross_corr_mean"] is None
            assert math.isfinite(row["metrics"]["recon_a_corr_mean"])
        elif row["model"] == ONE_PLATFORM:  # It has seen no pair, so what it says across platforms is noise.
            assert both.any() and row["metrics"]["cross_corr_mean"] is row["metrics"]["cross_spearman_mean"] is None
        else:
            assert row["metrics"]["cross_corr_mean"] == pytest.approx(
                np.mean([np.nanmean(one) for one in each]), abs=1e-6
            )
            assert row["arrays"]["cross_corr_per_feature"] == pytest.approx(np.concatenate(each), abs=1e-6)
            pairs = dict.fromkeys(("cross_corr_mean", "cross_spearman_mean", "cross_b_mse", "cross_loss"), both.sum())
            supports = {name: row["supports"].get(name, row["support"]) for name in pairs}
            assert supports == pairs and row["supports"].get("recon_a_mse", len(both)) == stored["has_a"].sum()
        checked += 1
    assert checked == {"centralized": 5, "local": 20, "federated": 5}[setting]


def test_features_are_named_by_platform(finished: dict[str, Finished], hospitals: Path) -> None:
    summary = finished["federated"].json("eval_summary")
    assert (summary["classes"][0], summary["classes"][-1]) == ("A: antibody_01", "B: aptamer_50")
    assert ImputationScores(40, 50).higher_is_better.items() <= summary["higher_is_better"].items()
    described = finished["federated"].json("manifest")["clients"]
    assert described[ONE_PLATFORM]["platforms"] == "a" and described[PAIRED[0]]["platforms"] == "a, b"


# Words


def test_the_blocks_of_the_documentation_are_experiments(hospitals: Path, tmp_path: Path) -> None:
    page = (CONFIG.parent.parent / "docs" / "tasks.md").read_text()
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "task: joint_vae" in block]
    shapes = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        held_out = ["options.unit_key=donor", "options.held_out_client=hospital_east"]
        task = load(path, [f"options.data={hospitals}", *held_out]).build_task()
        shapes.append(network_of(task, fitted(task)).config.model.encoder_layers)
    assert shapes == [(1024,), (512, 256, 128)]


def test_a_pair_of_tables_is_split_by_command(hospitals: Path, tmp_path: Path) -> None:
    files = [hospitals / PAIRED[0] / f"platform_{platform}.csv" for platform in "ab"]
    words = ["proteomics-split", *files, tmp_path / "parts", "--test-size", "0.25", "--unit-column", "donor"]
    done = CliRunner().invoke(datasets_app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0
    parts = [pd.read_csv(tmp_path / "parts" / f"platform_{p}_{s}.csv") for p in "ab" for s in ("train", "test")]
    assert parts[0]["sample"].tolist() == parts[2]["sample"].tolist() and not set(parts[0]["donor"]) & set(
        parts[1]["donor"]
    )
    again = CliRunner().invoke(datasets_app, [*map(str, words)], catch_exceptions=False)
    refused(again, "platform_a_train.csv: is there already")
