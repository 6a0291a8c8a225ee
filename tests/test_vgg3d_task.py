"""The VGG3D task: options that have an effect, what trains when, class weights by hand, and refusals in one line."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from sklearn.metrics import accuracy_score, f1_score

from core.errors import UserError
from datasets.synthetic import vgg3d
from models.vgg3d import Adapter
from tasks.vgg3d import LabelMap, VGG3DTask, balanced
from tests.conftest import Finished, conduct
from training.config import Experiment, load
from training.engine import Trainer
from training.loading import fetch
from training.preparation import build_network, cache_folder
from training.runs import Run
from training.statistics import Statistics, merge_statistics

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "vgg3d.yaml"
STORED = ROOT / "tests" / "fixtures" / "vgg3d" / "adapter_tiny.pt"
SMALL = [
    "options.fractions=[0.7, 0.15, 0.15]",
    "options.backbone={fmaps: 2, fmap_inc: [2, 2, 2, 2], n_convolutions: [1, 1, 1, 1]}",
    "options.classifier_size=16",
    "federation.rounds=2",
]
PUBLISHED = [
    "options.backbone={fmaps: 2, fmap_inc: [2, 2, 2, 2], n_convolutions: [4, 2, 2, 2]}",
    f"options.checkpoint={STORED}",
]
FROZEN = [*PUBLISHED, "options.freeze_features=true"]
STAGES = {0: (0, 1), 1: (4, 5), 2: (8, 9), 3: (12, 13)}
"""Stage -> indices of its convolution and its norm in the small backbone."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuclei") / "vgg3d"
    vgg3d.make(folder, nuclei_per_site=12, shape=(16, 16, 32))
    return folder


