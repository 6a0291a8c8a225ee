"""The proteomics task federated: every model type, clients that hold one platform, parties with their own files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from core.errors import UserError
from fl.client_app import app as client_app
from fl.exchange import to_arrays
from fl.global_model import GlobalModel
from fl.inprocess import InProcessGrid
from fl.strategies import Aggregator, Update
from reports.report import write_report
from tests.conftest import Finished
from tests.proteomics_studies import (
    CLIENTS,
    CONFIG,
    MODELS,
    ONE_PLATFORM,
    PAIRED,
    SHORT,
    WITH_LATENT,
    experiment,
    fitted,
    made,
    of_type,
    run,
    without,
)
from tests.test_flower import federate as launched
from tests.test_own_data import federate
from training import checkpoints
from training.federation import FedAvg
from training.loading import fetch
from training.parameters import fits, trainable_state
from training.preparation import build_network

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


@pytest.fixture(scope="module")
def pairs(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without(hospitals, ONE_PLATFORM, tmp_path_factory.mktemp("pairs") / "study")


# Every type


@pytest.mark.parametrize("name", MODELS)
def test_every_type_is_federated(hospitals: Path, pairs: Path, tmp_path: Path, name: str) -> None:
    data = pairs if name == "res_unet" else hospitals
    done = run(tmp_path / "run", data, "federated", *of_type(name))
    assert done.json("status")["status"] == "completed"
    state = checkpoints.load(done.folder / "model_final.pt")["state"]
    assert all(bool(value.isfinite().all()) for value in state.values())
    scores = done.json("eval_summary")["rows"][-1]["metrics"]
    assert np.isfinite([scores["loss"], scores["cross_corr_mean"], scores["cross_a_mse"]]).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_average_of_equal_updates_is_each_of_them(hospitals: Path, pairs: Path, name: str) -> None:
    task = experiment(pairs if name == "res_unet" else hospitals, *of_type(name)).build_task()
    scaling = fitted(task)
    network = build_network(task, scaling, 0).train()
    batch = fetch(task.client_data(PAIRED[0], scaling).train, range(16))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    task.loss(task.forward(network, batch), batch).total.backward()
    optimizer.step()
    state = trainable_state(network)
    arrays = to_arrays(state, sorted(state))
    InProcessGrid(client_app, 1)  # Names the process to Flower, whose messages carry the updates.
    updates = {client: Update(arrays, samples, 0.0) for client, samples in zip(PAIRED, (3, 5, 11), strict=True)}
    old = {key: np.zeros_like(value) for key, value in arrays.items()}
    new = Aggregator(FedAvg(), dict(network.named_parameters())).aggregate(1, old, updates)
    for key, value in arrays.items():
        assert new[key].dtype == value.dtype
        np.testing.assert_array_equal(new[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("joint_vae", "adamw"),
        ("joint_vae", "sgd"),
        ("joint_vae_plus", "adamw"),
        ("JointVAEVampPrior", "adamw"),
        ("JointVQ, averages", "sgd"),
        ("autoregressive", "sgd"),
    ],
)
def test_one_client_federated_is_centralized(hospitals: Path, tmp_path: Path, name: str, optimizer: str) -> None:
    """Schedules by step (plus) and by epoch (VampPrior) go on over rounds, and restart in none."""
    for client in (*CLIENTS, "hospital_east"):
        if client in (PAIRED[0], "hospital_east"):
            shutil.copytree(hospitals / client, tmp_path / "study" / client)
    annealed = {"training": {"anneal_epochs": 5}} if name == "JointVAEVampPrior" else {}
    kept = {"adamw": "kept", "sgd": "fresh"}[optimizer]
    options = [*of_type(name, **annealed), f"train.optimizer={optimizer}", f"federation.optimizer_state={kept}"]
    options += ["federation.local_epochs=2", "train.lr=0.01"]
    runs = [run(tmp_path / setting, tmp_path / "study", setting, *options) for setting in ("centralized", "federated")]
    assert runs[0].hashes == runs[1].hashes
    scores = [
        one.value(setting, "held_out", "cross_corr_mean")
        for one, setting in zip(runs, ("centralized", "federated"), strict=True)
    ]
    assert scores[0] == scores[1]


# One platform


@pytest.fixture(scope="module")
def rounds(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, list[Any]]:
    """A federation, and what went into each of its averages."""
    seen: list[Any] = []
    advance = GlobalModel.advance

    def watched(self: GlobalModel, number: int, updates: Any, samples: int) -> None:
        advance(self, number, updates, samples)
        seen.append((dict(updates), dict(self.arrays)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GlobalModel, "advance", watched)
        return run(tmp_path_factory.mktemp("rounds") / "run", hospitals, "federated", "train.select=last"), seen


FOREIGN = ("encoder_b*", "decoder_b*")


def test_a_client_with_one_platform_sends_nothing_of_the_other(rounds: tuple[Finished, list[Any]]) -> None:
    done, seen = rounds
    up = done.json("history")["steps"][0]["bytes_up"]
    updates, arrays = seen[0]
    missing = sum(value.nbytes for name, value in arrays.items() if fits(name, FOREIGN))
    assert missing > 0 and up[PAIRED[0]] == up[PAIRED[1]] == up[ONE_PLATFORM] + missing
    assert not [name for name in updates[ONE_PLATFORM].arrays if fits(name, FOREIGN)]


def test_what_one_client_lacks_is_the_average_of_those_who_have_it(rounds: tuple[Finished, list[Any]]) -> None:
    for updates, arrays in rounds[1]:
        for name, value in arrays.items():
            if not np.issubdtype(value.dtype, np.floating):
                continue
            holders = PAIRED if fits(name, FOREIGN) else CLIENTS
            weights = [updates[client].samples for client in holders]
            expected = np.average([updates[client].arrays[name] for client in holders], axis=0, weights=weights)
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("name", WITH_LATENT)
def test_a_client_with_one_platform_trains_its_own_part_only(hospitals: Path, tmp_path: Path, name: str) -> None:
    """Alone it trains, too: what it never saw stays as it was, and its scores across platforms are not defined."""
    (tmp_path / "study").mkdir()
    for client in (ONE_PLATFORM, PAIRED[0]):
        shutil.copytree(hospitals / client, tmp_path / "study" / client)
    options = [*of_type(name), "options.held_out_client=held_out", "federation.rounds=1"]
    done = run(tmp_path / "run", tmp_path / "study", "local", *options)
    assert done.json("status")["status"] == "completed"
    task = experiment(tmp_path / "study", *options).build_task()
    fresh = build_network(task, fitted(task, ONE_PLATFORM), 42).state_dict()
    state = checkpoints.load(done.folder / f"model_final.{ONE_PLATFORM}.pt")["state"]
    absent = task.absent(ONE_PLATFORM)
    assert absent and task.absent(PAIRED[0]) == ()
    changed = {name for name, value in state.items() if not torch.equal(value, fresh[name])}
    assert changed and not [name for name in changed if fits(name, absent)]
    rows = {(row["model"], row["data"]): row["metrics"] for row in done.json("eval_summary")["rows"]}
    assert rows[ONE_PLATFORM, ONE_PLATFORM]["cross_corr_mean"] is None
    assert np.isfinite(rows[ONE_PLATFORM, ONE_PLATFORM]["recon_a_corr_mean"])
    assert np.isfinite(rows["local", "pooled"]["cross_corr_mean"])


def test_a_report_of_all_three_settings_says_where_a_score_is_not_defined(hospitals: Path, tmp_path: Path) -> None:
    folders = [
        run(tmp_path / setting, hospitals, setting, "federation.rounds=1").folder
        for setting in ("centralized", "local", "federated")
    ]
    page = write_report(folders, tmp_path / "report").read_text()
    assert ONE_PLATFORM in page and "cross_corr_mean" in page and "Traceback" not in page


# Parties with their own files


def party(study: Path, folder: Path, client: str) -> Path:
    shutil.copytree(study / client, folder / client)
    return folder


def with_more(path: Path) -> None:
    """Measure a protein that nobody else has, in the first place."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.insert(2, "antibody_00", "1.5")
    table.to_csv(path, index=False)


