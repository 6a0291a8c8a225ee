"""New data: the network says of it what the run has stored of the same samples, and needs nothing but the run."""

import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from datasets.histology_tiles import tile_cache
from models.image_regressor import ImageRegressor
from tests.commands import refused
from tests.conftest import conduct
from tests.formula_weights import fill
from tests.trained_runs import CLIENT, ROOT, SHORT, SMALL, Runs, Studies, predict, runs, studies, trained
from training import checkpoints
from training.config import load
from training.runs import Run
from training.trained import open_trained

__all__ = ["runs", "studies"]

FIXTURES = ROOT / "tests" / "fixtures"
SETTINGS = ("centralized", "local", "federated")


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"sample": str}, keep_default_na=False).set_index("sample")


def stored(run: Path, model: str, name: str) -> dict[str, np.ndarray]:
    with np.load(run / "predictions" / f"{model}__{CLIENT[name]}.npz") as file:
        return {key: file[key] for key in file}


def without_targets(study: Path, name: str, samples: np.ndarray, folder: Path) -> Path:
    """Copy samples of a study, in their order, without what is to be predicted; give the input."""
    folder.mkdir(parents=True)
    if name == "nicheformer":
        cells = anndata.read_h5ad(study / "clients" / CLIENT[name] / "test.h5ad")
        assert cells.obs_names.tolist() == samples.tolist()
        del cells.obs["cell_type"]
        cells.write_h5ad(folder / "new.h5ad")
        return folder / "new.h5ad"
    if name == "vgg3d":
        for nucleus in {sample.partition("/")[0] for sample in samples.tolist()}:
            shutil.copytree(study / nucleus, folder / "new" / nucleus)
        return folder / "new"
    for path in samples.tolist():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(study / path, folder / path)
    pd.DataFrame({"path": samples}).to_csv(folder / "new.csv", index=False)
    return folder / "new.csv"


def assert_equal(written: pd.DataFrame, name: str, expected: dict[str, np.ndarray], fitted: dict[str, Any]) -> None:
    """Check a table against stored predictions, to the last bit."""
    assert written.index.tolist() == expected["sample"].tolist()
    if name == "image_expression":
        assert written.columns.tolist() == fitted["genes"]
        np.testing.assert_array_equal(written.to_numpy(np.float32), expected["predicted"])
        return
    classes = fitted["classes"]
    assert written.columns.tolist() == ["predicted", *(f"p_{label}" for label in classes)]
    assert written["predicted"].tolist() == [classes[number] for number in expected["predicted"].tolist()]
    np.testing.assert_array_equal(written.iloc[:, 1:].to_numpy(np.float32), expected["scores"])


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", SMALL)
def test_predictions_are_those_that_the_run_stored(
    name: str, setting: str, studies: Studies, runs: Runs, tmp_path: Path
) -> None:
    run = runs(name, setting)
    model = CLIENT[name] if setting == "local" else setting
    expected = stored(run, model, name)
    new = without_targets(studies(name), name, expected["sample"], tmp_path / "data")
    done = predict(run, new, "--out", tmp_path / "out", *(["--model", model] if setting == "local" else []))
    assert done.exit_code == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert Path(first) == tmp_path / "out" / "new" / "predictions.csv"
    member = f".{model}" if setting == "local" else ""
    fitted = json.loads((run / f"model_final{member}.json").read_text())
    assert_equal(table(Path(first)), name, expected, fitted)


def assert_equal_without(run: Path, name: str, new: Path, gone: list[Path], *, client: str) -> None:
    """Move a run, remove what it was trained with, and check that it still says the same."""
    with np.load(run / "predictions" / f"centralized__{client}.npz") as file:
        expected = {key: file[key] for key in file}
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run = run.rename(run.with_name("moved"))
    done = predict(run, new, "--out", run.parent / "out")
    assert done.exit_code == 0, done.stderr
    fitted = json.loads((run / "model_final.json").read_text())
    assert_equal(table(run.parent / "out" / "new" / "predictions.csv"), name, expected, fitted)


def weights_for(name: str, path: Path) -> list[str]:
    """Write frozen weights; give the options that start from them."""
    if name == "image_expression":
        network = ImageRegressor("tiny_cnn", 1)
        fill(network)
        torch.save(network.encoder.state_dict(), path)
        return [f"options.weights_path={path}", "options.freeze_encoder=true"]
    shutil.copy(FIXTURES / "vgg3d" / "adapter_tiny.pt", path)
    backbone = "options.backbone={fmaps: 2, fmap_inc: [2, 2, 2, 2], n_convolutions: [4, 2, 2, 2]}"
    return [backbone, f"options.checkpoint={path}", "options.freeze_features=true"]


@pytest.mark.parametrize("name", ["vgg3d", "image_expression"])
def test_neither_training_data_nor_pre_trained_weights_are_needed(name: str, studies: Studies, tmp_path: Path) -> None:
    study, start = tmp_path / "study", tmp_path / "start.pt"
    shutil.copytree(studies(name), study)
    # Frozen layers ran in blocks, the last of a single sample, whose last bits are others than in a batch of seven.
    overrides = [*weights_for(name, start), "train.batch_size=2"]
    run = trained(tmp_path / "run", study, name, "centralized", *overrides)
    new = without_targets(study, name, stored(run, "centralized", name)["sample"], tmp_path / "data")
    assert_equal_without(run, name, new, [study, start], client=CLIENT[name])


