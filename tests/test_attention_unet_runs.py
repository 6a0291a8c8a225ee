"""Rosette runs: equal weights on every way, splits from a file, predictions for new images, and the experiments."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from click.testing import Result
from typer.testing import CliRunner

from datasets.__main__ import app as datasets_app
from datasets.rosette_augmentation import CHANGES
from datasets.rosette_objects import label_rosettes, rosette_mask
from tasks.attention_unet import PIXEL, AttentionUNetTask, Channels
from tests.commands import refused
from tests.commands import run as command
from tests.conftest import Finished
from tests.rosette_runs import CLIENTS, CONFIG, ROOT, SETTINGS, SMALL, STORED, open_task, run, tissue
from training.config import experiment_names, load
from training.loading import fetch
from training.trained import open_trained

__all__ = ["tissue"]

EVERY_CHANGE = [f"options.augmentation.{name}=0.6" for name in CHANGES]


# Equal weights


@pytest.mark.parametrize(
    "optimizer",
    [["train.optimizer={name: sgd, momentum: 0.0}"], ["federation.optimizer_state=kept"]],
    ids=["sgd", "kept"],
)
def test_one_client_federated_equals_centralized_with_all_augmentations(
    tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: list[str]
) -> None:
    monkeypatch.setattr(AttentionUNetTask, "clients", lambda self: ["R2"])
    overrides = [*EVERY_CHANGE, *optimizer, "federation.local_epochs=2", "train.select=last"]
    runs = [run(tmp_path / setting, tissue, setting, *overrides) for setting in ("centralized", "federated")]
    assert runs[0].hashes == runs[1].hashes
    plain = run(tmp_path / "plain", tissue, "centralized", *overrides[len(EVERY_CHANGE) :])
    assert plain.hashes != runs[0].hashes


@pytest.mark.parametrize("setting", ["centralized", "federated"])
def test_loader_workers_change_nothing(tissue: Path, tmp_path: Path, setting: str) -> None:
    runs = [
        run(tmp_path / str(count), tissue, setting, *EVERY_CHANGE, f"train.loader_workers={count}") for count in (0, 1)
    ]
    assert runs[0].hashes == runs[1].hashes
    assert runs[0].json("eval_summary") == runs[1].json("eval_summary")


@pytest.mark.parametrize("how", ["average", "local", "freeze"])
def test_batchnorm_is_averaged_kept_or_frozen(tissue: Path, tmp_path: Path, how: str) -> None:
    done = run(tmp_path / "run", tissue, "federated", f"federation.batchnorm={how}", "train.select=last")
    again = run(tmp_path / "again", tissue, "federated", f"federation.batchnorm={how}", "train.select=last")
    assert done.hashes == again.hashes
    places = {row["data"] for row in done.json("eval_summary")["rows"]}
    assert ("held_out" in places) == (how != "local")
    state = torch.load(done.folder / "model_final.pt", weights_only=True)["state"]
    started = torch.load(STORED, weights_only=True)["state_dict"]
    for gate in ("att1", "att4"):
        moved = not torch.equal(state[f"{gate}.psi.1.running_mean"], started[f"{gate}.psi.1.running_mean"])
        assert moved == (how == "average")
        assert not torch.equal(state[f"{gate}.psi.1.weight"], started[f"{gate}.psi.1.weight"])


# Splits from a file


SPLIT = ["options.fractions=[0.7, 0.15, 0.15]", "federation.rounds=1"]
"""The manifest says the shares; those of the config would be refused beside it."""


def split(*words: str | Path) -> Result:
    return CliRunner().invoke(datasets_app, ["rosette-split", *map(str, words)], catch_exceptions=False)


def test_a_manifest_of_the_command_trains_all_settings(tissue: Path, tmp_path: Path) -> None:
    drawn = ["--experiment", "half", "--client-col", "replicate", "--val-fraction", "0.3", "--test-fraction", "0.3"]
    answer = split(tissue, tmp_path, *drawn)
    path = tmp_path / "split_manifest_half.json"
    assert (answer.exit_code, answer.stdout.splitlines()[-1]) == (0, f"manifest: {path}")
    content = json.loads(path.read_text())
    assert [content[f"{name}_samples"] for name in ("train", "val", "test")] == [8, 8, 8]
    digests = set()
    for setting in SETTINGS:
        done = run(tmp_path / setting, tissue, setting, f"options.split={path}", *SPLIT)
        manifest = done.json("manifest")
        digests.add(manifest["split_sha256"])
        for client in CLIENTS:
            assert [manifest["clients"][client][name] for name in ("train", "val", "test")] == [2, 2, 2]
            assert manifest["clients"][client]["files"]["val"]["file"] == path.name
        stored = np.load(done.folder / "predictions" / f"{'R1' if setting == 'local' else setting}__R1.npz")
        assert set(stored["sample"]) < set(content["test_sample_list"])
    assert len(digests) == 1


def test_the_command_draws_by_animals_and_without_a_test_unless_told(tissue: Path, tmp_path: Path) -> None:
    for group_by, count in (("animal", 12), ("replicate", 4), ("none", 0)):
        assert split(tissue, tmp_path / f"{group_by}.json", "--group-by", group_by).exit_code == 0
        content = json.loads((tmp_path / f"{group_by}.json").read_text())
        assert (len(content["groups"]), content["test_samples"], content["random_state"]) == (count, 0, 42)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["split.csv"], "split.csv: the manifest must end in .json; give such a name, or --experiment"),
        (["split.json", "--val-fraction", "1.2"], "val_fraction: 1.2 is not between 0 and 1"),
        (["split.json", "--client-col", "hospital"], "metadata.csv: no column 'hospital'"),
        (["split.json", "--client-col", "replicate", "--val-fraction", "0.9"], "are too few for 3 in val"),
        (["split.json", "--client-col", "is_control", "--group-by", "replicate"], "is in two places: client"),
        (["split.json", "--metadata", "absent.csv"], "absent.csv"),
    ],
)
def test_the_command_refuses_in_one_line(tissue: Path, tmp_path: Path, words: list[str], said: str) -> None:
    refused(split(tissue, tmp_path / words[0], *words[1:]), said)
    assert not list(tmp_path.iterdir())


# New images


@pytest.fixture(scope="module")
def done(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(tmp_path_factory.mktemp("done") / "run", tissue, "federated", "train.lr=0.01")


@pytest.fixture
def new_images(tissue: Path, tmp_path: Path) -> Path:
    """The test images of a client, without what is to be predicted, in layouts of their own."""
    folder = tmp_path / "new"
    for name in open_task(tissue).identities("R1")["test"]["sample"]:
        with h5py.File(tissue / name / f"processed_data_{name}.h5") as file:
            labels = file["segmentation_outlines"][...]
        folder.mkdir(exist_ok=True)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["segmentation_outlines"] = labels[None]
    return folder


def predict(run: Path, *words: str | Path) -> Result:
    return command("centralized", "predict", run, *words)


def test_new_images_are_predicted_as_the_run_predicted_them(
    done: Finished, tissue: Path, new_images: Path, tmp_path: Path
) -> None:
    answer = predict(done.folder, new_images, "--out", tmp_path / "out")
    assert answer.exit_code == 0, answer.stderr
    stored = np.load(done.folder / "predictions" / "federated__R1.npz")
    names = sorted(path.stem for path in new_images.iterdir())
    folder = tmp_path / "out" / "new"
    images = [f"{name}_{kind}.tif" for name in names for kind in ("probability", "rosettes")]
    tables = ["samples.csv", "rosettes.csv", "summary.json"]
    assert [Path(line).name for line in answer.stdout.splitlines()[-7:]] == [*tables, *images]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*tables, *images])
    assert ", ".join(f"`{name}`" for name in tables) in (ROOT / "docs" / "experiments.md").read_text()
    outcomes = np.split(stored["outcome"], stored["size"].prod(axis=1).cumsum()[:-1])
    for name, outcome, size in zip(stored["sample"], outcomes, stored["size"], strict=True):
        probability = tifffile.imread(folder / f"{name}_probability.tif")
        called = np.isin(outcome.reshape(size), (PIXEL["tp"], PIXEL["fp"]))
        np.testing.assert_array_equal(probability > 0.5, called)
        expected = label_rosettes(rosette_mask(probability))
        np.testing.assert_array_equal(tifffile.imread(folder / f"{name}_rosettes.tif"), expected)
    table = pd.read_csv(folder / "samples.csv").set_index("sample")
    assert table.index.tolist() == names
    assert json.loads((folder / "summary.json").read_text())["samples"].keys() == set(names)


def test_probabilities_are_equal_to_the_last_bit_without_the_study(
    done: Finished, tissue: Path, new_images: Path, tmp_path: Path
) -> None:
    trained = open_trained(done.folder)
    test = trained.task.client_data("R1", Channels(use_intensity=False)).test
    with torch.inference_mode():
        expected = [trained.task.forward(trained.network, fetch(test, [at]))["probability"][0, 0] for at in (0, 1)]
    moved = tissue.with_name("gone")
    tissue.rename(moved)
    try:
        assert predict(done.folder, new_images, "--out", tmp_path / "out").exit_code == 0
    finally:
        moved.rename(tissue)
    for name, probability in zip(test.names, expected, strict=True):  # type: ignore[attr-defined]
        found = tifffile.imread(tmp_path / "out" / "new" / f"{name}_probability.tif")
        np.testing.assert_array_equal(found, probability.numpy())


def test_one_file_is_predicted_by_the_model_of_a_client(tissue: Path, new_images: Path, tmp_path: Path) -> None:
    local = run(tmp_path / "run", tissue, "local", "federation.rounds=1")
    path = sorted(new_images.iterdir())[0]
    refused(predict(local.folder, path, "--out", tmp_path / "out"), "one model per client; choose with --model: R1, R2")
    assert predict(local.folder, path, "--out", tmp_path / "out", "--model", "R3").exit_code == 0
    with (tmp_path / "out" / path.stem / "samples.csv").open() as stream:
        assert [row["sample"] for row in csv.DictReader(stream)] == [path.stem]


def test_new_images_that_cannot_be_used_are_refused(
    done: Finished, tissue: Path, new_images: Path, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "empty").mkdir()
    refused(predict(done.folder, tmp_path / "empty", *out), "empty: holds no HDF5 file")
    refused(predict(done.folder, tmp_path / "absent", *out), "absent: no such file or folder")
    overrides = ["options.use_intensity=true", "options.weights_path=null", "federation.rounds=1"]
    bright = run(tmp_path / "bright", tissue, "centralized", *overrides)
    refused(predict(bright.folder, new_images, *out), ".h5: no dataset raw_data or raw_image; use_intensity asks for")
    path = sorted(new_images.iterdir())[1]
    with h5py.File(path, "r+") as file:
        file["rosettes_binary"] = file.pop("segmentation_outlines")[...]
    refused(predict(done.folder, new_images, *out), f"{path}: no dataset segmentation_outlines; the labels of the")
    path.write_bytes(path.read_bytes()[:900])
    refused(predict(done.folder, new_images, *out), f"{path}: not a readable HDF5 file")
    assert not (tmp_path / "out").exists()


def test_an_image_that_breaks_on_the_way_leaves_nothing_behind(
    done: Finished, new_images: Path, tmp_path: Path
) -> None:
    path = shutil.copy(min(new_images.iterdir()), new_images / "zz_bad.h5")
    with h5py.File(path, "r+") as file:
        labels = file.pop("segmentation_outlines")[...].astype(np.float32)
        labels[0, 0] = np.nan
        file["segmentation_outlines"] = labels
    out = ["--out", str(tmp_path / "out")]
    refused(predict(done.folder, new_images, *out), "zz_bad.h5: labels in segmentation_outlines holds NaN")
    assert not list((tmp_path / "out").iterdir())
    Path(path).unlink()
    assert predict(done.folder, new_images, *out).exit_code == 0


# The experiments


DOCUMENTED = ["baseline_test", "baseline_full", "higher_lr", "larger_batch", "no_augmentation"]


def test_the_documented_experiments_change_what_they_say() -> None:
    assert experiment_names(CONFIG) == DOCUMENTED
    base = load(CONFIG)
    made = {name: load(CONFIG, experiment=name) for name in DOCUMENTED}
    rounds = [made[name].federation.rounds for name in DOCUMENTED]
    assert rounds == [1, 50, 25, 50, 50] and base.federation.rounds == 50
    assert made["baseline_full"].digest == base.digest
    assert (made["higher_lr"].train.lr, made["larger_batch"].train.batch_size) == (0.01, 8)
    augmentation = made["no_augmentation"].options["augmentation"]
    assert not any(augmentation[name] for name in CHANGES) and augmentation["turn"] == 15


def test_the_documented_experiments_run_in_turn_and_once(tissue: Path, tmp_path: Path) -> None:
    small = [f"options.data={tissue}", *SMALL[:4], "federation.rounds=1"]
    words = [str(CONFIG), "--all", *small, "--results", str(tmp_path)]
    answer = command("centralized", *words)
    assert answer.exit_code == 0, answer.output
    folder = tmp_path / "attention_unet" / "attention_unet" / "centralized"
    with (folder / "experiment_summary.csv").open(newline="") as stream:
        rows = {row["experiment_name"]: row for row in csv.DictReader(stream)}
    assert set(rows) == set(DOCUMENTED)
    assert rows["higher_lr"]["learning_rate"] == "0.01" and rows["larger_batch"]["batch_size"] == "8"
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/model_final.pt")}
    assert len(stamps) == 5
    again = command("centralized", *words)
    assert again.exit_code == 0 and again.stdout.count("left alone") == 5
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("*/model_final.pt")}
