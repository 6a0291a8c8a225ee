"""Clients that hold their own files, and a server that holds only the held-out set or nothing: the same weights."""

import csv
import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from fl.client_app import app as client_app
from fl.inprocess import InProcessGrid
from fl.server import serve
from tests.conftest import Finished, conduct
from training.config import Experiment, load
from training.runs import Run

ROOT = Path(__file__).resolve().parent.parent
TABLES = {
    "vgg3d": ("classes.csv", "site", "sample_id"),
    "image_expression": ("metadata.csv", "site", "path"),
    "attention_unet": ("metadata.csv", "replicate", "unique_sample_id"),
}
"""Task -> the table of its study, the column that names the client, and that of a sample's file or folder."""
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem in TABLES)


def party(study: Path, folder: Path, task: str, client: str) -> Path:
    """Give one party a folder with its own rows, and the files that they name."""
    table, key, file = TABLES[task]
    with (study / table).open() as stream:
        rows = [row for row in csv.DictReader(stream) if row[key] == client]
    folder.mkdir()
    with (folder / table).open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        source = study / row[file]
        target = folder / source.relative_to(study)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    if (study / "genes.txt").exists():
        shutil.copy(study / "genes.txt", folder)
    return folder


def federate(folder: Path, experiment: Experiment, parties: list[Path]) -> Finished:
    """Federate with a node per party, each with a data folder of its own."""
    run = Run.create(folder, experiment, "federated")
    grid = InProcessGrid(client_app, len(parties))
    for context, data in zip(grid.contexts.values(), parties, strict=True):
        context.node_config["data"] = str(data)
    serve(run, grid, len(parties))
    return Finished(run.folder)


def units(run: Finished) -> dict[tuple[str, str], Any]:
    """Give what the manifest says of the units of each client and split."""
    clients = run.json("manifest")["clients"]
    return {(client, split): one["units"] for client, said in clients.items() for split, one in said["files"].items()}


@pytest.mark.parametrize("config", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_parties_with_their_own_files_reach_the_weights_of_the_simulation(config: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    importlib.import_module(f"datasets.synthetic.{config.stem}").make(study)
    short = ["federation.rounds=1", "federation.local_epochs=1"]
    simulated = Run.create(tmp_path / "simulated", load(config, [f"options.data={study}", *short]), "federated")
    conduct(simulated)
    clients = simulated.experiment.build_task().clients()
    parties = [party(study, tmp_path / name, config.stem, name) for name in clients]
    table, key, _ = TABLES[config.stem]
    with (study / table).open() as stream:
        (nobody,) = {row[key] for row in csv.DictReader(stream)} - set(clients)
    holding = party(study, tmp_path / "server", config.stem, nobody)
    (tmp_path / "empty").mkdir()
    for name, server in (("holding", holding), ("nothing", tmp_path / "empty")):
        run = federate(tmp_path / f"run-{name}", load(config, [f"options.data={server}", *short]), parties)
        assert run.hashes == Finished(simulated.folder).hashes
        done = (run, Finished(simulated.folder))
        rows = [{row["data"]: row for row in one.json("eval_summary")["rows"]} for one in done]
        assert ("held_out" in rows[0]) == (name == "holding")
        assert all(rows[1][data] == row for data, row in rows[0].items())
        own, shared = map(units, done)
        assert own == {place: len(names) for place, names in shared.items()}


@pytest.mark.parametrize("config", [path for path in CONFIGS if path.stem == "image_expression"])
def test_parties_with_other_genes_are_refused_by_name(config: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    importlib.import_module(f"datasets.synthetic.{config.stem}").make(study)
    experiment = load(config, [f"options.data={study}"])
    north, south = (party(study, tmp_path / name, config.stem, name) for name in experiment.build_task().clients()[:2])
    lines = [line.rpartition(",")[0] for line in (south / "metadata.csv").read_text().splitlines()]
    (south / "metadata.csv").write_text("\n".join(lines) + "\n")
    (south / "genes.txt").unlink()
    with pytest.raises(UserError, match=f"client {south.name}: its training data has other features than that of"):
        federate(tmp_path / "run", experiment, [north, south])


@pytest.mark.parametrize("config", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_held_out_client_that_is_nowhere_is_refused(config: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    importlib.import_module(f"datasets.synthetic.{config.stem}").make(study)
    table, key, _ = TABLES[config.stem]
    (study / table).write_text((study / table).read_text().replace("held_out", "institute_east"))
    experiment = load(config, [f"options.data={study}", "options.held_out_client=nobody"])
    with pytest.raises(UserError, match=rf"{key} is nowhere 'nobody', which options\.held_out_client names; choose"):
        conduct(Run.create(tmp_path / "run", experiment, "centralized"))
