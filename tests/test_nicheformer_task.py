"""The NicheFormer task: from files to the sequences the reference assembled, and options that have an effect."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest

from tests.conftest import Finished, conduct
from training.config import Experiment, load
from training.loading import fetch
from training.preparation import build_network, cache_folder, monitored
from training.runs import Run
from training.statistics import merge_statistics

FIXTURES = Path(__file__).parent / "fixtures" / "nicheformer"
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "nicheformer.yaml"
SMALL = ["federation.rounds=2", "federation.local_epochs=1", "options.random_backbone.context_length=16"]

PADDED = "options.random_backbone.context_length=64"
"""Longer than most cells have genes, so that padding matters."""


def experiment(data: Path, *overrides: str) -> Experiment:
    return load(CONFIG, [f"options.data={data}", *SMALL, *overrides])


def run(folder: Path, data: Path, setting: str, *overrides: str) -> Finished:
    made = Run.create(folder, experiment(data, *overrides), setting)  # type: ignore[arg-type]
    conduct(made)
    return Finished(made.folder)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """The reference's cells as one file per client and split, with its vocabulary and mean."""
    cells = anndata.read_h5ad(FIXTURES / "cells.h5ad")
    for split in ("train", "val", "test"):
        copy = cells.copy()
        copy.obs_names = [f"{split}-{name}" for name in cells.obs_names]
        (tmp_path / "clients" / "a").mkdir(parents=True, exist_ok=True)
        copy.write_h5ad(tmp_path / "clients" / "a" / f"{split}.h5ad")
    (tmp_path / "reference").mkdir()
    shutil.copy(FIXTURES / "vocabulary.h5ad", tmp_path / "reference" / "model.h5ad")
    np.save(
        tmp_path / "reference" / "xenium_mean_script.npy", np.load(FIXTURES / "tokenization.npz")["technology_mean_raw"]
    )
    return tmp_path