@pytest.fixture
def own_study(study: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(study, tmp_path / "own", ignore=shutil.ignore_patterns(".cache"))
    return tmp_path / "own"


def experiment(data: Path, *overrides: str) -> Experiment:
    return load(CONFIG, [f"options.data={data}", *SMALL, *overrides])


def open_task(data: Path, *overrides: str) -> VGG3DTask:
    task = experiment(data, *overrides).build_task()
    assert isinstance(task, VGG3DTask)
    return task


def fitted_on(task: VGG3DTask) -> LabelMap:
    everyone = merge_statistics({client: task.statistics(client) for client in task.clients()})
    return task.fit(everyone, everyone)


def run(folder: Path, data: Path, setting: str, *overrides: str) -> Finished:
    made = Run.create(folder, experiment(data, *overrides), setting)  # type: ignore[arg-type]
    conduct(made)
    return Finished(made.folder)


def refusal(data: Path, *overrides: str) -> str:
    """Go through all that happens before training, and give what it is refused with."""
    with pytest.raises(UserError) as caught:
        task = open_task(data, *overrides)
        fitted = fitted_on(task)
        build_network(task, fitted, 0)
        for client in task.clients():
            task.client_data(client, fitted)
        task.held_out(fitted)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestRefused:
    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (["options.crop_size=[16,16,15]"], "too small; the network needs at least (16, 16, 16); cut larger crops"),
            (["options.margin=2"], "crop_size (16, 16, 16), margin 2: input_size: (12, 12, 12) is too small"),
            (["options.freeze_features=true"], "checkpoint is missing while freeze_features is true"),
            (["options.progressive_unfreezing=3"], "progressive_unfreezing has no effect here; set freeze_features"),
            ([*FROZEN, "options.stage_rate_factor=0.1"], "stage_rate_factor has no effect here"),
            (["options.encode_block=8"], "encode_block has no effect here"),
            (["options.allow_partial=true"], "allow_partial has no effect here; give a checkpoint"),
            (["options.adapt_first_conv=true"], "adapt_first_conv has no effect here; give a checkpoint"),
            (["options.mask_fraction=0.1"], "mask_fraction has no effect here; set mask_mode"),
            (["options.scaling=zscore", "options.signed=true"], "signed has no effect here; choose another scaling"),
            (
                ["options.split_key=site", "options.fractions=[0.4, 0.3, 0.3]"],
                "fractions has no effect here; leave out",
            ),
            (
                ["options.client_key=null", "options.partition={clients: 2}", "options.held_out_client=x"],
                "held_out_client: 'x' has no effect without client_key",
            ),
            (["options.client_key=null"], "client_key, partition: give one of the two"),
            (["options.partition={clients: 2}"], "client_key, partition: give one of the two"),
            (["options.fractions=[0.9, 0.2, 0.1]"], "three positive numbers with sum 1"),
            (["options.freeze_classifier_layers=6"], "options.freeze_classifier_layers = 6"),
            (["options.sample_percent=0"], "options.sample_percent = 0"),
            (["options.class_ids=[1]"], "options.class_ids = [1]"),
            (["options.backbone.fmap_inc=[2, 2]"], "must be equally long"),
            (["options.backbone.fmaps=0"], "options.backbone.fmaps = 0"),
        ],
    )
    def test_options(self, study: Path, overrides: list[str], said: str) -> None:
        message = refusal(study, *overrides)
        assert message.startswith(f"{CONFIG}: options") and said in message

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (["options.class_ids=[1, 77]"], "class 77 is not in the table"),
            (["options.client_key=hospital"], "no column 'hospital'"),
            (["options.crop_size=[20, 16, 16]", "options.oversize=refuse"], "are smaller than crop_size (20, 16, 16)"),
            (
                [*FROZEN, "options.backbone.fmaps=3"],
                f"{STORED}: features.0.weight has shape (2, 1, 3, 3, 3), the network needs (3, 1, 3, 3, 3)",
            ),
            ([*FROZEN, "options.checkpoint=absent.pth"], "absent.pth: no such file"),
        ],
    )
    def test_data_and_checkpoints(self, study: Path, overrides: list[str], said: str) -> None:
        assert said in refusal(study, *overrides)

    def test_slices_of_several_channels(self, own_study: Path) -> None:
        path = own_study / "0001" / "raw" / "0003.tif"
        tifffile.imwrite(path, np.zeros((16, 32, 3), np.uint8), photometric="rgb")
        assert str(path) in refusal(own_study)

    def test_a_class_that_nobody_trains_on(self, own_study: Path) -> None:
        table = pd.read_csv(own_study / "classes.csv", dtype=str)
        own = table[table.site == "held_out"].index[0]
        table.loc[own, ["class_id", "class_name"]] = ["7", "Rare"]
        table.to_csv(own_study / "classes.csv", index=False)
        assert "class 7 (Rare) is not among the classes trained on" in refusal(own_study)

    def test_clients_that_name_a_class_differently(self, study: Path) -> None:
        task = open_task(study)
        counts = [Statistics(counts={"classes": {name: 3, "2 Granular": 1}}) for name in ("1 Glia", "1 Neuron")]
        everyone = merge_statistics(dict(zip("ab", counts, strict=True)))
        with pytest.raises(UserError, match="class 1 is called 'Glia' and 'Neuron'"):
            task.fit(everyone, everyone)

    def test_a_single_class(self, study: Path) -> None:
        only = Statistics(counts={"classes": {"1 Glia": 3}})
        with pytest.raises(UserError, match=r"1 class \(Glia\) to train on; two are needed"):
            open_task(study).fit(only, only)


