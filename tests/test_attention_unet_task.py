"""The rosette task: scores from stored predictions, windows without truth, options with an effect, and refusals."""

import functools
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from datasets.rosette_channels import WholeImages
from datasets.rosette_objects import rosette_mask
from models.attention_unet import AttentionUNet
from tasks.attention_unet import PIXEL, AttentionUNetTask, Channels
from tests.conftest import Finished
from tests.refusals import refused
from tests.rosette_runs import CLIENTS, FIXTURES, SETTINGS, STORED, experiment, open_task, run, tissue
from training.evaluation import evaluate
from training.loading import fetch
from training.preparation import build_network
from training.segmentation import Counts, object_counts
from training.thresholds import THRESHOLDS

__all__ = ["tissue"]


@pytest.fixture(scope="module")
def finished(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    folder = tmp_path_factory.mktemp("runs")
    return {setting: run(folder / setting, tissue, setting) for setting in SETTINGS}


class TestScores:
    @pytest.mark.parametrize("setting", SETTINGS)
    def test_they_are_exactly_those_of_the_stored_predictions(
        self, finished: dict[str, Finished], setting: str
    ) -> None:
        rows = finished[setting].json("eval_summary")["rows"]
        for row in rows:
            images = self.stored(finished[setting].folder, setting, row)
            counts = Counts(*(int(images[name].sum()) for name in ("tp", "fp", "fn")))
            assert min(counts) > 0
            for name in ("iou", "f1", "precision", "recall"):
                assert row["metrics"][name] == getattr(counts, name)
            assert row["support"] == len(images["tp"]) == len(pixels(images, "outcome"))
        assert len(rows) == {"centralized": 5, "local": 13, "federated": 5}[setting]

    @pytest.mark.parametrize("setting", SETTINGS)
    def test_counts_of_images_are_those_of_their_pixels(self, finished: dict[str, Finished], setting: str) -> None:
        for row in finished[setting].json("eval_summary")["rows"]:
            images, metrics = self.stored(finished[setting].folder, setting, row), row["metrics"]
            for name, code in PIXEL.items():
                found = [int((one == code).sum()) for one in pixels(images, "outcome")]
                assert found == images[name].tolist()
            each = [Counts(*map(int, one)) for one in zip(images["tp"], images["fp"], images["fn"], strict=True)]
            assert metrics["image_f1"] == pytest.approx(np.mean([one.image_f1 for one in each]), abs=1e-12)
            assert metrics["image_iou"] == pytest.approx(np.mean([one.image_iou for one in each]), abs=1e-12)
            assert metrics["empty_targets"] == np.mean([one.tp + one.fn == 0 for one in each])

    def test_objects_and_all_thresholds_are_in_the_stored_predictions_too(self, finished: dict[str, Finished]) -> None:
        for row in finished["federated"].json("eval_summary")["rows"]:
            images = self.stored(finished["federated"].folder, "federated", row)
            outcomes = pixels(images, "outcome")
            parts = [
                object_counts(
                    rosette_mask(np.isin(one, (PIXEL["fp"], PIXEL["tp"]))), np.isin(one, (PIXEL["fn"], PIXEL["tp"]))
                )
                for one in outcomes
            ]
            objects = Counts(*(sum(part) for part in zip(*parts, strict=True)))
            assert row["metrics"]["object_f1"] == objects.f1 and objects.tp + objects.fn > 0
            target, arrays = np.isin(images["outcome"], (PIXEL["fn"], PIXEL["tp"])), row["arrays"]
            for number in range(0, len(THRESHOLDS), 9):
                chosen = images["exceeded"] > number
                right, predicted = (chosen & target).sum(), chosen.sum()
                assert arrays["precision_at"][number] == (right + 1e-6) / (predicted + 1e-6)
                assert arrays["recall_at"][number] == (right + 1e-6) / (target.sum() + 1e-6)

    @staticmethod
    def stored(folder: Path, setting: str, row: dict[str, Any]) -> dict[str, np.ndarray]:
        """Join the predictions behind a row."""
        places = [(row["model"], row["data"])]
        if row["data"] == "pooled":
            places = [(client if setting == "local" else setting, client) for client in CLIENTS]
        parts = [np.load(folder / "predictions" / f"{model}__{data}.npz") for model, data in places]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def test_images_and_animals_stand_beside_the_predictions(self, finished: dict[str, Finished], tissue: Path) -> None:
        stored = np.load(finished["local"].folder / "predictions" / "R1__R2.npz")
        expected = open_task(tissue).identities("R2")["test"]
        assert sorted(stored["sample"]) == expected["sample"]
        assert sorted(set(stored["unit"])) == expected["animal"]


def pixels(images: dict[str, np.ndarray], key: str) -> list[np.ndarray]:
    """Cut what is stored of pixels into images."""
    sizes = [(int(height), int(width)) for height, width in images["size"]]
    assert len(images[key]) == sum(height * width for height, width in sizes)
    parts = np.split(images[key], np.cumsum([height * width for height, width in sizes])[:-1])
    return [part.reshape(size) for part, size in zip(parts, sizes, strict=True)]


def probabilities(task: AttentionUNetTask, samples: WholeImages) -> list[torch.Tensor]:
    """Give the probability of each image."""
    network = build_network(task, Channels(use_intensity=task.use_intensity), 3).eval()
    with torch.inference_mode():
        outputs = [task.forward(network, {"channels": one["channels"][None]}) for one in samples]  # type: ignore[attr-defined]
    return [one["probability"][0, 0] for one in outputs]


def images_of_many_sizes(task: AttentionUNetTask) -> WholeImages:
    """Join the test images of all clients."""
    parts = [task.client_data(client, Channels(use_intensity=False)).test for client in CLIENTS]
    images = [image for part in parts for image in part.images]  # type: ignore[attr-defined]
    names = [name for part in parts for name in part.names]  # type: ignore[attr-defined]
    assert len({image.shape for image in images}) > 1
    return WholeImages(images, names, names)


def test_windows_do_not_depend_on_neighbours(tissue: Path) -> None:
    task = open_task(tissue)
    network, whole = build_network(task, Channels(use_intensity=False), 3).eval(), images_of_many_sizes(task)
    channels = whole[0]["channels"]
    with torch.inference_mode():
        alone = task.forward(network, {"channels": channels[None]})["probability"][0]
        beside = task.forward(network, {"channels": torch.stack([1 - channels, channels])})["probability"]
    assert torch.equal(beside[1], alone) and not torch.equal(beside[0], alone)


@pytest.mark.parametrize("size", [3, 256])
def test_scores_and_memory_do_not_depend_on_the_size_of_batches(
    tissue: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, fitted = open_task(tissue), Channels(use_intensity=False)
    network, whole = build_network(task, fitted, 3), images_of_many_sizes(task)
    seen: list[tuple[int, ...]] = []
    forward = AttentionUNetTask.forward

    def noted(self: AttentionUNetTask, network: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        seen.append(tuple(batch["channels"].shape))
        return forward(self, network, batch)

    monkeypatch.setattr(AttentionUNetTask, "forward", noted)
    train = experiment(tissue).train
    options = [train.model_copy(update={"eval_batch_size": count}) for count in (1, size)]
    found = [evaluate(task, network, whole, fitted, one, torch.device("cpu")) for one in options]
    shapes = [(1, 2, *image.shape) for image in whole.images]
    assert seen == 2 * shapes, "no image is padded to the size of another"
    assert found[0].metrics.compute() == found[1].metrics.compute()
    assert [one.shape for one in pixels(found[1].predictions, "exceeded")] == [image.shape for image in whole.images]


def test_windows_are_not_chosen_by_the_truth(tissue: Path, tmp_path: Path) -> None:
    blind = Path(shutil.copytree(tissue, tmp_path / "blind"))
    for path in blind.glob("*/*.h5"):
        with h5py.File(path, "r+") as file:
            file["rosettes_binary"][...] = 0
    for split in ("val", "test"):
        tasks = [open_task(data) for data in (tissue, blind)]
        data = [task.client_data("R1", Channels(use_intensity=False)).split(split) for task in tasks]
        assert [any(one["target"].any() for one in samples) for samples in data] == [True, False]  # type: ignore[attr-defined]
        assert not any(hasattr(one, "reseed") for one in data)
        found = [probabilities(task, one) for task, one in zip(tasks, data, strict=True)]  # type: ignore[arg-type]
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_training_patches_are_drawn_anew_in_every_epoch(tissue: Path) -> None:
    train = open_task(tissue).client_data("R1", Channels(use_intensity=False)).train
    seen = []
    for seed in (1, 2, 1):
        train.reseed(seed)  # type: ignore[attr-defined]
        seen.append(fetch(train, [0, 1])["channels"])
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    assert seen[0].shape == (2, 2, 32, 32)


EFFECTS = [
    "",
    "options.anywhere=1.0",
    "options.dice_weight=0.9",
    "options.patch_size=48",
    "options.split_seed=5",
    "options.group_by=none",
    "options.weights_path=null",
    "options.weights_path=null options.norm=group",
    "options.weights_path=null options.use_intensity=true",
    *(f"options.augmentation.{name}=1.0" for name in ("elastic_transform", "affine_transform", "coarse_dropout")),
    *(f"options.augmentation.{name}=0.0" for name in ("horizontal_flip", "vertical_flip", "rotation")),
    "options.augmentation.affine_transform=1.0 options.augmentation.rethreshold=true",
]


def test_every_option_of_training_has_an_effect(tissue: Path, tmp_path: Path) -> None:
    found: dict[str, str] = {}
    for number, overrides in enumerate(EFFECTS):
        short = [*overrides.split(), "federation.rounds=1", "train.select=last"]
        (digest,) = run(tmp_path / str(number), tissue, "centralized", *short).hashes
        assert found.setdefault(digest, overrides) == overrides


@pytest.mark.parametrize("override", ["options.threshold=0.6", "options.min_size=20000", "options.overlap=0"])
def test_options_of_scoring_change_scores_and_no_weights(
    finished: dict[str, Finished], tissue: Path, tmp_path: Path, override: str
) -> None:
    done = run(tmp_path / "changed", tissue, "centralized", override, "train.select=last")
    last = run(tmp_path / "last", tissue, "centralized", "train.select=last")
    assert done.hashes == last.hashes
    assert done.json("eval_summary")["rows"] != last.json("eval_summary")["rows"]


def test_the_task_says_what_it_is(finished: dict[str, Finished], tissue: Path) -> None:
    assert [open_task(tissue, f"options.use_intensity={seen}").variant() for seen in ("false", "true")] == [
        "geometric",
        "intensity",
    ]
    manifest = finished["centralized"].json("manifest")
    assert manifest["facts"] == {"widths": [4, 8, 16, 32, 64], "norm": "batch", "start": STORED.name}
    client = manifest["clients"]["R2"]
    assert [client[split] for split in ("train", "val", "test")] == [2, 2, 2]
    assert client["animals"] == {"train": 1, "val": 1, "test": 1} and sum(client["layouts"].values()) == 6
    for split in ("train", "val", "test"):
        assert client["files"][split]["units"] == open_task(tissue).identities("R2")[split]["animal"]


# Stored weights


def test_a_published_checkpoint_starts_the_network(tissue: Path, tmp_path: Path) -> None:
    stored = torch.load(FIXTURES / "unet_tiny_3ch.pt", weights_only=True)["state_dict"]
    torch.save({f"module.{name}": value for name, value in stored.items()}, tmp_path / "best_model.pth")
    start = ["options.use_intensity=true", f"options.weights_path={tmp_path / 'best_model.pth'}"]
    task = open_task(tissue, *start)
    network = build_network(task, Channels(use_intensity=True), 0)
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    assert task.facts(network)["start"] == "best_model.pth"
    assert isinstance(task.bare_network(Channels(use_intensity=True)), AttentionUNet)
    for overrides, said in (
        (["options.widths=[2, 4, 4, 8, 8]"], "enc1.0.weight has shape (4, 3, 3, 3), the network needs (2, 3, 3, 3)"),
        (["options.norm=group"], "in_channels 3, widths [4, 8, 16, 32, 64], norm batch: build the network like this"),
        (["options.use_intensity=false"], "the network needs (4, 2, 3, 3)"),
    ):
        other = open_task(tissue, *start, *overrides)
        refused(functools.partial(build_network, other, Channels(use_intensity=True), 0), said, "best_model.pth")
