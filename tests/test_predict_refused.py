"""New data, runs and arguments that cannot be used: one line, exit code 2, and nothing written."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import anndata
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.commands import refused
from tests.commands import run as command
from tests.conftest import Go
from tests.trained_runs import Runs, Studies, predict, runs, studies
from training import checkpoints

__all__ = ["runs", "studies"]


def spoiled_cells(study: Path, path: Path, fault: str) -> Path:
    cells = anndata.read_h5ad(study / "held_out.h5ad")
    if fault == "panel":
        cells.var_names = [f"GENE{number}" for number in range(cells.n_vars)]
    elif fault == "column":
        del cells.obs["assay"]
    elif fault == "normalised":
        cells.X = cells.X.log1p()
    elif fault == "names":
        cells.obs_names = ["same", *cells.obs_names[1:-1], "same"]
    cells.write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("panel", "new.h5ad: var_names: 0 of 120 genes are in the vocabulary, 60 needed"),
        ("column", "new.h5ad: obs: no column 'assay', which the network was trained with; add it (there: "),
        ("normalised", "so these are not raw counts"),
        ("names", "new.h5ad: 2 samples are called same; give each a name of its own"),
    ],
)
def test_cells_that_do_not_fit_are_refused(fault: str, said: str, studies: Studies, runs: Runs, tmp_path: Path) -> None:
    new = spoiled_cells(studies("nicheformer"), tmp_path / "new.h5ad", fault)
    shutil.copytree(studies("nicheformer") / "reference", tmp_path / "reference")
    refused(predict(runs("nicheformer", "centralized"), new, "--out", tmp_path / "out"), said)
    assert not (tmp_path / "out").exists()


def check_lists(run: Path, folder: Path, lists: Mapping[str, str]) -> None:
    """Check that a CSV of samples in a folder with each text is refused, and what is said of it."""
    listed = folder / "listed.csv"
    for text, said in lists.items():
        listed.write_text(text)
        refused(predict(run, listed, "--out", folder.parent / "out"), "listed.csv: ", said)


def test_nuclei_that_do_not_fit_are_refused(runs: Runs, tmp_path: Path) -> None:
    run, out = runs("vgg3d", "centralized"), tmp_path / "out"
    (tmp_path / "some" / "7" / "raw").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "some" / "7" / "raw" / "0.tif", np.zeros((20, 20, 3), np.uint8), photometric="rgb")
    refused(predict(run, tmp_path / "some", "--out", out), "sample 0007: no folder mask/ in 7; add it, or leave this")
    (tmp_path / "some" / "7" / "mask").mkdir()
    refused(predict(run, tmp_path / "some", "--out", out), "raw/0.tif: 1 pages of shape (20, 20, 3); a slice is one")
    tifffile.imwrite(tmp_path / "some" / "7" / "raw" / "0.tif", np.zeros((20, 20), np.uint8))
    refused(predict(run, tmp_path / "some", "--out", out), "no mask slice for 0.tif")
    lists = {
        "nucleus\n7\n": "no column 'sample_id', only nucleus; add it",
        "sample_id\n7\n0007\n": "sample '0007' is listed twice (lines 2 and 3)",
        "sample_id\n8\n": "sample 0008: no folder; add it",
    }
    check_lists(run, tmp_path / "some", lists)
    shutil.rmtree(tmp_path / "some" / "7")
    refused(predict(run, tmp_path / "some", "--out", out), "some: holds no nucleus; give a folder with SAMPLE/raw")


def test_images_that_do_not_fit_are_refused(runs: Runs, tmp_path: Path) -> None:
    run, out, some = runs("image_expression", "centralized"), tmp_path / "out", tmp_path / "some"
    some.mkdir()
    (some / "notes.txt").write_text("no image")
    refused(predict(run, some, "--out", out), "some: holds no image (.png, ")
    refused(predict(run, some / "notes.txt", "--out", out), "notes.txt: not a readable image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(some / "a.png")
    refused(predict(run, some, "--out", out), "a.png: image mode I;16 has more than 8 bits a channel; convert it")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(some / "a.png")
    lists = {
        "file\na.png\n": "no column 'path'; it has file",
        "path\na.png\n./a.png\n": "row 2, line 3: path 'a.png' is that of row 1",
        "path\nb.png\n": "no such image file: ",
    }
    check_lists(run, some, lists)


def test_what_breaks_on_the_way_leaves_nothing_behind(runs: Runs, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(some / f"{number}.jpg")
    whole = (some / "8.jpg").read_bytes()
    (some / "8.jpg").write_bytes(whole[: len(whole) // 2])
    run, out = runs("image_expression", "centralized"), tmp_path / "out"
    refused(predict(run, some, "--out", out), "8.jpg: not a readable image (image file is truncated")
    assert not list(out.rglob("*"))
    other = some / "7.jpg"
    refused(predict(run, other, some, "--out", out), "8.jpg: not a readable image (image file is truncated")
    assert not list(out.rglob("*")), "of several inputs all are written or none"
    (some / "8.jpg").write_bytes(whole)
    done = predict(run, other, some, "--out", out)
    assert done.exit_code == 0
    named = {Path(line) for line in done.stdout.splitlines()}
    assert named == {out / name / "predictions.csv" for name in ("7", "some")} == set(out.rglob("*.*"))


INPUTS = {"nicheformer": "held_out.h5ad", "vgg3d": "0001", "image_expression": "tiles"}


@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        ("nicheformer", "vgg3d", "0001: holds no .h5ad or .parquet file"),
        ("nicheformer", "image_expression", "tiles: holds no .h5ad or .parquet file"),
        ("vgg3d", "nicheformer", "held_out.h5ad: not a CSV file"),
        ("vgg3d", "image_expression", "tiles: holds no nucleus"),
        ("image_expression", "nicheformer", "held_out.h5ad: image mode F has more than 8 bits"),
    ],
)
def test_data_of_another_task_is_refused(
    name: str,
    other: str,
    said: str,
    studies: Studies,
    runs: Runs,
    tmp_path: Path,
) -> None:
    refused(predict(runs(name, "centralized"), studies(other) / INPUTS[other], "--out", tmp_path), said)


class TestRun:
    """Run folders and arguments that cannot be used."""

    @pytest.fixture
    def images(self, studies: Studies) -> Path:
        return studies("image_expression") / "tiles" / "hospital_east"

    @pytest.fixture
    def run(self, runs: Runs, tmp_path: Path) -> Path:
        """A copy that a test may change."""
        return shutil.copytree(runs("image_expression", "centralized"), tmp_path / "run")

    def test_no_run_or_no_final_weights(self, run: Path, images: Path, tmp_path: Path) -> None:
        refused(predict(images, images, "--out", tmp_path / "out"), "no run folder, it holds no status.json")
        (run / "model_final.pt").unlink()
        refused(predict(run, images, "--out", tmp_path / "out"), "holds no model_final.pt, the run has not ended")

    def test_models(self, run: Path, runs: Runs, images: Path, tmp_path: Path) -> None:
        local, rest = runs("image_expression", "local"), (images, "--out", tmp_path / "out")
        refused(predict(local, *rest), "one model per client; choose with --model: hospital_north, hospital_south, ")
        refused(predict(local, *rest, "--model", "nobody"), "--model 'nobody': no such model; choose one of hospital_")
        refused(predict(run, *rest, "--model", "hospital_north"), "no such model; leave out --model")

    def test_files_that_were_changed(self, run: Path, images: Path, tmp_path: Path) -> None:
        fitted, weights = run / "model_final.json", run / "model_final.pt"
        content = json.loads(fitted.read_text())
        for change, said in (
            ({"genes": content["genes"][::-1]}, "model_final.pt: fingerprint "),
            ({"mean": content["mean"][1:]}, "model_final.pt: fingerprint "),
            ({"genes": 5}, "model_final.json: genes: Input should be a valid list"),
        ):
            fitted.write_text(json.dumps({**content, **change}))
            refused(predict(run, images, "--out", tmp_path / "out"), said)
        fitted.write_text(json.dumps(content))
        stored = checkpoints.load(weights)
        stored["state"]["head.bias"][0] += 1
        checkpoints.save(weights, stored)
        refused(predict(run, images, "--out", tmp_path / "out"), "model_final.pt: not the weights that the run has")
        torch.save({**stored, "extra": Path("object")}, weights)
        refused(predict(run, images, "--out", tmp_path / "out"), "refused, holds more than tensors and numbers")

    def test_inputs_and_outputs(self, run: Path, images: Path, tmp_path: Path) -> None:
        out = ("--out", tmp_path / "out")
        refused(predict(run, tmp_path / "nowhere", *out), "nowhere: no such file or folder; check the path")
        again = shutil.copytree(images, tmp_path / "again" / images.name)
        refused(predict(run, images, again, *out), f"{again}: a second input called hospital_east; predict it alone")
        assert predict(run, images, *out).exit_code == 0
        refused(predict(run, again, *out), "hospital_east: exists already; choose another --out")
        refused(predict(run, images, "--out", tmp_path / "b", "--device", "tpu"), "train.device = 'tpu': ")

    def test_a_task_without_embeddings(self, studies: Studies, runs: Runs, tmp_path: Path) -> None:
        done = predict(runs("vgg3d", "centralized"), studies("vgg3d") / "0001", "--out", tmp_path, "--embeddings")
        refused(done, "--embeddings: networks of this task give no vector per sample; leave it out")

    def test_parts_that_stayed_at_the_clients(self, go: Go, tmp_path: Path) -> None:
        whole, parted = go("federated"), go("federated", "options.personal_head=true")
        refused(predict(parted.folder, tmp_path, "--out", tmp_path / "out"), "stayed at the clients", "local run")
        refused(predict(whole.folder, tmp_path, "--out", tmp_path / "out"), "task Points: takes no new data")

    def test_help_and_missing_arguments(self, run: Path) -> None:
        said = " ".join(command("centralized", "predict", "--help").stdout.split())
        assert "--embeddings" in said and "the files of the task" in said and "docs/experiments.md" in said
        shown = command("centralized", "--help").stdout
        assert "predict" in shown and "train" in shown
        assert predict(run).exit_code == 2