class TestLabelsAndWeights:
    def test_the_label_map_is_everyones_and_ordered_by_id(self, study: Path) -> None:
        task = open_task(study)
        everyone = merge_statistics({client: task.statistics(client) for client in task.clients()})
        alone = Statistics(counts={"classes": {"18 Diffuse": 4}})
        fitted = task.fit(alone, everyone)
        assert fitted.class_ids == [1, 2, 4, 18]
        assert fitted.classes == ["Glia", "Granular", "Clumped", "Diffuse"]
        table = pd.read_csv(study / "classes.csv", dtype=str).set_index("sample_id")
        samples = task.client_data("institute_north", fitted).train
        for number, sample in enumerate(samples.units):  # type: ignore[attr-defined]
            assert fitted.class_ids[int(samples[number]["label"])] == int(table.loc[sample, "class_id"])

    def test_filters_shrink_the_label_map(self, study: Path) -> None:
        assert fitted_on(open_task(study, "options.class_ids=[18, 2]")).classes == ["Granular", "Diffuse"]
        whole, half = (open_task(study, f"options.sample_percent={percent}") for percent in (100, 60))
        counts = [sum(task.describe("institute_north")["nuclei"].values()) for task in (whole, half)]
        assert counts[0] == 12 > counts[1]

    def test_balanced_weights_by_hand(self) -> None:
        # 8 samples, 2 classes that occur: 8 / (2 x 6) and 8 / (2 x 2).
        assert balanced([6, 0, 2]) == [pytest.approx(2 / 3), 1.0, 2.0]

    def test_the_mean_weight_of_training_crops_is_one(self, study: Path) -> None:
        task = open_task(study)
        fitted = fitted_on(task)
        crops = [task.client_data(client, fitted).train for client in task.clients()]
        weights = torch.cat([fetch(one, range(len(one)))["weight"] for one in crops])
        assert float(weights.mean()) == pytest.approx(1) and float(weights.std()) > 0.05

    def test_local_weights_are_the_clients_own(self, study: Path) -> None:
        task = open_task(study)
        parts = {client: task.statistics(client) for client in task.clients()}
        everyone = merge_statistics(parts)
        weights = {client: task.fit(own, everyone).weights for client, own in parts.items()}
        assert weights["institute_north"] != weights["institute_south"] != task.fit(everyone, everyone).weights
        assert open_task(study, "options.class_weights=none").fit(everyone, everyone).weights == []

    def test_the_weighted_loss_by_hand(self, study: Path) -> None:
        task = open_task(study)
        outputs = {"logits": torch.tensor([[2.0, 0.0], [0.0, 0.0]])}
        batch = {"label": torch.tensor([0, 1]), "weight": torch.tensor([0.5, 3.0])}
        first, second = np.log(1 + np.exp(-2)), np.log(2)
        loss = task.loss(outputs, batch)
        assert (float(loss.total), loss.count) == (pytest.approx((0.5 * first + 3 * second) / 2), 2)
        del batch["weight"]
        assert float(task.loss(outputs, batch).total) == pytest.approx((first + second) / 2)


class TestWhatTrains:
    def test_stages_start_from_the_output_end(self, study: Path) -> None:
        task = open_task(study, *FROZEN, "options.progressive_unfreezing=3", "options.stage_rate_factor=0.1")
        waiting = [{int(pattern.split(".")[1]) for pattern in task.waiting(epoch)} for epoch in range(14)]
        assert waiting[0] == waiting[2] == set(range(34))
        assert waiting[3] == set(range(27)) and waiting[5] == set(range(27))
        assert waiting[6] == set(range(20)) and waiting[9] == set(range(13))
        assert waiting[12] == waiting[13] == set()
        factors = task.rate_factors()
        for pattern, depth in {"features.30.*": 1, "features.20.*": 2, "features.13.*": 3, "features.0.*": 4}.items():
            assert factors[pattern] == pytest.approx(0.1**depth)
        assert not any(pattern.startswith("classifier") for pattern in factors)

    def test_a_waiting_stage_stays_as_it_is_and_then_trains(self, study: Path) -> None:
        made = experiment(study, "options.freeze_features=true", "options.progressive_unfreezing=1")
        task = made.build_task()
        assert isinstance(task, VGG3DTask)
        fitted = fitted_on(task)
        network = build_network(task, fitted, 0)
        train = task.client_data("institute_north", fitted).train
        trainer = Trainer(task, network, made.train, seed=0, client="a", epochs=5, device=torch.device("cpu"))
        for epoch in range(5):
            before = {name: value.clone() for name, value in network.state_dict().items()}
            trainer.run_epoch(train, epoch)
            changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
            assert {f"classifier.{layer}.weight" for layer in (0, 3, 6)} <= changed
            for stage, (convolution, norm) in STAGES.items():
                parts = {f"features.{convolution}.weight", f"features.{norm}.weight", f"features.{norm}.running_mean"}
                assert parts <= changed if stage >= 4 - epoch else not parts & changed, (epoch, stage)

    @pytest.mark.parametrize("count", [0, 1, 3, 4])
    def test_frozen_parts_and_their_statistics_stay(self, study: Path, count: int) -> None:
        made = experiment(study, *FROZEN, f"options.freeze_classifier_layers={count}")
        task = made.build_task()
        assert isinstance(task, VGG3DTask)
        fitted = fitted_on(task)
        network = build_network(task, fitted, 0)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        trainer = Trainer(task, network, made.train, seed=0, client="a", epochs=1, device=torch.device("cpu"))
        trainer.run_epoch(task.client_data("institute_north", fitted).train, 0)
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        layers = [layer for layer in (0, 3, 6) if layer >= count]
        assert changed == {f"classifier.{layer}.{part}" for layer in layers for part in ("weight", "bias")}

    def test_features_are_those_of_the_checkpoint(self, study: Path) -> None:
        stored = torch.load(STORED, weights_only=True)["state_dict"]
        task = open_task(study, *FROZEN)
        network = build_network(task, fitted_on(task), 0)
        state = network.state_dict()
        assert all(torch.equal(state[name], stored[name]) for name in stored if name.startswith("features."))
        facts = task.facts(network)
        assert (facts["features"], facts["loaded"], facts["missing"]) == (str(STORED), 70, [])
        random = open_task(study)
        assert random.facts(build_network(random, fitted_on(random), 0)) == {"features": "random weights"}

    def test_partial_and_adapted_checkpoints(self, study: Path, tmp_path: Path) -> None:
        stored = torch.load(STORED, weights_only=True)["state_dict"]
        stored["features.0.weight"] = stored["features.0.weight"].repeat(1, 3, 1, 1, 1)
        del stored["features.30.bias"]
        torch.save({"model_state_dict": stored}, tmp_path / "rgb.pth")
        wide = [*FROZEN, f"options.checkpoint={tmp_path / 'rgb.pth'}"]
        assert "has shape (2, 3, 3, 3, 3)" in refusal(study, *wide)
        assert "features.30.bias is missing" in refusal(study, *wide, "options.adapt_first_conv=true")
        task = open_task(study, *wide, "options.adapt_first_conv=true", "options.allow_partial=true")
        network = build_network(task, fitted_on(task), 0)
        torch.testing.assert_close(network.state_dict()["features.0.weight"], stored["features.0.weight"].sum(1, True))
        assert task.facts(network)["missing"] == ["features.30.bias"]


