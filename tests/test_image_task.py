"""The image -> expression task: from files to scores, refusals in one line, and options that have an effect."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.columns import defined_mean, mse_by_column, spearman_by_column
from core.errors import UserError
from datasets.histology_splits import Draw, write_splits
from datasets.synthetic import image_expression
from models.image_regressor import ImageRegressor
from tests.commands import refused
from tests.commands import run as command
from tests.conftest import Finished, conduct
from tests.formula_weights import fill
from training.config import Experiment, load
from training.loading import fetch
from training.preparation import build_network, cache_folder, monitored
from training.runs import Run
from training.statistics import merge_statistics
from training.task import Task

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "image_expression.yaml"
SMALL = ["federation.rounds=2", "options.image_size=16"]
SITES = ["hospital_north", "hospital_south", "hospital_west"]


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tissue") / "study"
    image_expression.make(folder, patients=3, tiles_per_patient=6, size=16)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = ImageRegressor("tiny_cnn", 1)
    fill(network)
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save(network.encoder.state_dict(), path)
    return path


def experiment(data: Path, *overrides: str) -> Experiment:
    return load(CONFIG, [f"options.data={data}", *SMALL, *overrides])


def run(folder: Path, data: Path, setting: str, *overrides: str) -> Finished:
    made = Run.create(folder, experiment(data, *overrides), setting)  # type: ignore[arg-type]
    conduct(made)
    return Finished(made.folder)


def fitted(task: Task, *clients: str) -> Any:
    parts = {client: task.statistics(client) for client in task.clients()}
    own = {client: parts[client] for client in clients or task.clients()}
    return task.fit(merge_statistics(own), merge_statistics(parts))


def rows(data: Path, task: Task, split: str, *clients: str) -> pd.DataFrame:
    """Read what a split holds, straight from the CSV."""
    table = pd.read_csv(data / "metadata.csv", dtype={"group_id": str})
    tiles = [tile for client in clients for tile in task.identities(client)[split]["tile"]]
    return table.set_index("path").loc[tiles]


def test_targets_are_scaled_by_the_train_tiles_of_those_who_train(tissue: Path) -> None:
    task = experiment(tissue).build_task()
    for clients in (SITES, SITES[1:2]):
        scaling = fitted(task, *clients)
        values = rows(tissue, task, "train", *clients).filter(regex=r"^y\d+$").to_numpy()
        deviation = np.where(values.std(axis=0) < 1e-8, 1, values.std(axis=0))
        np.testing.assert_allclose(scaling.mean, values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(scaling.deviation, deviation, rtol=1e-9)
        assert scaling.training_mean == scaling.mean
        assert scaling.genes[-1] == "silent" and scaling.deviation[-1] == 1


def test_pixels_are_normalised_by_the_train_tiles(tissue: Path) -> None:
    task = experiment(tissue, "options.augment=false").build_task()
    scaling = fitted(task)
    files = [tissue / path for path in rows(tissue, task, "train", *SITES).index]
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]) / 255
    np.testing.assert_allclose(scaling.channel_mean, pixels.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(scaling.channel_deviation, pixels.std(axis=(0, 1, 2)))
    batches = [fetch(split, range(len(split))) for split in (task.client_data(site, scaling).train for site in SITES)]
    images = torch.cat([batch["image"] for batch in batches])
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.std(dim=(0, 2, 3)), torch.ones(3), rtol=0, atol=1e-3)


def test_samples_carry_targets_names_and_groups(tissue: Path) -> None:
    task = experiment(tissue).build_task()
    scaling = fitted(task)
    val = task.client_data(SITES[0], scaling).val
    expected = rows(tissue, task, "val", SITES[0])
    batch = fetch(val, range(len(val)))
    np.testing.assert_allclose(batch["target"], expected.filter(regex=r"^y\d+$").to_numpy(), rtol=1e-6)
    assert list(val.names) == expected.index.tolist() and list(val.units) == expected["group_id"].tolist()
    network = ImageRegressor("tiny_cnn", 24, mean=torch.tensor(scaling.mean), deviation=torch.tensor(scaling.deviation))
    torch.testing.assert_close(network.original_units(batch["scaled"]), batch["target"])


def test_only_training_tiles_are_changed_at_random(tissue: Path) -> None:
    task = experiment(tissue).build_task()
    data = task.client_data(SITES[0], fitted(task))
    assert [hasattr(split, "reseed") for split in (data.train, data.val, data.test)] == [True, False, False]


@pytest.fixture(scope="module")
def finished(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    folder = tmp_path_factory.mktemp("runs")
    return {setting: run(folder / setting, tissue, setting) for setting in ("centralized", "local", "federated")}


@pytest.mark.parametrize("setting", ["centralized", "local", "federated"])
def test_reported_scores_are_those_of_the_stored_predictions(finished: dict[str, Finished], setting: str) -> None:
    done = finished[setting]
    summary = done.json("eval_summary")
    assert (summary["primary"], summary["classes"][-1]) == ("spearman", "silent")
    assert "undefined_genes" not in summary["higher_is_better"] and summary["higher_is_better"]["mse"] is False
    stored = {path.stem: np.load(path) for path in (done.folder / "predictions").glob("*.npz")}
    checked = 0
    for row in summary["rows"]:
        if row["data"] == "pooled":
            models = SITES if setting == "local" else [setting] * 3
            parts = [stored[f"{model}__{site}"] for model, site in zip(models, SITES, strict=True)]
        else:
            parts = [stored[f"{row['model']}__{row['data']}"]]
        target, predicted = (
            np.concatenate([part[key] for part in parts]).astype(np.float64) for key in ("target", "predicted")
        )
        spearman = spearman_by_column(target, predicted)
        assert row["metrics"]["spearman"] == pytest.approx(defined_mean(spearman), abs=1e-9)
        assert row["metrics"]["mse"] == pytest.approx(mse_by_column(target, predicted).mean(), abs=1e-9)
        assert row["metrics"]["undefined_genes"] == np.isnan(spearman).sum() >= 1
        assert len(row["arrays"]["r2_per_gene"]) == 24 and row["support"] == len(target)
        checked += 1
    assert checked == {"centralized": 5, "local": 13, "federated": 5}[setting]


def test_splits_are_recorded_with_groups_and_hashes(finished: dict[str, Finished], tissue: Path) -> None:
    task = experiment(tissue).build_task()
    client = finished["federated"].json("manifest")["clients"][SITES[0]]
    assert client["groups"] == {"train": 1, "val": 1, "test": 1} and client["train"] == 6
    for split in ("train", "val", "test"):
        entry = client["files"][split]
        assert entry["units"] == task.identities(SITES[0])[split]["group"] and len(entry["sha256"]) == 64


EFFECTS = [
    "options.augment=false",
    "options.colour_jitter=0.2",
    "options.normalize=none",
    "options.normalize=imagenet",
    "options.normalize_target=false",
    "options.image_size=24",
    "options.freeze_encoder=true",
    "options.split_seed=1",
    "seed=7",
]


@pytest.mark.parametrize("override", EFFECTS)
def test_every_option_has_an_effect(finished: dict[str, Finished], tissue: Path, tmp_path: Path, override: str) -> None:
    assert run(tmp_path / "changed", tissue, "centralized", override).hashes != finished["centralized"].hashes


def test_stored_weights_start_the_encoder_and_imply_imagenet(tissue: Path, weights: Path) -> None:
    overrides = [f"options.weights_path={weights}", "options.normalize=null"]
    task = experiment(tissue, *overrides).build_task()
    scaling = fitted(task)
    network = build_network(task, scaling, 0)
    expected = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in network.encoder.state_dict().items())
    assert scaling.channel_mean == pytest.approx([0.485, 0.456, 0.406])
    chosen = fitted(experiment(tissue, overrides[0], "options.normalize=none").build_task())
    assert chosen.channel_mean == [0, 0, 0]


def test_features_of_a_frozen_encoder_are_computed_once(tissue: Path, weights: Path, tmp_path: Path) -> None:
    overrides = ["options.freeze_encoder=true", f"options.weights_path={weights}", "options.augment=false"]
    tissue = Path(shutil.copytree(tissue, tmp_path / "study", ignore=shutil.ignore_patterns(".cache")))
    cached = run(tmp_path / "cached", tissue, "federated", *overrides)
    kept = list((cache_folder(tissue) / "features").glob("*.safetensors"))
    again = run(tmp_path / "again", tissue, "federated", *overrides)
    without = run(tmp_path / "without", tissue, "federated", *overrides, "train.cache_features=false")
    assert len(kept) == 10 and cached.hashes == again.hashes == without.hashes
    predicted = [np.load(done.folder / "predictions" / "federated__hospital_west.npz") for done in (cached, without)]
    np.testing.assert_allclose(predicted[0]["predicted"], predicted[1]["predicted"], atol=1e-5)
    assert (predicted[0]["unit"] == predicted[1]["unit"]).all()


def test_a_split_file_of_the_command_trains_all_settings(tissue: Path, tmp_path: Path) -> None:
    out = tmp_path / "split.csv"
    write_splits(tissue / "metadata.csv", out, Draw(3), group_col="group_id", path_col="path", client_col="site")
    done = run(tmp_path / "run", tissue, "local", f"options.split={out}", "federation.rounds=1")
    client = done.json("manifest")["clients"]["hospital_west"]
    assert (client["train"], client["val"], client["test"]) == (12, 6, 6)
    assert client["files"]["test"]["borrowed_from"] == "val" and client["files"]["val"]["file"] == "split.csv"


@pytest.mark.parametrize("backbone", ["resnet18", "tiny_cnn"])
def test_a_step_lowers_the_loss(tissue: Path, backbone: str) -> None:
    task = experiment(tissue, f"options.backbone={backbone}", "options.image_size=32").build_task()
    assert task.variant() == backbone
    scaling = fitted(task)
    network = build_network(task, scaling, 0)
    batch = fetch(task.client_data(SITES[0], scaling).train, range(4))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-4)
    losses = []
    for _ in range(3):
        loss = task.loss(task.forward(network, batch), batch)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.total.item())
    assert loss.count == 4 and losses[2] < losses[0]


def test_the_headline_can_be_replaced_by_another_score(tissue: Path) -> None:
    made = experiment(tissue, "train.monitor=skill")
    task = made.build_task()
    assert monitored(made, task, fitted(task)) == ("skill", True)
    counted = experiment(tissue, "train.monitor=undefined_genes")
    with pytest.raises(UserError, match=r"unknown metric; choose one of loss, .*spearman"):
        monitored(counted, task, fitted(task))


def table_changed(change: Callable[[pd.DataFrame], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        table = pd.read_csv(folder / "metadata.csv", dtype=str)
        change(table)
        table.to_csv(folder / "metadata.csv", index=False)

    return act


def set_cell(at: int, column: str, value: str) -> Callable[[Path], None]:
    def change(table: pd.DataFrame) -> None:
        table.loc[at, column] = value

    return table_changed(change)


def nothing(folder: Path) -> None:
    """Leave the data as it is: an option is wrong."""


FIRST, THIRD = "tiles/hospital_north/000_00.png", "tiles/hospital_north/000_02.png"
DEALT = ["options.client_key=null", "options.held_out_client=held_out"]
SPOILED: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "missing image": (lambda folder: (folder / THIRD).unlink(), [], ["row 3, line 4", "no such image file"]),
    "unreadable image": (
        lambda folder: (folder / THIRD).write_bytes((folder / FIRST).read_bytes()[:-40]),
        ["options.normalize=none", "train.loader_workers=2"],
        ["000_02.png", "not a readable image"],
    ),
    "duplicate path": (set_cell(4, "path", FIRST), [], ["row 5, line 6", "that of row 1, line 2 again"]),
    "NaN target": (set_cell(6, "y3", ""), [], ["row 7, line 8", "y3 = ''"]),
    "other K": (nothing, ["options.target_dim=50"], ["has 24 targets", "target_dim is 50"]),
    "group at two clients": (
        set_cell(20, "group_id", "000"),
        [],
        ["group_id '000' is in two places", "row 21, line 22"],
    ),
    "no group column": (nothing, ["options.group_key=patient"], ["no column 'patient'"]),
    "no clients": (nothing, DEALT, ["client_key, partition: give one of the two"]),
    "too few groups": (nothing, [*DEALT, "options.partition={clients: 9}"], ["three needed for train, val and test"]),
    "unknown held-out client": (nothing, ["options.held_out_client=nobody"], ["site is nowhere 'nobody'"]),
    "gene names": (
        lambda folder: (folder / "genes.txt").write_text("one\n"),
        [],
        ["1 different gene names for 24 targets"],
    ),
    "no weights": (nothing, ["options.weights_path=none.pth"], ["none.pth: no such file"]),
    "unknown backbone": (nothing, ["options.backbone=vit"], ["options.backbone = 'vit'", "resnet18"]),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_cannot_be_used_is_refused_in_one_line(tissue: Path, tmp_path: Path, name: str) -> None:
    spoil, overrides, expected = SPOILED[name]
    folder = tmp_path / "study"
    shutil.copytree(tissue, folder, ignore=shutil.ignore_patterns(".cache"))
    spoil(folder)
    arguments = [CONFIG, f"options.data={folder}", *SMALL, *overrides, "--results", tmp_path / "results"]
    refused(command("centralized", *arguments), *expected)


def test_weights_of_another_backbone_are_refused(tissue: Path, weights: Path, tmp_path: Path) -> None:
    overrides = [f"options.weights_path={weights}", "options.backbone=resnet18"]
    arguments = [CONFIG, f"options.data={tissue}", *SMALL, *overrides, "--results", tmp_path / "results"]
    refused(command("fl", *arguments), str(weights), "backbone resnet18", "is missing")