@pytest.mark.parametrize("name", ["checkpoint.ckpt", "checkpoint_lightning_raw.ckpt"])
def test_sequences_and_embeddings_match_the_reference_from_file_to_network(recorded: Path, name: str) -> None:
    overrides = ["options.random_backbone=null", f"options.checkpoint={FIXTURES / name}", "options.genes_only=false"]
    made = load(
        CONFIG,
        [f"options.data={recorded}", "options.label=author_cell_type", "options.unit_key=null", *overrides,
         "options.fine_tune_mode=head_only"],
    )  # fmt: skip
    task = made.build_task()
    statistics = task.statistics("a")
    fitted = task.fit(statistics, statistics)
    expected = np.load(FIXTURES / "model_outputs.npz")
    batch = fetch(task.client_data("a", fitted).train, range(12))
    np.testing.assert_array_equal(batch["tokens"].numpy(), expected["assembled_input"])
    network = build_network(task, fitted, 0)
    encoded = task.encode(network, batch)
    assert encoded is not None
    np.testing.assert_allclose(encoded["pooled"].numpy(), expected["pooled_last"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("mode", ["head_only", "partial"])
@pytest.mark.parametrize("spatial", ["true", "false"])
def test_cached_features_give_equal_weights(study: Path, tmp_path: Path, mode: str, spatial: str) -> None:
    overrides = [f"options.fine_tune_mode={mode}", f"options.include_spatial={spatial}", "options.genes_only=false"]
    cached = run(tmp_path / "cached", study, "centralized", *overrides)
    again = run(tmp_path / "again", study, "centralized", *overrides)
    without = run(tmp_path / "without", study, "centralized", *overrides, "train.cache_features=false")
    assert cached.hashes == again.hashes == without.hashes
    assert list((cache_folder(study) / "features").glob("*.safetensors"))


@pytest.mark.parametrize("option", ["genes_only", "with_context", "extract_layers", "mean_rounding"])
def test_cached_features_are_those_of_the_options(study: Path, tmp_path: Path, option: str) -> None:
    ways = {"genes_only": ("true", "false"), "with_context": ("true", "false"), "extract_layers": ("[0]", "[1]")}
    common = ["options.fine_tune_mode=head_only", "options.genes_only=false", PADDED]
    hashes = []
    for number, value in enumerate(ways.get(option, ("prepared", "unrounded"))):
        for cached in ("true", "false"):
            overrides = [*common, f"options.{option}={value}", f"train.cache_features={cached}"]
            hashes.append(run(tmp_path / f"{number}-{cached}", study, "centralized", *overrides).hashes[0])
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


@pytest.mark.parametrize(("column", "value"), [("assay", "CosMx"), ("x", 1e6), ("cell_type", "astrocyte")])
def test_what_is_in_the_files_is_in_the_digest(study: Path, tmp_path: Path, column: str, value: object) -> None:
    changed = tmp_path / "study"
    shutil.copytree(study, changed, ignore=shutil.ignore_patterns(".cache"))
    path = changed / "clients" / "hospital_north" / "val.h5ad"
    cells = anndata.read_h5ad(path)
    cells.obs[column] = value
    cells.write_h5ad(path)
    tasks = [experiment(data, "options.include_spatial=true").build_task() for data in (study, changed)]
    digests = [[task.data_digest(client) for client in (*task.clients(), "held_out")] for task in tasks]
    assert [one == other for one, other in zip(*digests, strict=True)] == [False, True, True, True]


def test_a_damaged_cache_is_made_anew(study: Path, tmp_path: Path) -> None:
    overrides = ["options.fine_tune_mode=head_only", "options.random_backbone.dim_model=32"]
    first = run(tmp_path / "first", study, "centralized", *overrides)
    for path in (cache_folder(study) / "features").glob("*.safetensors"):
        path.write_bytes(b"not a tensor")
    assert run(tmp_path / "second", study, "centralized", *overrides).hashes == first.hashes


@pytest.fixture(scope="module")
def plain(study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return run(tmp_path_factory.mktemp("plain") / "run", study, "centralized", PADDED).hashes


@pytest.mark.parametrize(
    "override",
    [
        "options.fine_tune_mode=head_only",
        "options.fine_tune_mode=partial",
        "options.include_spatial=true",
        "options.genes_only=false",
        "options.extract_layers=[0]",
        "options.extractor=true",
        "options.mean_rounding=unrounded",
        "options.random_backbone.dropout=0.5",
        "options.specie=human",
        "train.clip_grad_norm=0.01",
        "train.lr=0.01",
        "train.accumulate=2",
        "train.schedule=constant",
        "seed=7",
    ],
)
def test_every_option_has_an_effect(study: Path, plain: list[str], tmp_path: Path, override: str) -> None:
    assert run(tmp_path / "changed", study, "centralized", PADDED, override).hashes != plain


def test_local_coordinates_are_scaled_by_the_clients_own_cells(study: Path) -> None:
    task = experiment(study, "options.include_spatial=true").build_task()
    parts = {client: task.statistics(client) for client in task.clients()}
    everyone = merge_statistics(parts)
    pooled = task.fit(everyone, everyone)
    alone = task.fit(parts["hospital_north"], everyone)
    assert pooled.classes == alone.classes  # type: ignore[attr-defined]
    assert pooled.coordinate_mean != alone.coordinate_mean  # type: ignore[attr-defined]
    xs = np.concatenate(
        [anndata.read_h5ad(study / "clients" / client / "train.h5ad").obs["x"].to_numpy(float) for client in parts]
    )
    assert pooled.coordinate_mean[0] == pytest.approx(xs.mean(), rel=1e-9)  # type: ignore[attr-defined]
    assert pooled.coordinate_deviation[0] == pytest.approx(xs.std(), rel=1e-9)  # type: ignore[attr-defined]


def test_one_file_with_a_client_column(study: Path, tmp_path: Path) -> None:
    parts = [anndata.read_h5ad(path) for path in sorted(study.glob("clients/*/*.h5ad"))]
    whole = anndata.concat([*parts, anndata.read_h5ad(study / "held_out.h5ad")])
    whole.write_h5ad(tmp_path / "study.h5ad")
    shutil.copytree(study / "reference", tmp_path / "reference")
    donors = sorted(set(whole.obs["donor_id"]))
    made = experiment(
        tmp_path / "study.h5ad", "options.client_key=donor_id", f"options.held_out_client={donors[0]}",
        "options.unit_key=library_key",
    )  # fmt: skip
    task = made.build_task()
    assert task.clients() == donors[1:]
    statistics = merge_statistics({client: task.statistics(client) for client in task.clients()})
    fitted = task.fit(statistics, statistics)
    assert monitored(made, task, fitted) == ("f1_macro", True)
    held_out = task.held_out(fitted)
    assert held_out is not None and len(held_out) == int((whole.obs["donor_id"] == donors[0]).sum())


def test_matched_genes_are_reported(study: Path) -> None:
    described = experiment(study).build_task().describe("hospital_north")
    assert described["genes"] == {"total": 120, "matched": 120, "translated": 114}
    assert sum(described["labels"].values()) == described["train"] + described["val"] + described["test"] == 120