class TestRuns:
    def test_cached_features_change_nothing(self, own_study: Path, tmp_path: Path) -> None:
        data = own_study
        runs = [
            run(tmp_path / name, data, "federated", *FROZEN, f"train.cache_features={cached}")
            for name, cached in (("cached", "true"), ("again", "true"), ("without", "false"))
        ]
        assert runs[0].hashes == runs[1].hashes == runs[2].hashes
        assert len({(one.folder / "eval_summary.json").read_text() for one in runs}) == 1
        stored = list((cache_folder(data) / "features").glob("*.safetensors"))
        assert len(stored) == 3 * 3 + 1
        sent = runs[0].json("history")["steps"][0]["bytes_up"]["institute_north"]
        assert sent == 4 * sum(size * 16 + size for size in (16, 16)) + 4 * (4 * 16 + 4)

    def test_augmented_crops_are_never_cached(self, own_study: Path, tmp_path: Path) -> None:
        run(tmp_path / "run", own_study, "centralized", *FROZEN, "options.augment=true")
        stored = list((cache_folder(own_study) / "features").glob("*.safetensors"))
        assert len(stored) == 3 * 2 + 1

    def test_only_training_crops_are_augmented(self, study: Path) -> None:
        task = open_task(study, "options.augment=true")
        data = task.client_data("institute_north", fitted_on(task))
        first, val = fetch(data.train, [0, 1, 2])["volume"], data.val[0]["volume"]
        data.train.reseed(5)  # type: ignore[attr-defined]
        assert not torch.equal(first, fetch(data.train, [0, 1, 2])["volume"])
        assert not hasattr(data.val, "reseed") and not hasattr(data.test, "reseed")
        plain = open_task(study)
        assert torch.equal(val, plain.client_data("institute_north", fitted_on(plain)).val[0]["volume"])

    @pytest.mark.parametrize("epochs", [1, 2])
    def test_one_client_federated_equals_centralized_while_stages_thaw(
        self, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
    ) -> None:
        monkeypatch.setattr(VGG3DTask, "clients", lambda self: ["institute_west"])
        overrides = [
            "options.freeze_features=true", "options.progressive_unfreezing=1", "options.stage_rate_factor=0.5",
            "options.augment=true", "federation.rounds=3", f"federation.local_epochs={epochs}",
            "federation.optimizer_state=kept", "train.select=last", "train.batch_size=4",
        ]  # fmt: skip
        central = run(tmp_path / "centralized", study, "centralized", *overrides)
        federated = run(tmp_path / "federated", study, "federated", *overrides)
        assert central.hashes == federated.hashes
        sent = [step["bytes_up"]["institute_west"] for step in federated.json("history")["steps"]]
        assert sent[0] < sent[1] < sent[2]

    def test_a_federation_repeats_itself(self, study: Path, tmp_path: Path) -> None:
        overrides = ["options.freeze_features=true", "options.progressive_unfreezing=1", "options.augment=true"]
        runs = [run(tmp_path / name, study, "federated", *overrides) for name in ("once", "again")]
        assert runs[0].hashes == runs[1].hashes
        assert runs[0].json("eval_summary") == runs[1].json("eval_summary")

    def test_scores_of_nuclei_are_those_of_the_stored_predictions(self, study: Path, tmp_path: Path) -> None:
        finished = run(tmp_path / "run", study, "centralized")
        stored = np.load(finished.folder / "predictions" / "centralized__held_out.npz")
        table = pd.DataFrame(stored["scores"]).groupby(stored["unit"]).mean()
        truth = pd.Series(stored["target"]).groupby(stored["unit"]).first()
        assert len(table) == 12 and len(stored["target"]) == 24
        assert all(name.startswith(unit) for name, unit in zip(stored["sample"], stored["unit"], strict=True))
        predicted = table.to_numpy().argmax(1)
        value = finished.value("centralized", "held_out", "nucleus_accuracy")
        assert value == pytest.approx(accuracy_score(truth, predicted))
        value = finished.value("centralized", "held_out", "nucleus_f1_macro")
        assert value == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-6)
        value = finished.value("centralized", "held_out", "f1_macro")
        assert value == pytest.approx(f1_score(stored["target"], stored["predicted"], average="macro"), abs=1e-6)

    @pytest.mark.parametrize(
        ("partition", "count"),
        [("evenly, clients: 2", 2), ("ranges, clients: 3", 3), ("dirichlet, clients: 2, alpha: 5", 2)],
    )
    def test_nuclei_are_divided_among_clients_as_a_whole(self, study: Path, partition: str, count: int) -> None:
        task = open_task(study, "options.client_key=null", f"options.partition={{name: {partition}}}")
        assert task.clients() == ["client_01", "client_02", "client_03"][:count]
        nuclei = [name for client in task.clients() for ids in task.identities(client).values()
                  for name in ids["nucleus"]]  # fmt: skip
        assert len(nuclei) == len(set(nuclei)) == 48
        assert task.held_out(fitted_on(task)) is None and task.held_out_identities() == {}


