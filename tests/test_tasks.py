"""One suite for every task and every config: a file in `tasks/` and its YAML are picked up by being there."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import TOY, Finished, conduct
from tests.new_task import added, write_files
from training.config import Experiment, load
from training.loading import fetch
from training.parameters import trainable_state, travelling_names, weights_hash
from training.preparation import build_network, check_leaks, complete, monitored
from training.runs import Run
from training.statistics import Statistics
from training.task import Task

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the task of docs/new_task.md, and a YAML for one that has a dotted path and no maker."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_files(folder)
    (folder / "configs" / "toy_task.yaml").write_text(yaml.safe_dump(TOY))
    with added(folder):
        yield folder


@pytest.fixture(scope="module", params=sorted({*NAMES, "stay", "toy_task"}))
def config(request: pytest.FixtureRequest, elsewhere: Path) -> Path:
    name = f"{request.param}.yaml"
    return ROOT / "configs" / name if request.param in NAMES else elsewhere / "configs" / name


@pytest.fixture(scope="module")
def data(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a maker of the task's name makes; where there is none, the data that the YAML names."""
    experiment = load(config)
    maker = f"datasets.synthetic.{experiment.task.rpartition('.')[2]}"
    if importlib.util.find_spec(maker) is None:
        return Path(experiment.options["data"])
    folder = tmp_path_factory.mktemp("synthetic") / config.stem
    importlib.import_module(maker).make(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def experiment(config: Path, data: Path) -> Experiment:
    return load(config, [f"options.data={data}", "federation.rounds=1", "federation.local_epochs=1"])


@pytest.fixture(scope="module")
def task(experiment: Experiment) -> Task:
    return experiment.build_task()


@pytest.fixture(scope="module")
def merged(task: Task) -> Statistics:
    names = task.clients()
    first = {name: task.statistics(name) for name in names}
    return complete(task, first, lambda known: {name: task.further_statistics(name, known) for name in names})


@pytest.fixture(scope="module")
def whole(task: Task) -> str:
    """A client that has data for every part of the network."""
    return next(client for client in task.clients() if not task.absent(client))


def test_every_task_has_a_config() -> None:
    assert sorted(path.stem for path in (ROOT / "tasks").glob("[a-z]*.py")) == NAMES


def test_clients_are_named_and_their_data_is_disjoint(task: Task) -> None:
    assert task.clients() == sorted(set(task.clients()))
    named = [client for client in task.clients() if task.identities(client)]
    assert named == ([] if type(task).identities is Task.identities else task.clients())
    check_leaks(task, task.clients())


def test_what_is_fitted_survives_json(task: Task, merged: Statistics) -> None:
    fitted = task.fit(merged, merged)
    assert task.Fitted.model_validate_json(fitted.model_dump_json()) == fitted
    assert Statistics.model_validate_json(merged.model_dump_json()) == merged


def test_same_seed_same_weights(task: Task, merged: Statistics) -> None:
    fitted = task.fit(merged, merged)
    hashes = [weights_hash(build_network(task, fitted, seed).state_dict()) for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_loss_is_finite_and_reaches_what_trains(task: Task, merged: Statistics, whole: str) -> None:
    fitted = task.fit(merged, merged)
    network = build_network(task, fitted, 0)
    batch = fetch(task.client_data(whole, fitted).train, [0, 1, 2, 3])
    loss = task.loss(task.forward(network, batch), batch)
    loss.total.backward()
    assert torch.isfinite(loss.total) and loss.count == 4
    silent = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    assert travelling_names(network, task.personal()) == sorted(trainable_state(network))


def test_the_headline_metric_exists(experiment: Experiment, task: Task, merged: Statistics) -> None:
    name, _ = monitored(experiment, task, task.fit(merged, merged))
    assert name == task.primary


def test_all_splits_hold_samples_and_are_described(task: Task, merged: Statistics) -> None:
    fitted = task.fit(merged, merged)
    for client in task.clients():
        data, described = task.client_data(client, fitted), task.describe(client)
        for split in ("train", "val", "test"):
            assert len(data.split(split)) == described[split] > 0


def test_one_round_in_all_three_settings(
    experiment: Experiment, task: Task, merged: Statistics, tmp_path: Path
) -> None:
    runs = {}
    for setting in ("centralized", "local", "federated"):
        run = Run.create(tmp_path / setting, experiment, setting)
        conduct(run)
        runs[setting] = Finished(run.folder)
    without_owner = [] if task.held_out(task.fit(merged, merged)) is None else ["held_out"]
    manifests = [run.json("manifest") for run in runs.values()]
    assert len({manifest["initial_sha256"] for manifest in manifests}) == 1
    assert len({manifest["budget"]["samples"] for manifest in manifests}) == 1
    for setting in ("centralized", "federated"):
        rows = runs[setting].json("eval_summary")["rows"]
        assert sorted(row["data"] for row in rows) == sorted([*task.clients(), "pooled", *without_owner])


def test_one_client_federated_equals_centralized(
    experiment: Experiment, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_class = type(experiment.build_task())
    monkeypatch.setattr(task_class, "clients", lambda self: [whole])
    federation = experiment.federation.model_copy(update={"rounds": 2, "optimizer_state": "kept"})
    alone = experiment.model_copy(update={"federation": federation})
    hashes = []
    for setting in ("centralized", "federated"):
        run = Run.create(tmp_path / setting, alone, setting)
        conduct(run)
        hashes.append(Finished(run.folder).hashes)
    assert hashes[0] == hashes[1]