@pytest.mark.parametrize("name", ["joint_vae", "joint_vae_plus", "JointVQ, averages"])
def test_parties_with_their_own_files_reach_the_weights_of_the_simulation(
    hospitals: Path, tmp_path: Path, name: str
) -> None:
    """One of them has one platform only, another a protein that nobody else has; the server has the held-out set."""
    whole = Path(shutil.copytree(hospitals, tmp_path / "whole"))
    with_more(whole / PAIRED[1] / "platform_a.csv")
    simulated = run(tmp_path / "simulated", whole, "federated", *of_type(name))
    parties = [party(whole, tmp_path / client, client) for client in CLIENTS]
    (tmp_path / "empty").mkdir()
    for server in (party(whole, tmp_path / "server", "hospital_east"), tmp_path / "empty"):
        deployed = federate(tmp_path / f"run-{server.name}", experiment(server, *of_type(name)), parties)
        assert deployed.hashes == simulated.hashes
        rows = [{row["data"]: row for row in one.json("eval_summary")["rows"]} for one in (deployed, simulated)]
        assert ("held_out" in rows[0]) == (server.name == "server")
        assert all(rows[1][data] == row for data, row in rows[0].items())


def test_parties_without_a_common_feature_are_refused(hospitals: Path, tmp_path: Path) -> None:
    parties = [party(hospitals, tmp_path / client, client) for client in PAIRED[:2]]
    own = parties[0] / PAIRED[0]
    (own / "platform_a.csv").rename(own / "other.csv")
    (own / "platform_b.csv").rename(own / "platform_a.csv")
    (own / "other.csv").rename(own / "platform_b.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="clients share no feature of platform a; name features alike, and check that"):
        federate(tmp_path / "run", experiment(tmp_path / "empty"), parties)


# The three settings


@pytest.mark.parametrize("seed", [42, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_joining_pays_and_pooling_pays_more(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    data = made(tmp_path_factory.mktemp("whole") / "study", scale=1.0)
    folder = tmp_path_factory.mktemp("settings")
    options = ["federation.rounds=15", "federation.local_epochs=2", "train.batch_size=32", "options.spearman=false"]
    scores: dict[str, dict[str, float]] = {}
    for setting in ("centralized", "federated", "local"):
        done = run(folder / setting, data, setting, *options, f"seed={seed}")
        members = PAIRED if setting == "local" else [setting]  # Who has one platform cannot learn across.
        alone = [done.value(member, "held_out", "cross_corr_mean") for member in members]
        pooled = done.value(setting, "pooled", "cross_corr_mean")
        scores[setting] = {"held_out": float(np.mean(alone)), "pooled": pooled}
    for data_set in ("held_out", "pooled"):
        centralized, federated, local = (scores[name][data_set] for name in ("centralized", "federated", "local"))
        assert centralized > federated + 0.01 and federated > local + 0.01, scores


@pytest.mark.slow
def test_another_type_has_the_same_weights_in_one_process_and_on_ray(hospitals: Path, tmp_path: Path) -> None:
    options = [f"options.data={hospitals}", *of_type("joint_vae_plus"), *SHORT]
    runs = [launched(tmp_path / engine, CONFIG, engine, *options) for engine in ("inprocess", "flower")]
    assert [code for _, code, _ in runs] == [0, 0], [error for *_, error in runs]
    assert runs[0][0].hashes == runs[1][0].hashes
    assert len({(done.folder / "eval_summary.json").read_text() for done, *_ in runs}) == 1