@pytest.fixture(scope="module")
def plain(study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return run(tmp_path_factory.mktemp("plain") / "run", study, "centralized", *PUBLISHED).hashes


@pytest.mark.parametrize(
    "override",
    [
        "options.split_seed=1",
        "options.fractions=[0.5, 0.25, 0.25]",
        "options.class_ids=[1, 2, 4]",
        "options.sample_percent=60",
        "options.crop_size=[16, 16, 24]",
        "options.mask_mode=zero_outside",
        "options.mask_mode=centre_on_mask",
        "options.scaling=dtype",
        "options.signed=true",
        "options.augment=true",
        "options.class_weights=none",
        "options.checkpoint=null",
        "options.classifier_size=8",
        "options.freeze_features=true",
        "options.freeze_classifier_layers=1",
        "options.freeze_classifier_layers=3",
        "options.stage_rate_factor=0.1",
        "train.precision=bf16",
    ],
)
def test_every_option_has_an_effect(study: Path, plain: list[str], tmp_path: Path, override: str) -> None:
    assert run(tmp_path / "changed", study, "centralized", *PUBLISHED, override).hashes != plain


def test_margin_and_counting_reach_the_network(study: Path) -> None:
    def sizes(*overrides: str) -> tuple[Any, float]:
        """Give the shape of an input, and crops per nucleus."""
        task = open_task(study, *overrides)
        fitted = fitted_on(task)
        network = build_network(task, fitted, 0)
        crops = task.client_data("institute_north", fitted).train
        assert isinstance(network, Adapter)
        assert task.forward(network, fetch(crops, [0, 1]))["logits"].shape == (2, 4)
        return tuple(crops[0]["volume"].shape), len(crops) / task.describe("institute_north")["nuclei"]["train"]

    assert sizes() == ((1, 16, 16, 16), 2)
    assert sizes("options.counting=reference") == ((1, 16, 16, 16), 1)
    assert sizes("options.crop_size=[24, 24, 24]", "options.margin=4") == ((1, 16, 16, 16), 1)