def test_cells_need_nothing_but_reference_files_beside_them(studies: Studies, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(studies("nicheformer"), study)
    run = trained(tmp_path / "run", study, "nicheformer", "centralized")
    client = CLIENT["nicheformer"]
    new = without_targets(study, "nicheformer", stored(run, "centralized", "nicheformer")["sample"], tmp_path / "data")
    (study / "reference").rename(tmp_path / "reference")
    refused(predict(run, new, "--out", tmp_path / "none"), "data/reference/model.h5ad: no such file; put NicheFormer's")
    shutil.copytree(tmp_path / "reference", new.parent / "reference")
    assert_equal_without(run, "nicheformer", new, [study], client=client)
    means = new.parent / "reference" / "xenium_mean_script.npy"
    np.save(means, np.load(means) + 1)
    line = refused(predict(tmp_path / "moved", new, "--out", tmp_path / "none"), f"{means.parent}: not the vocabulary")
    assert "xenium mean that the network was trained with" in line


def test_cells_need_no_published_checkpoint(tmp_path: Path) -> None:
    study, start = tmp_path / "study", tmp_path / "start.ckpt"
    shutil.copy(FIXTURES / "nicheformer" / "checkpoint.ckpt", start)
    cells = anndata.read_h5ad(FIXTURES / "nicheformer" / "cells.h5ad")
    for split in ("train", "val", "test"):
        part = cells.copy()
        part.obs_names = [f"{split}-{cell}" for cell in cells.obs_names]
        (study / "clients" / "a").mkdir(parents=True, exist_ok=True)
        part.write_h5ad(study / "clients" / "a" / f"{split}.h5ad")
    reference = tmp_path / "data" / "reference"
    reference.mkdir(parents=True)
    shutil.copy(FIXTURES / "nicheformer" / "vocabulary.h5ad", reference / "model.h5ad")
    means = np.load(FIXTURES / "nicheformer" / "tokenization.npz")["technology_mean_raw"]
    np.save(reference / "xenium_mean_script.npy", means)
    shutil.copytree(reference, study / "reference")
    part.write_h5ad(tmp_path / "data" / "new.h5ad")
    own = ["options.label=author_cell_type", "options.unit_key=null", "options.fine_tune_mode=head_only"]
    config = load(
        ROOT / "configs" / "nicheformer.yaml",
        [f"options.data={study}", "options.random_backbone=null", f"options.checkpoint={start}", *own, *SHORT],
    )
    run = Run.create(tmp_path / "run", config, "centralized")
    conduct(run)
    assert_equal_without(run.folder, "nicheformer", tmp_path / "data" / "new.h5ad", [study, start], client="a")


class TestInputs:
    """What a task takes as new data, besides what the tests above give it."""

    def test_cells_of_several_files(self, studies: Studies, runs: Runs, tmp_path: Path) -> None:
        (tmp_path / "cells").mkdir()
        for client in ("hospital_north", "hospital_south"):
            shutil.copy(
                studies("nicheformer") / "clients" / client / "test.h5ad", tmp_path / "cells" / f"{client}.h5ad"
            )
        files = sorted((tmp_path / "cells").iterdir())
        run = runs("nicheformer", "centralized")
        assert predict(run, tmp_path / "cells", *files, "--out", tmp_path / "out").exit_code == 0
        parts = [table(tmp_path / "out" / file.stem / "predictions.csv") for file in files]
        whole, joined = table(tmp_path / "out" / "cells" / "predictions.csv"), pd.concat(parts)
        assert whole.index.tolist() == joined.index.tolist()
        assert whole["predicted"].tolist() == joined["predicted"].tolist()
        np.testing.assert_allclose(whole.iloc[:, 1:].to_numpy(), joined.iloc[:, 1:].to_numpy(), atol=1e-6)

    def test_log_normalised_cells(self, studies: Studies, runs: Runs, tmp_path: Path) -> None:
        cells = anndata.read_h5ad(studies("nicheformer") / "held_out.h5ad")
        counts = cells.X.toarray().astype(np.float64)
        logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 10_000)
        frame = pd.DataFrame(logs, columns=cells.var_names)
        columns = ["specie", "assay", "modality", "x", "y"]
        frame = frame.assign(id=cells.obs_names, **{name: cells.obs[name].to_numpy() for name in columns})
        frame.to_parquet(tmp_path / "logs.parquet")
        (tmp_path / "genes.txt").write_text("\n".join(cells.var_names))
        inputs = (studies("nicheformer") / "held_out.h5ad", tmp_path / "logs.parquet")
        assert predict(runs("nicheformer", "centralized"), *inputs, "--out", tmp_path / "out").exit_code == 0
        raw, logged = (table(tmp_path / "out" / path.stem / "predictions.csv") for path in inputs)
        assert raw.index.tolist() == logged.index.tolist()
        # Genes of one cell that tie in their score may change places.
        np.testing.assert_allclose(raw.iloc[:, 1:].to_numpy(), logged.iloc[:, 1:].to_numpy(), atol=0.02)

    def test_one_nucleus_and_a_list_of_nuclei(self, studies: Studies, runs: Runs, tmp_path: Path) -> None:
        study, run = studies("vgg3d"), runs("vgg3d", "centralized")
        listed = study / "listed.csv"
        listed.write_text("sample_id,remark\n7,first\n0003,second\n")
        try:
            assert predict(run, study / "0003", listed, "--out", tmp_path).exit_code == 0
        finally:
            listed.unlink()
        alone, both = (table(tmp_path / name / "predictions.csv") for name in ("0003", "listed"))
        assert alone.index.tolist() == ["0003/z0y0x0", "0003/z0y0x1"]
        assert both.index.tolist() == [*alone.index, "0007/z0y0x0", "0007/z0y0x1"]
        np.testing.assert_allclose(alone.iloc[:, 1:].to_numpy(), both.iloc[:2, 1:].to_numpy(), atol=1e-6)

    def test_a_nucleus_is_the_mean_of_its_crops(self, studies: Studies, runs: Runs, tmp_path: Path) -> None:
        done = predict(runs("vgg3d", "centralized"), studies("vgg3d"), "--out", tmp_path)
        crops, nuclei = (table(Path(line)) for line in done.stdout.splitlines())
        scores = crops.iloc[:, 1:].astype(float)
        means = scores.groupby(scores.index.str.partition("/").get_level_values(0)).mean()
        assert nuclei.index.tolist() == means.index.tolist() == [f"{number:04d}" for number in range(1, 50)]
        assert set(nuclei["crops"]) == {2}
        np.testing.assert_allclose(nuclei.iloc[:, 2:].to_numpy(float), means.to_numpy(), rtol=1e-7)
        assert ("p_" + nuclei["predicted"]).tolist() == means.idxmax(axis=1).tolist()

    def test_one_image_and_a_folder_of_images(self, studies: Studies, runs: Runs, tmp_path: Path) -> None:
        tiles = studies("image_expression") / "tiles"
        (tmp_path / "some").mkdir()
        shutil.copytree(tiles / "hospital_east", tmp_path / "some" / "east")
        (tmp_path / "some" / "notes.txt").write_text("no image")
        files = sorted((tmp_path / "some" / "east").iterdir())
        run = runs("image_expression", "centralized")
        assert predict(run, tmp_path / "some", files[0], "--out", tmp_path / "out").exit_code == 0
        whole, one = (table(tmp_path / "out" / name / "predictions.csv") for name in ("some", files[0].stem))
        assert whole.index.tolist() == [f"east/{file.name}" for file in files]
        assert one.index.tolist() == [files[0].name]
        np.testing.assert_allclose(one.to_numpy(), whole.iloc[:1].to_numpy(), rtol=1e-5)

    @pytest.mark.parametrize("name", ["image_expression", "nicheformer"])
    def test_embeddings_are_what_the_head_sees(self, name: str, studies: Studies, runs: Runs, tmp_path: Path) -> None:
        run, study = runs(name, "centralized"), studies(name)
        new = study if name == "image_expression" else study / "held_out.h5ad"
        done = predict(run, new, "--out", tmp_path, "--embeddings")
        csv, npy = map(Path, done.stdout.splitlines())
        vectors, written = torch.from_numpy(np.load(npy)), table(csv)
        assert vectors.shape == (len(written), 64) and vectors.dtype == torch.float32
        state = checkpoints.load(run / "model_final.pt")["state"]
        fitted = json.loads((run / "model_final.json").read_text())
        if name == "image_expression":
            scaled = vectors @ state["head.weight"].T + state["head.bias"]
            expected = (scaled * torch.tensor(fitted["deviation"]) + torch.tensor(fitted["mean"])).numpy()
            np.testing.assert_allclose(written.to_numpy(), expected, rtol=1e-4, atol=1e-5)
            return
        obs = anndata.read_h5ad(new).obs[["x", "y"]].to_numpy(float)
        scaled = (obs - fitted["coordinate_mean"]) / np.asarray(fitted["coordinate_deviation"])
        places = torch.from_numpy(scaled).float() @ state["coordinate_head.weight"].T + state["coordinate_head.bias"]
        expected = ((vectors + places) @ state["linear_head.weight"].T).softmax(1).numpy()
        np.testing.assert_allclose(written.iloc[:, 1:].to_numpy(float), expected, atol=1e-5)


def test_answers_come_batch_by_batch(studies: Studies, runs: Runs) -> None:
    opened = open_trained(runs("image_expression", "centralized"))
    samples = opened.inputs(studies("image_expression"))
    tile_cache(16).clear()
    answers = opened.answers(samples)
    assert len(next(answers).names) == 7
    assert tile_cache(16).reads == 7 < len(samples)
